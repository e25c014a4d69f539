"""Drawn models whose recurrences and convolutions run as kernels: any gate equations, in one piece and in many."""

import re
from pathlib import Path
from random import Random

import pytest

from archc.diagnostics import ArchError
from archc.elaborate import Program
from archc.fuse.convs import fused_convs
from archc.fuse.scans import fused_scans
from tests.fuse.complex_bodies import complex_body
from tests.parity import in_process, random_mixers, random_scans
from tests.parity.agreement import check_torch, checked
from tests.parity.random_bodies import Writer

CASE = Path(__file__).parents[3] / "parity" / "cases" / "numbers_handed_to_kernels.arch"
WITH_KERNELS = (random_scans.diagonal, random_scans.selective, random_scans.matrix, random_scans.convolution)
AROUND = (random_mixers.element_wise, random_mixers.activation)


def drawn(seed: int) -> Program:
    """The first well-typed model with a live kernel of the seeds `seed`, `seed + 1_000`, ..."""
    while True:
        rng = Random(seed)
        writer = Writer(rng, {"width": 4}, "mixer")
        for mixer in (rng.choice(AROUND), rng.choice(WITH_KERNELS), rng.choice(AROUND)):
            mixer(writer)
        text, arguments = writer.finish(("width",))
        lines = [
            "model drawn(width = 4, depth = 1, vocab = 11) {",
            f"    block mix {{ x = x + mixer({', '.join(['rms_norm(x)', *arguments])}) }}",
            "    x = E[vocab width](tokens)",
            "    x = stack(x, depth, [mix])",
            "    logits = x @ E[width -> vocab]",
            "    tied E",
            "}",
        ]
        try:
            program = checked("\n".join([*lines, *writer.functions, text, ""]))
            if any(v.op in ("conv", "scan") for region, _ in program.graph.regions() for v in region.live):
                return program
        except ArchError:
            pass
        seed += 1_000


NEXT = "\n    "
DECAYS = (
    "exp(-dt * exp(A[heads_]))", "exp(-dt * (1 + r ^ 2))", "sigmoid(r + b[heads_])", "sigmoid(r + b[heads_]) ^ 0.25",
    "1 - 0.5 / (1 + dt)", "0.9",
)  # fmt: skip
FACTORS = ("dt * ", "sigmoid(i) * ", "dt * sigmoid(i) / 2 * ", "where(pos == 0, 1, dt) * ", "")
VALUES = ("u", "silu(u)", "u * sigmoid(z)", "tanh(u + c[heads_ value])", "(u - z * i)", "u / (1 + u ^ 2)")
ENDS = ("y + D[heads_] * u", "(y + D[heads_] * u) * silu(z)", "y / (abs(i) + 1)", "tanh(y + g[value]) * z", "y * dt")
DIVIDED = (
    "y / n", "y / (n + 1e-6) * silu(z)", "(y + D[heads_] * u) / (1 + n)", "tanh(y / n) * n", "y * i / (dt + n)",
    "y / max(n, 1) + g[value]",
)  # fmt: skip
SOURCES = {
    "u": "x @ W_u[heads_ value]",
    "z": "x @ W_z[heads_ value]",
    "r": "x @ W_r[heads_]",
    "i": "x @ W_i[heads_]",
    "dt": "fp32(softplus(r))",
}


def gated_outer(seed: int, normalised: bool = False) -> Program:
    """A scan of outer products with drawn equations in front of it and behind it, which may divide by sums of keys."""
    choose = Random(seed).choice
    heads = choose(("groups heads", "heads", "groups"))
    of_keys = choose(("groups", heads) if "groups" in heads else ("", heads))
    decay, factor, value = choose(DECAYS), choose(FACTORS), choose(VALUES)
    entering = f"k * ({factor}{value})" if normalised else f"{factor}k * {value}"
    lines = [f"a = {decay}", f"h = scan(decay = a, input = {entering})", "y = dot(h, q, over = key)"]
    lines += ["s = scan(decay = a, input = k)", "n = dot(s, q, over = key)"] if normalised else []
    lines.append(f"return ({choose(DIVIDED if normalised else ENDS)}) @ W_o[heads_ value -> width]")
    for name in reversed(SOURCES):
        if re.search(rf"\b{name}\b", "".join(lines)):
            lines.insert(0, f"{name} = {SOURCES[name]}")
    lines = [f"{name} = {'exp' if normalised else ''}(x @ W_{name}[{of_keys} key])" for name in "kq"] + lines
    return _outer(heads, lines)


