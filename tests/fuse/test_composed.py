"""Which sums over keys have composed heads, what becomes of their pairs, and the derivatives of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archc.backends.flax import gates as flax_gates
from archc.backends.torch import gates as torch_gates

from archc.emit.mixes import Mix, Mixes, work
from archc.fuse.composed import Composition, compositions
from archc.fuse.mixing import Handed
from archc.ir.graph import Axis, Graph, Kind, Value
from archc.reference.frame import Array, Frame
from tests.fuse.compositions import KINDS, body, drawn
from tests.fuse.dense import planes, weight_planes
from tests.fuse.evaluation import POS, run
from tests.fuse.test_printers import Worker, kernel_file

NAMES = (*(name for name in KINDS if not name.startswith("two")), *(f"drawn {seed}" for seed in range(6)))


def spec(name: str) -> tuple[str, str]:
    """A body and the fns that it calls."""
    return drawn(int(name.split()[1])) if name.startswith("drawn") else KINDS[name]


def only(graph: Graph) -> Composition:
    (found,) = compositions(graph).values()
    assert isinstance(found, Composition), found
    return found


def mixes(found: Composition) -> Iterator[Mix]:
    """The compositions, tokens before weights."""
    for where, mixing in (("before", found.before), ("after", found.after)):
        if mixing is not None:
            handed = tuple(sorted(mixing.handed, key=lambda h: not h.side))
            yield Mix(where, mixing, handed, work(mixing))  # type: ignore[arg-type]


# --- which -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dcformer", "dcpythia"])
def test_heads_that_specs_compose(tiny: Callable[[str], Graph], name: str) -> None:
    found = compositions(tiny(name)).values()
    assert {f.window for f in found if isinstance(f, Composition)} == {None, 32 if name == "dcformer" else 8}
    for each in found:
        assert isinstance(each, Composition)
        assert (each.query.label, each.key.label, each.value.label) == ("q", "k", "v")
        assert each.start.op == "div"
        for mixing in (each.before, each.after):
            assert mixing is not None
            assert [(h.name, h.side, h.planes) for h in mixing.handed] == [
                ("q1", "queries", ("rank",)), ("q2", "queries", ("rank",)), ("k1", "keys", ("rank",)),
                ("k2", "keys", ("rank",)), ("qg", "queries", ()), ("kg", "keys", ()),
            ]  # fmt: skip


ALONE = """    k = x @ W_k[dim = 3]
    p = softmax(dot(queries(x @ W_q[dim]), keys(k), over = dim), over = keys, where = causal)
    return dot(p * keys(sigmoid(x @ w_g[])), keys(x @ W_v[value = 2]), over = keys) @ W_o[value -> width]
