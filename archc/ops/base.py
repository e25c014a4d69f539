"""What an op is: a record with one rule per fold; and the words in which typing rules say what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from archc.ir.graph import Axis, DType, Kind, Operand, Type, Value
from archc.ops.cost import Work
from archc.ops.memory import Memory
from archc.ops.node import Node
from archc.ops.node import Operand as Term
from archc.ops.support import Support

Attrs = Mapping[str, Any]
Infer = Callable[[tuple[Operand, ...], Attrs], Type]

Flow = Literal["source", "alias", "pointwise", "rearrange", "mix", "pair", "time", "control"]
"""How elements of the result come from elements of the operands.

`alias`: the operand itself under another name or precision; `pointwise`: each element from the matching elements;
`rearrange`: elements in another place; `mix`: many elements make one; `pair` and `time`: other positions are met;
`source`: no operands; `control`: regions run.
"""

Slopes = Callable[..., tuple[Term, ...]]
"""`slopes(d, y, *operands)`: with d the derivative of a number by the result y, that number's by each operand."""
Derivative = Slopes | Literal["zero", "framework"]
"""`zero`: the result does not change with small changes of the operands; `framework`: never part of a generated
function, left to the framework that runs the emitted code."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op: a rule per question. No rule has a default, so that none is forgotten.

    infer: the type of the result, or `Misfit`; flops: the work of one position or pair; support: the distances at which
    a pair may be non-zero; state: what a decoder must remember; flow: see `Flow`; derivative: see
    `Derivative`. What it computes is in `archc.reference`, so that asking about a model does not import NumPy.
    """

    name: str
    infer: Infer
    flops: Callable[[Value], Work]
    support: Callable[[Value, tuple[Support | None, ...]], Support]
    state: Callable[[Value], tuple[Memory, ...]]
    flow: Flow
    derivative: Derivative

    def slopes(self, d: Node, y: Node, operands: tuple[Node, ...]) -> tuple[Term, ...]:
        """What `derivative` says of one result. Raises `TypeError` for an op that is left to the framework."""
        if self.derivative == "zero":
            return (0.0,) * len(operands)
        if isinstance(self.derivative, str):
            raise TypeError(f"'{self.name}' is differentiated by the framework")
        return self.derivative(d, y, *operands)


class Misfit(Exception):
    """Operands that an op refuses; the elaborator adds the place and the calls that led there."""

    def __init__(self, code: str, message: str, *, help: str = "", other: Value | None = None) -> None:
        self.code, self.message, self.help, self.other = code, message, help, other
        super().__init__(message)


def called(value: Operand) -> str:
    """A value in a sentence: its name if it has one, and its type."""
    if not isinstance(value, Value):
        return f"the number {value}"
    return f"'{value.label}' ({value.type})" if value.label else f"a {value.type}"


_ORDER: tuple[DType, ...] = ("bool", "int", "real", "complex")


def join_dtype(args: tuple[Operand, ...]) -> DType:
    """The widest element type; Python numbers count as real unless they are whole."""
    found = [a.type.dtype if isinstance(a, Value) else ("int" if isinstance(a, int) else "real") for a in args]
    return max(found, key=_ORDER.index, default="real")


def join_axes(args: tuple[Operand, ...]) -> tuple[Axis, ...]:
    """The union of the axes by name.

    If one operand has them all its order is kept; otherwise axes follow the order of the operands. Raises `Misfit` E301
    when one name comes with two sizes.
    """
    values = [a for a in args if isinstance(a, Value)]
    seen: dict[str, tuple[Axis, Value]] = {}
    for value in values:
        for axis in value.type.axes:
            known = seen.setdefault(axis.name, (axis, value))
            if known[0].size != axis.size:
                raise Misfit(
                    "E301",
                    f"axis '{axis.name}' is {known[0].size} in {called(known[1])} and {axis.size} in {called(value)}",
                    other=known[1],
                    help=f"give one of the two another name, or derive both from one number '{axis.name}'",
                )
    widest = max(values, key=lambda v: len(v.type.axes), default=None)
    if widest is not None and set(widest.names) == set(seen):
        return widest.type.axes
    return tuple(axis for axis, _ in seen.values())


def join_kind(args: tuple[Operand, ...]) -> Kind:
    """The highest kind. Raises `Misfit` E302 when a token meets a pair."""
    values = [a for a in args if isinstance(a, Value)]
    kind = max((v.kind for v in values), default=Kind.WEIGHT)
    if kind is Kind.PAIR:
        for value in values:
            if value.kind in (Kind.TOKEN, Kind.SEQ):
                name = value.label or "..."
                raise Misfit(
                    "E302",
                    f"{called(value)} meets a pair: a token has one value per position, a pair one per query and key",
                    other=next(v for v in values if v.kind is Kind.PAIR),
                    help=f"say queries({name}) for the query's value or keys({name}) for the key's",
                )
    return kind


def is_wide(args: tuple[Operand, ...]) -> bool:
    """Whether an operand is computed in single precision."""
    return any(isinstance(a, Value) and a.type.wide for a in args)


def join(args: tuple[Operand, ...], dtype: DType | None = None) -> Type:
    """The type of an element-wise op."""
    kind = join_kind(args)
    return Type(kind, join_axes(args), dtype or join_dtype(args), is_wide(args) and dtype not in ("bool", "int"))


def require_axes(value: Value, names: tuple[str, ...], what: str) -> None:
    """Raises `Misfit` E303 unless the value has every named axis."""
    for name in names:
        if name not in value.names:
            have = " ".join(value.names) or "none"
            raise Misfit(
                "E303", f"{what}: '{name}' is not an axis of {called(value)}", help=f"its axes are: {have}", other=value
            )
