"""What is known of a scan once its class is: which algorithm it wants, on which axes, of which factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from archc.ir.graph import Operand, Value
from archc.ops.table import OPS
from archc.passes.log_decay import LogDecay
from archc.passes.readout import ReadOut

ScanKind = Literal["diagonal", "selective", "long_convolution", "chunked", "chunked_key", "delta"]
Group = Literal["head", "key", "value"]


@dataclass(frozen=True)
class Factor:
    """A factor of the input: a value or a number, to the power of 1 or -1."""

    operand: Operand
    power: int = 1

    @property
    def names(self) -> set[str]:
        """The axes that it has."""
        return set(self.operand.names) if isinstance(self.operand, Value) else set()


@dataclass(frozen=True, eq=False)
class ScanClass:
    """How to run a scan. Axis names are those of the scan, in its order, but the `groups` of heads come first.

    `factors`: the input, by the axes that a factor has (R: key; V: value; neither: head); `reads`: the contractions
    of the state, none for a diagonal scan; `before`: the state is read before the update; `normaliser`: the scan of the
    keys alone, read by the same queries, that runs with this chunked one; `normalises`: of such a scan the chunked one;
    `fits`: whether nothing larger than a token is kept for every token.
    """

    scan: Value
    kind: ScanKind
    heads: tuple[str, ...]
    key: tuple[str, ...]
    value: tuple[str, ...]
    factors: Mapping[Group, tuple[Factor, ...]]
    log_decay: LogDecay
    varies: bool
    reads: tuple[ReadOut, ...] = ()
    before: bool = False
    normaliser: ScanClass | None = None
    normalises: Value | None = None
    fits: bool = True
    sentence: str = field(default="", compare=False)

    @property
    def bonus(self) -> tuple[Value, ...]:
        """What is added to the state before it is read, one value per read-out that has it."""
        return tuple(r.bonus for r in self.reads if r.bonus is not None)

    @property
    def groups(self) -> tuple[str, ...]:
        """The axes of a selective scan's channels of whose groups each has keys or a read-out of its own."""
        sources = [*(r.query for r in self.reads), *(f.operand for f in self.factors["key"])]
        names = {n for s in sources if isinstance(s, Value) for n in s.names}
        return tuple(n for n in self.heads if n in names)


def inside(found: ScanClass) -> set[Value]:
    """The values that a fused scan computes on the way: those as large as its state, and its read-outs."""
    if found.kind == "diagonal":
        return {found.scan}
    if found.normalises is not None:
        return {found.scan, *(v for r in found.reads for v in r.path)}
    state = set(found.scan.names)
    out = {found.scan, *(v for r in found.reads for v in r.path)}
    todo = [*found.scan.operands, *(b for b in found.bonus)]
    while todo:
        value = todo.pop()
        if OPS[value.op].flow in ("pointwise", "alias") and value not in out and state <= set(value.names):
            out.add(value)
            todo += value.operands
    return out


def axes(names: tuple[str, ...]) -> str:
    """Names of axes as messages have them."""
    return f"[{' '.join(names)}]"
