"""The equations around a fused scan as functions: of whole tensors for any machine, of tiles for Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archc.backends.torch.dialect import TorchDialect

from archc.emit.code import Code, call, infix
from archc.emit.docstrings import Doc, described, described_activation
from archc.emit.equations import called_in, function, logic, may_be_flat, row, statements, unpacked
from archc.emit.mixes import Mixes, Tiles, mix_functions
from archc.fuse.convs import FusedConv
from archc.fuse.dag import Equations, exponentials, half, rebuilt
from archc.fuse.fused_scan import OUTER, FusedScan
from archc.fuse.planes import KEYS, PLACES, QUERIES, SUMS, ZEROS
from archc.ops.node import Node

DEVICE = (
    "at_least", "at_most", "expm1", "expm1_from", "gelu", "gelu_tanh", "inv_softplus", "log1p", "power", "sign", "silu",
    "softplus", "tanh", "mix_heads", "unmix_heads", "mix_heads_matrix", "over_pairs", "plane",
)  # fmt: skip
"""The functions of `kernels/device.py`."""
BUILTIN = ("abs", "cos", "erf", "exp", "log", "rsqrt", "sigmoid", "sin", "sqrt", "where")
"""What Triton calls as the spec does."""
AXES = {QUERIES: "QUERIES", KEYS: "KEYS"}
"""Of tiles of pairs, whose kernels have their own order of them."""
TILES = Tiles("@triton.jit", tuple(f"{name}: tl.constexpr" for name in AXES.values()), "plane")
OWN = ("fp32", "inv_softplus", "power", "root")
"""The functions of `kernels/numerics.py` that equations call."""
RESERVED = ("torch", "F", *OWN, "map", "triton", "tl", "xs", "ws", *DEVICE)


def plain_functions(name: str, fused: FusedScan) -> str:
    """The equations on whole tensors, under autograd: `name(*x, *w, *n, first) -> (a, u)`; a selective scan has
    `(dt, v)`, one of outer products `(log_a, v)`, with a decay per key `(log_a, k, v, q)` and the keys of a bonus; n
    are numbers.

    If something is fused behind the read-out, also `name_out(read, *x, *w, *n) -> o`. Tensors are [B, T, *axes] and
    [*axes], or what broadcasts to that; everything is computed in at least single precision, as in the kernel. The
    text needs `torch`, `F` and what it calls of `OWN`.
    """
    gates, out = _equations(fused)
    spread = fused.kind not in OUTER and not fused.is_complex
    texts = [_plain(name, gates, described(fused, "gates"), after=("first",), spread=spread)]
    if out is not None:
        texts.append(_plain(f"{name}_out", out, described(fused, "out"), before=fused.read, spread=spread))
    return "\n\n".join(texts)


def plain_activation(name: str, fused: FusedConv) -> str:
    """What follows a convolution on whole tensors, under autograd: `name(total, *x, *w, *n) -> o`; see above."""
    assert fused.activation is not None
    return _plain(name, fused.activation, described_activation(fused), before=("total",))


def device_activation(name: str, fused: FusedConv) -> str:
    """The same and its derivatives on tiles, as Triton functions.

    `name_device(total, xs, ws) -> o` and `name_grad(total, xs, ws, do) -> (d_total, dx, dw)`; see below.
    """
    assert fused.activation is not None
    assert fused.gradient is not None
    doc, derived = described_activation(fused), described_activation(fused, derived=True)
    texts = [
        _device(f"{name}_device", fused.activation, ("total", "xs", "ws"), doc),
        _device(f"{name}_grad", fused.gradient, ("total", "xs", "ws", "do"), derived, derived=True),
    ]
    return "\n\n".join(texts)


def device_functions(name: str, fused: FusedScan) -> str:
    """The equations and their derivatives on tiles, as Triton functions that a kernel calls.

    `name_device(xs, ws, first) -> (a, u)` and `name_grad(xs, ws, first, da, du) -> (dx, dw)`; for a selective scan
    (dt, v), for one of outer products (log_a, v), and if something is fused behind the read-out
    `name_out_device(read, xs, ws) -> o` and `name_out_grad(read, xs, ws, do) -> (d_read, dx, dw)`. xs, ws, dx, dw are
    tuples of tiles in the order of `fused.inputs` and `fused.weights`; behind the weights ws has `fused.numbers`. The
    text needs `triton`, `tl` and what `device_names` finds in it.
    """
    gates, out = _equations(fused)
    gates_grad, out_grad = fused.gates_grad, fused.out_grad
    assert gates_grad is not None
    seeds = [f"d{n}" for n in fused.outputs]

    def one(part: str, equations: Equations, params: tuple[str, ...], doc: Doc) -> str:
        derived, spread = doc.endswith("grad"), fused.kind not in OUTER
        return _device(f"{name}_{part}", equations, params, described(fused, doc), derived=derived, spread=spread)

    texts = [
        one("device", gates, ("xs", "ws", "first"), "gates"),
        one("grad", gates_grad, ("xs", "ws", "first", *seeds), "gates grad"),
    ]
    if out is not None and out_grad is not None:
        texts += [
            one("out_device", out, (*fused.read, "xs", "ws"), "out"),
            one("out_grad", out_grad, (*fused.read, "xs", "ws", *fused.do), "out grad"),
        ]
    return "\n\n".join(texts)


def device_mixes(name: str, mixes: Mixes) -> str:
    """Compositions of heads and their derivatives on tiles, as Triton functions: see `archc.emit.mixes`.

    The text needs `triton`, `tl` and what `device_names` finds in it.
    """
    return mix_functions(name, mixes, _say_device, (*RESERVED, *AXES.values()), TILES)


def device_names(text: str) -> list[str]:
    """The functions of kernels/device.py that a text of device functions calls."""
    return called_in(text, DEVICE)


def _equations(fused: FusedScan) -> tuple[Equations, Equations | None]:
    assert fused.gates is not None, fused.reason
    return fused.gates, fused.out


# --- whole tensors -----------------------------------------------------------------------------------


def _plain(
    name: str,
    equations: Equations,
    doc: Sequence[str],
    *,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    spread: bool = True,
) -> str:
    said = statements(equations, _say_plain, _plain_zeros, RESERVED, spread=spread)
    read = [n for n in (*before, *said.x, *said.w) if n != "_"]
    wide = f"{read[0]} = fp32({read[0]})" if len(read) == 1 else f"{', '.join(read)} = map(fp32, {row(read)})"
    return function(name, [*before, *said.parameters, *after], doc, [wide, *said.lines], said.result())


_TORCH = TorchDialect()


def _plain_zeros(x: str) -> Code:
    return call("torch.zeros_like", x)


def _say_plain(op: str, args: Sequence[Code]) -> Code:
    """The expression of an op on tensors."""
    match op:
        case "where":
            return call("torch.where", *args)
        case "minimum" | "maximum":
            return _TORCH.two(op, *args)
        case "pow":
            return call("power", *args) if may_be_flat(args[1]) else infix("**", *args)
        case "sqrt":
            return call("root", *args)
    return logic(op, args) or _TORCH.function(op, args[0])


# --- tiles -------------------------------------------------------------------------------------------


def _device(
    name: str,
    equations: Equations,
    params: Sequence[str],
    doc: Sequence[str],
    *,
    derived: bool = False,
    spread: bool = True,
) -> str:
    said = statements(_from_exponentials(equations), _say_device, _device_zeros, RESERVED, spread=spread)
    lines = [*unpacked("xs", said.x), *unpacked("ws", (*said.w, *said.n)), *said.lines]
    return function(name, params, doc, lines, said.result(derived), "@triton.jit")


def _device_zeros(x: str) -> Code:
    return call("tl.zeros_like", x)


def _say_device(op: str, args: Sequence[Code]) -> Code:
    """The expression of an op on tiles."""
    if op in ("minimum", "maximum"):
        numbers = [c for c in args if c.number is not None or c.plain]
        tile = next(c for c in args if c.number is None and not c.plain)
        if numbers:
            return call("at_most" if op == "minimum" else "at_least", tile, numbers[0])
        return call(f"tl.{op}", *args)
    if op in SUMS:
        axis = SUMS[op]
        if axis in AXES:
            return call("over_pairs", args[0], AXES[axis])
        return call("tl.sum", args[0], str(PLACES[axis]), keep_dims="True")
    if op in BUILTIN or op == ZEROS:
        return call(f"tl.{op}", *args)
    if op == "relu":
        return call("at_least", args[0], "0.0")
    return logic(op, args) or call({"pow": "power"}.get(op, op), *args)


def _from_exponentials(equations: Equations) -> Equations:
    """`expm1` from the exponential of the same value where that is there, or of half of it, by a square."""
    known = exponentials(equations.outputs)

    def rule(node: Node, args: tuple[Node, ...]) -> Node | None:
        if node.op != "expm1":
            return None
        e, root = known.get(node.args[0]), known.get(half(node.args[0]))
        if e is None and root is not None:
            e = root * root
        return None if e is None else node.home.apply("expm1_from", args[0], e)

    new = rebuilt(equations.outputs, rule)
    names = {new[n]: name for n, name in equations.names.items() if n in new}
    return replace(equations, outputs=tuple(new[o] for o in equations.outputs), names=names)