"""
WIDE = "    u = x @ W_u[rank = 65 heads]\n"
ADDS = "the composition adds something to the pairs that is not made of them"
UNWEIGHED = "it sums something over heads that is not a multiple of what differs by head"
SOFTMAX = "p = softmax(s, over = keys, where = causal)"
MIXED = body(after="p @ W[heads -> heads']")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (body("s * b[heads]", mask="dilated(2, 3)"), "its mask is neither causal nor a window"),
        (body("s * b[heads]", mask="causal and window(3)"), "its mask is made of several"),
        (body("s + b[heads]"), ADDS),
        (body("s + queries(x @ W_g[heads])"), ADDS),
        (body("exp(s)"), ADDS),
        (body(after="p * keys(pos)"), "'pos' is made of positions"),
        (
            body("s + dot(s, queries(u), over = heads) @ R[rank -> heads]", lines=WIDE),
            "the axis 'rank' of 65 would be unrolled",
        ),
        (body("s * sum(tanh(s) + 1, over = heads)"), UNWEIGHED),
        (body("s * max(s, over = heads)"), "'reduce' of pairs is no operation on pairs one by one"),
        (body("s * softmax(s, over = heads)"), "'softmax' of pairs is no operation on pairs one by one"),
        (body(after="p - softmax(2 * s, over = keys, where = causal)"), "it has more than one softmax over keys"),
        (body("s * dot(queries(k), keys(q), over = dim)"), "it has more than one product of queries and keys"),
        (MIXED.replace(SOFTMAX, "p = where(causal, s, 0)"), "it has no softmax over keys"),
        (ALONE, "it has no axis of heads"),
        (
            MIXED.replace("-> heads'", "-> mixed = 4").replace("heads dim ->", "mixed dim ->").replace(
                "W_v[heads = 3", "W_v[mixed = 4"
            ),
            "the number of heads changes",
        ),
        (
            body("queries(x @ W_s[group kv]) * s", heads="kv = 2 group = 3"),
            "the axes of its heads change their order",
        ),
        (body("s * b[kv]", heads="kv = 2 group = 3"), "'b' has some of the axes of the heads only"),
        (body("s + s @ W[kv -> kv']", heads="kv = 2 group = 3"), "'W' mixes some of the axes of the heads only"),
        (
            body("s * dot(s, queries(x @ W_s[kv group]), over = kv)", heads="kv = 2 group = 3"),
            "it sums over some of the axes of the heads only",
        ),
        (body("dot(s, queries(x @ W_s[heads to = 3]), over = heads) @ R[to -> heads]"), ""),
        (body(after="where(p > 0.5, 1, 0) * p * 2"), ""),
    ],
)  # fmt: skip
def test_what_is_of_the_class_and_why_the_rest_is_not(mixer: Callable[..., Graph], text: str, reason: str) -> None:
    (found,) = compositions(mixer(text)).values()
    assert isinstance(found, str) == bool(reason), found
    assert not isinstance(found, str) or found.startswith(reason)


def test_plain_attention_is_left_to_its_kernel(mixer: Callable[..., Graph]) -> None:
    assert compositions(mixer(body())) == {}


# --- equations ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """What a composition is handed, [heads, queries, keys] and planes, what it gives, and a derivative by that."""

    a: Array
    qs: tuple[Array, ...]
    ks: tuple[Array, ...]
    ws: tuple[Array, ...]
    wanted: Array
    d: Array

    def filled(self, heads: int) -> Tile:
        """With heads that are there to fill it up, in which everything is 0."""

        def fill(x: Array) -> Array:
            more = heads - len(self.a)
            widths = [(0, more if x.shape[0] > 1 else 0), *((0, more if x.ndim == 2 else 0) for _ in x.shape[1:])]
            return np.pad(x, widths)

        planes = (tuple(map(fill, group)) for group in (self.qs, self.ks, self.ws))
        return Tile(fill(self.a), *planes, fill(self.wanted), fill(self.d))


def tile(frame: Frame, mix: Mix, source: Value, target: Value, tokens: slice) -> Tile:
    """Some tokens of the second sequence, as the reference has them."""

    def pairs(value: Value) -> Array:
        array = np.broadcast_to(
            frame.values[value], (*(2, POS.shape[1], POS.shape[1]), *(a.size for a in value.type.axes))
        )
        return np.moveaxis(array[1, tokens, tokens].astype(np.float64), (0, 1), (-2, -1)).reshape(-1, SIZE, SIZE)

    groups: dict[str, list[Array]] = {"queries": [], "keys": [], "": []}
    for each in mix.handed:
        array = by_heads(frame, each, mix.mixing.heads).astype(np.float64)
        if each.side:
            whole = np.broadcast_to(array, (2, POS.shape[1], *array.shape[2:]))[1, tokens]
            found = planes(jnp.asarray(whole), each.side[0])
        else:
            found = weight_planes(jnp.asarray(array), "m" if each.made else "p")
        groups[each.side] += [np.asarray(x) for x in found]
    a, wanted = pairs(source), pairs(target)
    return Tile(a, *map(tuple, groups.values()), wanted, np.random.default_rng(4).normal(size=a.shape))


SIZE = 8


def by_heads(frame: Frame, handed: Handed, heads: tuple[Axis, ...]) -> Array:
    """A token or weight as [*lead, *planes, heads or 1], or a matrix."""
    value, lead = handed.value, 2 if handed.side else 0
    places = [sorted(group, key=lambda h: h[1]) for group in (handed.heads, handed.made)]
    names = [*handed.planes, *(n for group in places for n, _ in group)]
    array = np.asarray(frame.values[value])
    array = np.transpose(array, [*range(lead), *(lead + value.names.index(n) for n in names)])
    before = array.shape[: lead + len(handed.planes)]
    if handed.made or not handed.heads:
        return array.reshape(*before, *([prod(a.size for a in heads)] * 2 if handed.made else [1]))
    mine = {place for _, place in handed.heads}
    array = array.reshape(*before, *(a.size if i in mine else 1 for i, a in enumerate(heads)))
    return np.broadcast_to(array, (*before, *(a.size for a in heads))).reshape(*before, -1)


def tiles(graph: Graph) -> Iterator[tuple[Mix, Tile]]:
    """Every composition with a tile of the reference's values."""
    found, frame = only(graph), run(graph)
    ends = {"before": (found.start, found.softmax.operands[0])}
    ends["after"] = (found.softmax, next(v for v in found.output.operands if v.kind is Kind.PAIR and v.op != "keys"))
    for mix in mixes(found):
        yield mix, tile(frame, mix, *ends[mix.place], slice(1, 1 + SIZE))