KEY_DECAYS = (
    "exp(-exp(A[heads_ key] + r))", "sigmoid(r + b[heads_ key]) ^ 0.25", "0.5 + 0.5 * sigmoid(r)",
    "exp(-dt * (1 + r ^ 2))",
)  # fmt: skip
KEYS = ("k", "1 - sigmoid(r)", "silu(k) * sigmoid(i)", "k * exp(-abs(r)) / 2", "where(pos == 0, k, k * dt)")
QUERIES = ("q / sqrt(key)", "silu(q)", "q * silu(k)", "q + m[queries_ key] * k")
READS = (
    "dot(h, {}, over = key)", "dot(prev(h), {}, over = key)", "dot(prev(h) + B[heads_ key] * s * v, {}, over = key)",
    "dot(prev(h) + dt * s * v, {}, over = key)",
)  # fmt: skip
KEY_SOURCES = SOURCES | {
    "k": "x @ W_k[queries_ key]",
    "q": "x @ W_q[queries_ key]",
    "r": "x @ W_r[heads_ key]",
    "dt": "fp32(softplus(x @ W_dt[heads_]))",
}


def gated_keys(seed: int) -> Program:
    """The same with a decay per key, and queries that are drawn, too; what is read may be the state before."""
    choose = Random(seed).choice
    heads = choose(("groups heads", "heads"))
    of_queries = heads.split()[0]
    lines = [f"s = {choose(KEYS)}", f"v = {choose(VALUES)}"]
    lines += [f"h = scan(decay = {choose(KEY_DECAYS)}, input = {choose(('', 'dt * '))}s * v)"]
    lines += [f"y = {choose(READS).format(choose(QUERIES))}", f"return ({choose(ENDS)}) @ W_o[heads_ value -> width]"]
    for name in ("dt", "i", "r", "z", "u", "q", "k"):
        if re.search(rf"\b{name}\b", " ".join(lines)):
            lines.insert(0, f"{name} = {KEY_SOURCES[name]}")
    return _outer(heads, [line.replace("queries_", of_queries) for line in lines])


BEHIND = (
    "gelu(c)", "gelu_tanh(c + b[side inner])", "relu(c) ^ 2", "tanh(c * b[inner]) * s[side]", "sigmoid(c) * g",
    "softplus(c + b[side inner]) - g", "silu(g) * gelu(c + b[side inner])", "where(c > 0, c, g * c) / (1 + g ^ 2)",
    "c / (1 + abs(c)) + 0.5", "snake(c)", "g - squared(c)", "exp(-(c ^ 2)) * s[inner] + g",
    "max(c, g) * (1 + s[side] * c)",
)  # fmt: skip


CALLED = {
    "snake": "fn snake(x[side inner]) {\n    a = alpha[side inner]\n    return x + sin(a * x) ^ 2 / a\n}\n",
    "squared": "fn squared(x[side inner]) { return relu(x) ^ 2 }\n",
}
"""Functions that equations behind convolutions call, one of them with a weight (Ziyin et al. 2020)."""


def behind_convolutions(seed: int) -> Program:
    """Two convolutions over two axes with drawn equations behind them, which meet in a product of the later one."""
    first, second = Random(seed).sample(BEHIND, 2)
    shift = Random(seed).random()
    text = f"""
model drawn(width = 4, depth = 1, vocab = 11, side = 2, inner = 3, taps = 3) {{
    block mix {{ x = x + mixer(rms_norm(x), side, inner, taps) }}
    x = E[vocab width](tokens)
    x = stack(x, depth, [mix])
    logits = x @ E[width -> vocab]
    tied E
}}
fn mixer(x[width], side, inner, taps) {{
    g = x @ W_g[side inner]
    c = conv(x @ W_c[side inner], w[taps inner side])
    one = {first}
    c = conv(x @ W_d[side inner], v[taps side inner])
    two = {second.replace("b[", "d[").replace("s[", "e[")}
    return ((one - {shift:.3f}) * two) @ W_o[side inner -> width] + g @ W_p[side inner -> width]
}}
"""
    called = [fn for name, fn in CALLED.items() if name in first + second]
    return checked("\n".join([text, *called]))


