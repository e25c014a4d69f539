"""What a framework calls things: the part of emission that differs between the backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from archc.emit.code import Code


class Dialect(Protocol):
    """One framework. Axes are counted from the end (-1 is the last)."""

    name: str
    method: str

    own_norms: bool
    own_affine: bool

    def norm(
        self, kind: str, value: Code, sizes: Sequence[Code], scale: Code | None, shift: Code | None, eps: Code
    ) -> Code:
        """The framework's own norm over the last axes, if `own_norms`; `kind` is rms or layer."""

    def affine(self, x: Code, matrix: Code, turned: bool, bias: Code) -> Code:
        """`x @ matrix + bias`, with the transpose of the matrix if `turned`, if `own_affine`."""

    def weight(self, name: str) -> Code:
        """A weight of this module."""

    def cast(self, value: Code, like: Code) -> Code:
        """The value in the element type of another."""

    def function(self, name: str, value: Code) -> Code:
        """An element-wise function of one value, by the name of its op."""

    def two(self, name: str, left: Code, right: Code) -> Code:
        """`minimum`, `maximum`, `complex`."""

    def where(self, condition: Code, yes: Code, no: Code) -> Code:
        """Element-wise choice."""

    def compared(self, value: Code) -> Code:
        """A side of a comparison."""

    def logic(self, name: str, left: Code, right: Code) -> Code:
        """`and`, `or`."""

    def einsum(self, spec: str, *values: Code) -> Code:
        """A contraction in letters."""

    def flatten(self, value: Code, count: int, after: int = 0) -> Code:
        """The last `count` axes, before `after` more, as one."""

    def unflatten(self, value: Code, axis: int, sizes: Sequence[Code]) -> Code:
        """One axis as several."""

    def reduce(self, name: str, value: Code, axes: Sequence[int]) -> Code:
        """`sum`, `mean`, `max`, `min` over axes."""

    def softmax(self, value: Code, axes: Sequence[int]) -> Code:
        """Softmax over axes, in single precision."""

    def cumsum(self, value: Code, axis: int) -> Code:
        """Running sum."""

    def argmax(self, value: Code, axis: int) -> Code:
        """Index of the largest."""

    def top(self, value: Code, k: Code, axis: int) -> Code:
        """True at the k largest."""

    def pieces(self, value: Code, sizes: Sequence[Code], axis: int) -> Code:
        """An axis cut into pieces."""

    def slice(self, value: Code, start: Code, stop: Code, axis: int) -> Code:
        """A stretch of an axis."""

    def concat(self, values: Sequence[Code], axis: int) -> Code:
        """Values side by side along an axis."""

    def stack(self, values: Sequence[Code]) -> Code:
        """Values along a new last axis."""

    def arange(self, size: Code, like: Code | None) -> Code:
        """0, 1, ... in single precision, beside another value."""

    def lookup(self, table: Code, index: Code) -> Code:
        """Rows of a table."""

    def reduce_time(self, name: str, value: Code, rank: int) -> Code:
        """A reduction over the whole sequence."""

    def broadcast(self, value: Code, like: Code) -> Code:
        """The value repeated to the leading axes of another."""

    def unsqueeze(self, value: Code, axis: int) -> Code:
        """A new axis of size 1 at a place."""

    def squeeze(self, value: Code, axis: int) -> Code:
        """Without the axis of size 1 at a place."""

    def reshape_tail(self, value: Code, sizes: Sequence[str]) -> Code:
        """[B, T, ...] with other axes after time."""

    def move_axes(self, value: Code, places: str, targets: str) -> Code:
        """Axes to other places, as tuples in text."""

    def over_time(self, value: Code, like: Code, sizes: Sequence[Code]) -> Code:
        """A value without time, repeated to [B, T, sizes] with the batch and time of another."""

    def start(self, value: Code, like: Code, sizes: Sequence[Code]) -> Code:
        """A number or a weight as the start of a state: [B, sizes], in at least single precision."""

    state_arguments: tuple[str, ...]

    def filled(self, sizes: Sequence[Code], number: Code) -> Code:
        """A new weight full of one number."""

    def random(self, how: str, sizes: Sequence[Code], params: Sequence[Code]) -> Code:
        """A new weight: `normal`, `uniform`, `log_uniform`, `orthogonal`."""

    def expanded(self, value: Code, sizes: Sequence[Code]) -> Code:
        """A value repeated to the shape of a weight, with memory of its own."""

    def zeros(self, sizes: Sequence[Code], how: str) -> Code:
        """An array of a state; `how`: dtype, wide (at least single precision), complex, int, bool."""
