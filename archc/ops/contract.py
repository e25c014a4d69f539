"""Contraction over feature axes and look-up: what matrix units do."""

from __future__ import annotations

from archc.ir.graph import Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Misfit, Op, called, is_wide, join_axes, join_dtype, join_kind


def _contract(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    """`over`: the axes summed; `made`: axes that come last in the result, in this order (of a weight)."""
    left, right = args
    axes = join_axes(args)
    over, made = attrs["over"], attrs.get("made", ())
    sizes = {a.name: a for a in axes}
    for name in over:
        if name not in sizes:
            raise Misfit("E303", f"'{name}' is not an axis of {called(left)} or {called(right)}")
    if isinstance(left, Value) and isinstance(right, Value):
        # the order of a contraction: what is left of the first operand, then what the second brings in
        first = [a for a in left.type.axes if a.name not in over]
        second = [a for a in right.type.axes if a.name not in over and a.name not in left.names]
        kept = [*first, *second]
    else:
        kept = [a for a in axes if a.name not in over]
    kept = [a for a in kept if a.name not in made] + [sizes[m] for m in made]
    wide = "made" not in attrs and is_wide(args)  # a projection by a weight is in the compute type
    return Type(join_kind(args), tuple(kept), join_dtype(args), wide)


def _lookup(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    table, index = args
    assert isinstance(table, Value)
    if not isinstance(index, Value) or index.type.dtype != "int":
        raise Misfit("E304", f"a look-up needs whole numbers, {called(index)} is not")
    if index.names:
        raise Misfit("E304", f"a look-up takes one whole number per token, {called(index)} has axes")
    return Type(max(index.kind, Kind.WEIGHT), table.type.axes[1:], table.type.dtype)


OPS = (
    Op(
        name="contract",  # over, made
        infer=_contract,
        flops=cost.product_of_sums,
        support=support.meets,
        state=memory.nothing,
        flow="mix",
        derivative="framework",
    ),
    Op(
        name="lookup",  # args: table, index; the first axis of the table is looked up
        infer=_lookup,
        flops=cost.free,
        support=support.everywhere,
        state=memory.nothing,
        flow="rearrange",
        derivative="framework",
    ),
)