def _outer(heads: str, lines: list[str]) -> Program:
    """A model with these lines as its mixer."""
    axes = ", ".join([*heads.split(), "key", "value"])
    text = f"""
model drawn(width = 4, depth = 1, vocab = 11, {axes.replace(",", " = 2,")} = 5) {{
    block mix {{ x = x + mixer(rms_norm(x), {axes}) }}
    x = E[vocab width](tokens)
    x = stack(x, depth, [mix])
    logits = x @ E[width -> vocab]
    tied E
}}
fn mixer(x[width], {axes}) {{
    {NEXT.join(lines)}
}}
"""
    return checked(text.replace("heads_", heads))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that the emitted model has started."""
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(in_process._kernels("torch")["kernels.operators"], "INTERPRETED", True)
    started: list[str] = []
    start = GridExecutor.__call__

    def noted(executor: GridExecutor, *args: object, **kwargs: object) -> None:
        started.append(executor.fn.__name__)
        start(executor, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", noted)
    return started


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_recurrence_means_the_same_as_kernels(seed: int, launches: list[str]) -> None:
    program = drawn(seed)
    check_torch(program)
    assert any("backward" in name for name in launches)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of quotients of what is masked
@pytest.mark.parametrize("seed", [0, 3, 20])
def test_drawn_equations_behind_convolutions_mean_the_same_in_their_kernels(seed: int, launches: list[str]) -> None:
    program = behind_convolutions(seed)
    one, two = fused_convs(program.graph).values()
    assert one.activation is not None
    assert two.activation is not None
    check_torch(program)
    assert {"conv_forward", "conv_backward"} <= set(launches)


def test_numbers_are_handed_to_kernels(launches: list[str]) -> None:
    check_torch(checked(CASE.read_text("utf-8")))
    both = {f"{kind}_{way}" for kind in ("scan", "selective") for way in ("forward", "backward")}
    assert both == set(launches)


@pytest.mark.parametrize("seed", [1, 13, 15])
def test_drawn_equations_around_outer_products_mean_the_same_in_one_kernel(seed: int, launches: list[str]) -> None:
    program = gated_outer(seed)
    (found,) = fused_scans(program.graph).values()
    assert found.gates is not None, found.reason
    check_torch(program)
    assert "chunked_backward_keys" in launches


@pytest.mark.parametrize("seed", [3, 8])
def test_drawn_equations_around_a_decay_per_key_mean_the_same_in_one_kernel(seed: int, launches: list[str]) -> None:
    program = gated_keys(seed)
    (found,) = fused_scans(program.graph).values()
    assert found.gates is not None, found.reason
    check_torch(program)
    assert "chunked_key_backward_keys" in launches


@pytest.mark.parametrize("seed", [0, 11])
def test_drawn_equations_that_divide_by_sums_of_keys_mean_the_same_in_one_kernel(
    seed: int, launches: list[str]
) -> None:
    program = gated_outer(seed, normalised=True)
    found = next(iter(fused_scans(program.graph).values()))
    assert found.normaliser is not None, found.reason
    check_torch(program)
    assert not {"scan_forward", "scan_backward"} & set(launches)
    assert "chunked_backward_keys" in launches


def complex_state(seed: int) -> Program:
    """A scan of a complex state with drawn equations."""
    body = complex_body(seed).replace("\n", NEXT)
    return checked(f"""
model drawn(width = 4, depth = 1, vocab = 11) {{
    block mix {{ x = x + mixer(rms_norm(x)) }}
    x = E[vocab width](tokens)
    x = stack(x, depth, [mix])
    logits = x @ E[width -> vocab]
    tied E
}}
fn mixer(x[width]) {{
    {body}
}}
""")


@pytest.mark.filterwarnings("ignore:divide by zero")  # of a root at 0, whose slope is then not taken
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_drawn_complex_equations_mean_the_same_in_one_kernel(seed: int, launches: list[str]) -> None:
    program = complex_state(seed)
    (found,) = fused_scans(program.graph).values()
    assert found.is_complex
    assert found.gates is not None, found.reason
    check_torch(program)
    assert "complex_backward" in launches
