"""The equations around a fused scan and their derivatives as functions of arrays, which a Pallas kernel can call."""

from __future__ import annotations

from collections.abc import Sequence

from archc.backends.flax.dialect import FlaxDialect

from archc.emit.code import Code, call, infix
from archc.emit.docstrings import Doc, described, described_activation
from archc.emit.equations import called_in, function, logic, may_be_flat, statements, unpacked
from archc.emit.mixes import Mixes, mix_functions
from archc.fuse.convs import FusedConv
from archc.fuse.dag import Equations
from archc.fuse.fused_scan import OUTER, FusedScan
from archc.fuse.planes import PLACES, SUMS

DEVICE = ("expm1", "gelu", "inv_softplus", "power", "root", "sign", "mix_heads", "unmix_heads", "mix_heads_matrix")
"""The functions of `kernels/device.py`."""
RESERVED = ("jax", "jnp", "xs", "ws", *DEVICE)


def gate_functions(name: str, fused: FusedScan) -> str:
    """The equations and their derivatives on tuples of arrays.

    `name_gates(xs, ws, first) -> (a, u)` and `name_gates_grad(xs, ws, first, da, du) -> (dx, dw)`; for a selective scan
    (dt, v), for one of outer products (log_a, v), with a decay per key (log_a, k, v, q) and the keys of a bonus, and if
    something is fused behind the read-out `name_out(read, xs, ws) -> o` and `name_out_grad(read, xs, ws, do) -> (dread,
    dx, dw)`, where the last of xs and dx is the normaliser, if there is one. xs, ws, dx, dw are in the order of
    `fused.inputs` and `fused.weights`, behind which ws has `fused.numbers`; arrays broadcast. The text needs `jax`,
    `jnp` and what `device_names` finds in it.
    """
    gates, gates_grad, out, out_grad = fused.gates, fused.gates_grad, fused.out, fused.out_grad
    assert gates is not None, fused.reason
    assert gates_grad is not None
    seeds = [f"d{n}" for n in fused.outputs]

    def one(part: str, equations: Equations, params: tuple[str, ...], doc: Doc) -> str:
        derived, spread = doc.endswith("grad"), fused.kind not in OUTER and not fused.is_complex
        return _function(f"{name}_{part}", equations, params, described(fused, doc), derived=derived, spread=spread)

    texts = [
        one("gates", gates, ("xs", "ws", "first"), "gates"),
        one("gates_grad", gates_grad, ("xs", "ws", "first", *seeds), "gates grad"),
    ]
    if out is not None and out_grad is not None:
        texts += [
            one("out", out, (*fused.read, "xs", "ws"), "out"),
            one("out_grad", out_grad, (*fused.read, "xs", "ws", *fused.do), "out grad"),
        ]
    return "\n\n".join(texts)


def activation_functions(name: str, fused: FusedConv) -> str:
    """What follows a convolution, and its derivatives: `name(total, xs, ws) -> o` and `name_grad(total, xs, ws, do) ->
    (d_total, dx, dw)`; see above.
    """
    assert fused.activation is not None
    assert fused.gradient is not None
    doc, derived = described_activation(fused), described_activation(fused, derived=True)
    texts = [
        _function(name, fused.activation, ("total", "xs", "ws"), doc),
        _function(f"{name}_grad", fused.gradient, ("total", "xs", "ws", "do"), derived, derived=True),
    ]
    return "\n\n".join(texts)


def mix_texts(name: str, mixes: Mixes) -> str:
    """Compositions of heads and their derivatives on tiles: see `archc.emit.mixes`.

    The text needs `jax`, `jnp` and what `device_names` finds in it.
    """
    return mix_functions(name, mixes, _say, RESERVED)


def device_names(text: str) -> list[str]:
    """The functions of kernels/device.py that a text of gate functions calls."""
    return called_in(text, DEVICE)


def _function(
    name: str,
    equations: Equations,
    params: Sequence[str],
    doc: Sequence[str],
    *,
    derived: bool = False,
    spread: bool = True,
) -> str:
    said = statements(equations, _say, _zeros, RESERVED, spread=spread)
    lines = [*unpacked("xs", said.x), *unpacked("ws", (*said.w, *said.n)), *said.lines]
    return function(name, params, doc, lines, said.result(derived))


_FLAX = FlaxDialect()


def _zeros(x: str) -> Code:
    return call("jnp.zeros_like", x)


def _say(op: str, args: Sequence[Code]) -> Code:
    """The expression of an op on arrays."""
    if op in DEVICE:
        return call(op, *args)
    if op in SUMS:
        return call("jnp.sum", args[0], str(PLACES[SUMS[op]]), keepdims="True")
    match op:
        case "where" | "zeros_like":
            return call(f"jnp.{op}", *args)
        case "minimum" | "maximum":
            return _FLAX.two(op, *args)
        case "pow":
            return call("power", *args) if may_be_flat(args[1]) else infix("**", *args)
        case "sqrt":
            return call("root", *args)
        case "relu":
            return call("jnp.maximum", args[0], "0.0")
    return logic(op, args) or _FLAX.function(op, args[0])
