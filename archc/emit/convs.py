"""The rule of a convolution: one call of its kernel, with what that computes besides."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.calls import weight_of
from archc.emit.code import Code
from archc.emit.equations import row
from archc.emit.gated import constant, named, number_text, stem_of
from archc.emit.kernels import CONV
from archc.emit.layout import reindex, transposed
from archc.emit.placed import whole
from archc.fuse.convs import FusedConv
from archc.fuse.fused_scan import Handed
from archc.ir.graph import Kind, Type, Value


def conv(body: Body, value: Value) -> Code:
    """A convolution, or what its kernel makes of it: see `archc.fuse.convs`."""
    found = body.fused.convs[value]
    x, weight = found.conv.operands
    state = body.local_state(found.conv)
    order = [found.conv.attrs["taps"], *x.names]
    taps = body.render(weight)
    if list(weight.names) != order:
        taps = transposed(taps, weight, order, body.dialect)
    operands = [whole(body, x).text, taps.text, "pos", body.old(state)]
    if found.bias is not None:
        axes = Type(Kind.WEIGHT, x.type.axes)
        operands.append(f"bias={reindex(body.render(found.bias), found.bias, axes, body.dialect).text}")
    if found.activation is not None:
        operands += _activation(body, found, state)
    return body.hoist(value, f"{body.kernel(CONV)}({', '.join(operands)})", state)


def _activation(body: Body, found: FusedConv, state: str) -> list[str]:
    """The equations behind the sum, and what they read besides."""
    stem = f"conv_{found.only}" if found.only else stem_of(body, state.replace(".", "_"))
    body.gates[stem] = found
    handed = {"tokens": found.inputs, "weights": found.weights}
    given = {name: [_handed(body, h, found) for h in each] for name, each in handed.items()}
    given["numbers"] = [number_text(body, each) for each in found.numbers]
    return [f"activation={constant(stem)}", *(f"{name}={row(each)}" for name, each in given.items() if each)]


def _handed(body: Body, handed: Handed, found: FusedConv) -> str:
    """A token or a weight with the axes of the convolution, 1 where it lacks one."""
    kind, own = handed.value.kind, tuple(axis for group in handed.groups for axis in group)
    have = Value(-1, "param", (), Type(kind, own))
    code = weight_of(body, handed.value) if handed.value.op == "weight" else named(body, handed)
    return reindex(code, have, Type(kind, found.conv.type.axes), body.dialect).text
