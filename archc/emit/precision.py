"""Which values are in single precision when they run: as the spec says, but for what kernels have rounded."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from archc.ir.graph import Kind, Value
from archc.ops.table import OPS


@dataclass(frozen=True, eq=False)
class Precision:
    """Element types of a running model. `fp32` are the paths of weights that are stored in single precision, `rounded`
    the values that kernels give back in the compute type, whatever the spec has them in.
    """

    fp32: frozenset[str]
    rounded: Container[Value]
    _known: dict[Value, bool] = field(default_factory=dict, repr=False)

    def is_wide_weight(self, value: Value) -> bool:
        """Whether a function of weights is in single precision because its weights are."""
        if value.kind is not Kind.WEIGHT:
            return False
        if value.op == "weight":
            return value.attrs["path"] in self.fp32
        if value.op in ("index", "softmax"):
            return True
        if value.op in ("contract", "narrow"):  # both leave the type of their result and no other
            return value.type.wide
        return value.type.wide or any(map(self.is_wide_weight, value.operands))

    def is_rounded(self, value: Value) -> bool:
        """Whether a value is in the compute type, though the spec has it in single precision: a kernel gave it so, or
        each of its elements was moved there or computed from elements of such values and none in single precision.
        """
        if value not in self._known:
            self._known[value] = value in self.rounded or (_keeps_type(value) and self._are_rounded(value.operands))
        return self._known[value]

    def _are_rounded(self, operands: tuple[Value, ...]) -> bool:
        single = [v for v in operands if v.type.wide or self.is_wide_weight(v)]
        return bool(single) and all(map(self.is_rounded, single))


def _keeps_type(value: Value) -> bool:
    """Whether frameworks give the result the element type of the operands, and no text asks for another."""
    return value.type.dtype == "real" and (OPS[value.op].flow in ("pointwise", "rearrange") or value.op == "rename")
