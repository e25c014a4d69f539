"""Between which numbers a value lies whatever its weights and tokens are, as far as its expression says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, inf, prod

from archc.ir.graph import Operand, Value
from archc.passes.precision import precise_operand


@dataclass(frozen=True, slots=True)
class Range:
    """The real numbers from `low` to `high`; `above`, `below`: these ends themselves are left out."""

    low: float = -inf
    high: float = inf
    above: bool = False
    below: bool = False

    @property
    def positive(self) -> bool:
        """Whether all are above 0."""
        return self.low > 0 or (self.low == 0 and self.above)

    def __neg__(self) -> Range:
        return Range(-self.high, -self.low, self.below, self.above)

    def __add__(self, other: Range) -> Range:
        low, high = self.low + other.low, self.high + other.high
        return Range(low, high, self.above or other.above, self.below or other.below)

    def __mul__(self, other: Range) -> Range:
        """Ends are products of ends; one is reached if both of its factors are, or a factor of 0 is."""
        mine, theirs = (((r.low, not r.above), (r.high, not r.below)) for r in (self, other))
        ends: dict[float, bool] = {}
        for a, has_a in mine:
            for b, has_b in theirs:
                end = 0.0 if 0 in (a, b) else a * b
                reached = (has_a and has_b) or (a == 0 and has_a) or (b == 0 and has_b)
                ends[end] = ends.get(end, False) or reached
        low, high = min(ends), max(ends)
        return Range(low, high, not ends[low], not ends[high])

    def join(self, other: Range) -> Range:
        """Around both."""
        low, above = min((self.low, self.above), (other.low, other.above))
        high, included = max((self.high, not self.below), (other.high, not other.below))
        return Range(low, high, above, not included)

    def maximum(self, other: Range) -> Range:
        """Of the larger of two numbers."""
        low, above = max((self.low, self.above), (other.low, other.above))
        high, included = max((self.high, not self.below), (other.high, not other.below))
        return Range(low, high, above, not included)


ANYTHING, POSITIVE, SINE = Range(), Range(0, inf, True), Range(-1, 1)
FIXED: Mapping[str, Range] = {
    "expm1": Range(-1, inf, True),
    "softplus": POSITIVE,
    "rsqrt": POSITIVE,
    "sigmoid": Range(0, 1, True, True),
    "softmax": Range(0, 1, True),
    "tanh": Range(-1, 1, True, True),
    "erf": Range(-1, 1, True, True),
    "sin": SINE,
    "cos": SINE,
    "sign": SINE,
    "relu": Range(0),
    "abs": Range(0),
    "pos": Range(0),
}
"""Of ops that have a range whatever they are taken of."""
MOVES = frozenset({"split", "merge", "slice", "pick", "stack_axis", "concat", "rename", "fp32", "narrow"})


def range_of(operand: Operand) -> Range:
    """The range of a value or a number.

    >>> range_of(0.5)
    Range(low=0.5, high=0.5, above=False, below=False)
    """
    return _Ranges().of(operand)


@dataclass(frozen=True, eq=False)
class _Ranges:
    """Ranges found so far."""

    known: dict[Value, Range] = field(default_factory=dict)

    def of(self, operand: Operand) -> Range:
        """The range of a value or a number."""
        if not isinstance(operand, Value):
            return Range(float(operand), float(operand))
        if operand not in self.known:
            self.known[operand] = self._of(operand)
        return self.known[operand]

    def _of(self, value: Value) -> Range:
        if any(v.type.dtype == "complex" for v in (value, *value.operands)):
            return ANYTHING
        if value.op == "softmax" and len(value.args) > 1:
            return Range(0, 1)  # exactly 0 where its condition is false
        if value.op in FIXED:
            return FIXED[value.op]
        if value.op in MOVES:
            return self._around(value.args)
        match value.op, value.args:
            case "neg", (a,):
                return -self.of(a)
            case "add", (a, b):
                return self._mixed(a, b) or self._mixed(b, a) or self.of(a) + self.of(b)
            case "sub", (a, b):
                return self._rest_of_a_sum(a, b) or self.of(a) + -self.of(b)
            case "mul", (a, b):
                found = self.of(a) * self.of(b)
                return Range(0, found.high) if a is b and found.low < 0 else found
            case "div", (a, b) if self.of(b).positive:
                return self._part_of_a_sum(a, b) or self.of(a) * self._inverse(self.of(b))
            case "reduce", (a,):
                return self._summed(a, value.attrs["over"]) if value.attrs["fn"] == "sum" else self.of(a)
            case "cumsum", (a,):
                return self._summed(a, value.attrs["over"])
        return self._of_function(value)

    def _of_function(self, value: Value) -> Range:
        match value.op, value.args:
            case "index", _:
                return Range(0, value.attrs["size"] - 1)
            case "pow", (a, b):
                return self._power(a, b)
            case "exp", (a,):
                return self._exponential(self.of(a))
            case "sqrt", (a,):
                return Range(0, inf, self.of(a).positive)
            case "maximum", (a, b):
                return self.of(a).maximum(self.of(b))
            case "minimum", (a, b):
                return -(-self.of(a)).maximum(-self.of(b))
            case "where", (_, a, b):
                return self.of(a).join(self.of(b))
        return ANYTHING

    def _around(self, operands: tuple[Operand, ...]) -> Range:
        first, *rest = map(self.of, operands)
        for each in rest:
            first = first.join(each)
        return first

    def _inverse(self, r: Range) -> Range:
        """Of `1 / b` for a positive b."""
        return Range(1 / r.high if r.high < inf else 0, 1 / r.low if r.low else inf, r.below or r.high == inf, r.above)

    def _exponential(self, r: Range) -> Range:
        """Of `exp(x)`, as a real number: that single precision may have 0 or 1 for it is no question of ranges."""
        low, high = (inf if end > 700 else exp(end) for end in (r.low, r.high))
        return Range(low, high, r.above or not low, r.below)

    def _power(self, base: Operand, exponent: Operand) -> Range:
        found, n = self.of(base), self.of(exponent)
        if 0 < found.low <= found.high < inf and -inf < n.low <= n.high < inf:
            ends = [_raised(b, e) for b in (found.low, found.high) for e in (n.low, n.high)]  # monotone in each of both
            return Range(min(ends), max(ends))
        if found.positive:
            return Range(0, 1, True) if found.high <= 1 and n.low >= 0 else POSITIVE
        if isinstance(exponent, Value):
            return ANYTHING
        return Range(0) if exponent % 2 == 0 or found.low >= 0 else ANYTHING

    def _mixed(self, a: Operand, rest: Operand) -> Range | None:
        """`a + (1 - a) b`, from b to 1 for a share a."""
        match precise_operand(rest):
            case Value(op="mul", args=(one, other)):
                for share, b in ((precise_operand(one), other), (precise_operand(other), one)):
                    if isinstance(share, Value) and share.op == "sub" and share.args[0] == 1:
                        of = self.of(a)
                        if precise_operand(share.args[1]) is precise_operand(a) and of.low >= 0 and of.high <= 1:
                            return self.of(b).join(Range(1, 1))
        return None

    def _part_of_a_sum(self, part: Operand, total: Operand) -> Range | None:
        """`n a / (a + b)` for a number n, from 0 to n where neither a nor b is negative."""
        times, part = _times(precise_operand(part))
        match precise_operand(total):
            case Value(op="add", args=(one, other)):
                for a, b in ((one, other), (other, one)):
                    if precise_operand(a) is part and self.of(a).low >= 0 and self.of(b).low >= 0:
                        return Range(times, times) * Range(0, 1, self.of(a).positive, self.of(b).positive)
        return None

    def _rest_of_a_sum(self, total: Operand, part: Operand) -> Range | None:
        """A running sum of shares without its first or its last summand."""
        whole, left = precise_operand(total), precise_operand(part)
        if not (isinstance(whole, Value) and whole.op == "cumsum" and isinstance(left, Value)):
            return None
        (axis,) = whole.attrs["over"]
        first = left.op == "pick" and left.attrs["axis"] == axis and left.attrs["at"] == 0
        summand = precise_operand(left.args[0]) if first else left
        if summand is not precise_operand(whole.args[0]) or self.of(summand).low < 0:
            return None
        return Range(0, self.of(whole).high)

    def _summed(self, operand: Operand, over: tuple[str, ...]) -> Range:
        """A sum of one to all of the elements along axes; those of a softmax are 1 at most."""
        assert isinstance(operand, Value)
        found, inner = self.of(operand), precise_operand(operand)
        if isinstance(inner, Value) and inner.op == "softmax" and set(inner.attrs["over"]) >= set(over):
            return found
        count = prod(operand.type.sizes[n] for n in over)
        return found.join(Range(count, count) * found)


def _times(operand: Operand) -> tuple[float, Operand]:
    """A number and what it multiplies."""
    match operand:
        case (
            Value(op="mul", args=(int() | float() as number, other))
            | Value(op="mul", args=(other, int() | float() as number))
        ):
            return float(number), precise_operand(other)
    return 1.0, operand


def _raised(base: float, exponent: float) -> float:
    """A power of a positive number; infinity where it is too large for one."""
    try:
        return float(base**exponent)
    except OverflowError:
        return inf