def close(found: Any, wanted: Any) -> None:
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-10)


def in_jax(mix: Mix) -> tuple[Any, Any]:
    """The two functions of a composition."""
    place: dict[str, Any] = {}
    mixes = Mixes(mix if mix.place == "before" else None, mix if mix.place == "after" else None)
    exec(kernel_file("flax", "device") + "\n\n" + flax_gates.mix_texts("g", mixes), place)
    return place[f"g_{mix.place}"], place[f"g_{mix.place}_grad"]


@pytest.mark.parametrize("name", NAMES)
def test_equations_are_the_pairs_of_the_reference_and_gradients_those_of_jax(
    mixer: Callable[..., Graph], name: str
) -> None:
    with jax.enable_x64(True):
        for mix, given in tiles(mixer(*spec(name))):
            function, grad = in_jax(mix)
            arguments = jax.tree.map(jnp.asarray, (given.a, given.qs, given.ks, given.ws))
            found, back = jax.vjp(function, *arguments)
            close(found, given.wanted)
            close(grad(*arguments, jnp.asarray(given.d)), back(jnp.asarray(given.d)))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("triton"))
    yield worker
    worker.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_of_triton_are_those_of_jax(mixer: Callable[..., Graph], worker: Worker, name: str) -> None:
    head = "import triton\nimport triton.language as tl\nfrom kernels.device import *\n\n\n"
    with jax.enable_x64(True):
        for mix, given in tiles(mixer(*spec(name))):
            whole = given.filled(16 if "m" in mix.shapes else 8 if len(given.a) > 4 else 4)
            groups = {"q": whole.qs, "k": whole.ks, "w": whole.ws}
            arrays = {f"{key}{i:02}": x for key, group in groups.items() for i, x in enumerate(group)}
            text = torch_gates.device_mixes("g", Mixes(replace(mix, place="before"), None))
            found = worker(head + text, {**arrays, "a": whole.a, "d": whole.d})
            function, grad = in_jax(mix)
            arguments = jax.tree.map(jnp.asarray, (whole.a, whole.qs, whole.ks, whole.ws))
            da, *planes = grad(*arguments, jnp.asarray(whole.d))
            close(found["out"], function(*arguments))
            close(found["out"], whole.wanted)
            close(found["da"], da)
            for key, group in zip("qkw", planes, strict=True):
                close([found[f"d{key}{i:02}"] for i in range(len(group))], list(group))


def test_a_composition_reads_like_a_spec(tiny: Callable[[str], Graph]) -> None:
    found = [f for f in compositions(tiny("dcformer")).values() if isinstance(f, Composition)]
    text = torch_gates.device_mixes("attention", Mixes(next(mixes(found[0])), None))
    assert text.split("\n\n\n")[0] == COMPOSE
    assert torch_gates.device_names(text) == ["over_pairs", "plane"]


COMPOSE = '''@triton.jit
def attention_before(a, qs, ks, ws):
    """The scores [heads] with their heads composed.

    a: pairs. qs: q1, q2 [rank heads], qg [heads]. ks: k1, k2 [rank heads], kg [heads].
    """
    q1_0 = plane(qs[0], a)
    a_q1_0 = tl.sum(a * q1_0, 0, keep_dims=True)
    q2_0 = plane(qs[2], a)
    q1_1 = plane(qs[1], a)
    a_q1_1 = tl.sum(a * q1_1, 0, keep_dims=True)
    q2_1 = plane(qs[3], a)
    k1_0 = plane(ks[0], a)
    a_k1_0 = tl.sum(a * k1_0, 0, keep_dims=True)
    k2_0 = plane(ks[2], a)
    k1_1 = plane(ks[1], a)
    a_k1_1 = tl.sum(a * k1_1, 0, keep_dims=True)
    k2_1 = plane(ks[3], a)
    qg = plane(qs[4], a)
    kg = plane(ks[4], a)
    s = a + (a_q1_0 * q2_0 + a_q1_1 * q2_1) + (a_k1_0 * k2_0 + a_k1_1 * k2_1) + a * qg + a * kg
    return s
'''.rstrip()
