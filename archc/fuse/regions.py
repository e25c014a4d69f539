"""The element-wise values around a scan that one kernel computes with it, and where they end.

A region is grown backwards from what the kernel must know (decay and input) through element-wise ops whose axes the
scan has, and cut where a value comes from other elements or is needed elsewhere as well. Axes are followed through
renaming, so a value is kept together with what the scan calls its axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from archc.diagnostics import Span
from archc.fuse.on_axes import Placed
from archc.fuse.parts import expands, is_complex
from archc.ir.graph import Kind, Region, Value
from archc.ops.table import OPS
from archc.passes.readout import leaves


def fuses(value: Value) -> bool:
    """Whether the op is element-wise and varies with the token: only such values enter a kernel.

    Of complex numbers only what is known of their parts.
    """
    flow = OPS[value.op].flow in ("pointwise", "alias")
    known = expands(value) or not any(map(is_complex, (value, *value.operands)))
    return flow and known and value.kind is Kind.TOKEN


def is_start(value: Value) -> bool | None:
    """Whether a value is true where a document starts (`pos == 0`), false there (`pos != 0`), or neither (None)."""
    match value.args:
        case (Value(op="pos"), 0) | (0, Value(op="pos")) if value.op in ("eq", "ne"):
            return value.op == "eq"
    return None


@dataclass(frozen=True)
class Kernel:
    """What a kernel computes besides its equations: `own`, the state and what is read from it; `between`, values that
    it has in another form, such as products that are never stored. `taken` are values that other kernels compute.

    A kernel belongs to one call of a function of the spec, `calls`: that of its scan. It may take in what functions
    called from there compute, if it can do so whole: what it reads must have a name where it runs.
    """

    region: Region
    calls: tuple[Span, ...]
    axes: frozenset[str]
    own: frozenset[Value]
    between: frozenset[Value]
    taken: frozenset[Value]

    def read_elsewhere(self, values: AbstractSet[Value]) -> set[Value]:
        """Which of the values must exist outside of the kernel as well."""
        inside = values | self.between
        out: set[Value] = set()
        for value in reversed(self.region.values):
            if value in inside and value not in self.own:
                users = self.region.users.get(value, ())
                known = inside - out | self.own
                if any(u not in known for u in users) or leaves(value, self.region):
                    out.add(value)
        return out

    def grown(self, tops: Iterable[Placed], outside: AbstractSet[Value]) -> frozenset[Placed]:
        """The region that ends in `tops` and keeps the given values outside."""
        home = set(self.region.values) - set(self.region.params) - outside - self.own - self.taken
        out: set[Placed] = set()
        todo = list(tops)
        while todo:
            each = todo.pop()
            own = each.value in home and fuses(each.value) and is_start(each.value) is None
            own = own and each.value.origin.calls[: len(self.calls)] == self.calls
            if own and set(each.axes) <= self.axes and each not in out:
                out.add(each)
                todo += [a for a in each.operands() if isinstance(a, Placed)]
        return frozenset(out)

    def inside(self, tops: Iterable[Placed]) -> frozenset[Placed]:
        """The maximal region that ends in `tops`, of values with no other axes than the kernel's.

        A value that is read elsewhere as well stays outside, unless it is a cast or a new name of another value: those
        cost nothing to repeat.
        """
        outside: set[Value] = set()
        found = self.grown(tops, outside)
        while True:
            elsewhere = self.read_elsewhere({p.value for p in found})
            more = {p.value for p in found if p.value in elsewhere and OPS[p.value.op].flow != "alias"}
            more |= self._of_cut_calls(found)
            if not more:
                return found
            outside |= more
            found = self.grown(tops, outside)

    def _of_cut_calls(self, found: frozenset[Placed]) -> set[Value]:
        """The values of called functions that read what only exists inside of that call, and what gives a result of
        such a call the names of the axes outside: the result has a name there, what it is made of has none.
        """
        cut: set[tuple[Span, ...]] = set()
        results: set[Value] = set()
        inside = {p.value for p in found}
        for reader in inside:
            for operand in reader.operands:
                calls = operand.origin.calls
                if operand in inside or len(calls) <= len(self.calls):
                    continue
                if reader.origin.calls[: len(calls)] == calls:
                    cut.add(calls[: len(self.calls) + 1])
                elif reader.op == "rename":
                    results.add(reader)
        return results | {v for v in inside if v.origin.calls[: len(self.calls) + 1] in cut}


def border(tops: Iterable[Placed], region: frozenset[Placed]) -> frozenset[Placed]:
    """The values outside of a region that it reads, weights included."""
    operands = (a for p in region for a in p.operands() if isinstance(a, Placed))
    return frozenset(p for p in (*tops, *operands) if p not in region and is_start(p.value) is None)
