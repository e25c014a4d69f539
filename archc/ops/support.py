"""At which distances a pair may be non-zero: causality, windows and caches follow from it.

A key lies at distance d = (position of the query) - (position of the key). A support is the interval -ahead <= d <
back; masks name it, products intersect it, sums join it, functions with f(0) = 0 keep it, everything else loses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from archc.ir.graph import Operand, Value


@dataclass(frozen=True, slots=True)
class Support:
    """`back` keys up to and with the query itself, `ahead` later ones; `inf`: without a bound."""

    back: float = inf
    ahead: float = inf

    @property
    def causal(self) -> bool:
        """Whether no later key can be seen."""
        return self.ahead == 0

    def meet(self, other: Support) -> Support:
        """Where both may be non-zero."""
        return Support(min(self.back, other.back), min(self.ahead, other.ahead))

    def join(self, other: Support) -> Support:
        """Where at least one may be non-zero."""
        return Support(max(self.back, other.back), max(self.ahead, other.ahead))


EVERYWHERE = Support()
NOWHERE = Support(0, 0)
CAUSAL = Support(inf, 0)

Found = tuple[Support | None, ...]


def _of(operand: Operand, found: Support | None) -> Support:
    """The support of an operand: of a pair what was found, of the number 0 nothing, of anything else everything."""
    if found is not None:
        return found
    return NOWHERE if not isinstance(operand, Value) and operand == 0 else EVERYWHERE


def not_a_pair(value: Value, found: Found) -> Support:
    """For ops whose result is never a pair."""
    raise AssertionError(f"{value!r} cannot be a pair")


def everywhere(value: Value, found: Found) -> Support:
    """The rule of an op that does not map zeros to zero."""
    return EVERYWHERE


def keeps(value: Value, found: Found) -> Support:
    """The rule of an op with f(0) = 0 in its first operand, and of ops that only move elements."""
    return _of(value.args[0], found[0])


def meets(value: Value, found: Found) -> Support:
    """A product: zero where one of the factors is."""
    out = EVERYWHERE
    for operand, each in zip(value.args, found, strict=True):
        out = out.meet(_of(operand, each))
    return out


def joins(value: Value, found: Found) -> Support:
    """A sum, a concatenation, a maximum: zero where all are."""
    out = NOWHERE
    for operand, each in zip(value.args, found, strict=True):
        out = out.join(_of(operand, each))
    return out


def both(value: Value, found: Found) -> Support:
    """`a and b`: true where both are. Of numbers nothing is known: what is not a number counts as true."""
    return meets(value, _conditions(value, found))


def either(value: Value, found: Found) -> Support:
    """`a or b`: true where one is."""
    return joins(value, _conditions(value, found))


def _conditions(value: Value, found: Found) -> Found:
    return tuple(
        f if isinstance(a, Value) and a.type.dtype == "bool" else EVERYWHERE
        for a, f in zip(value.args, found, strict=True)
    )


def quotient(value: Value, found: Found) -> Support:
    """`a / b` is zero where a is, unless b is masked as well: 0 / 0 is not."""
    masked = found[1] is not None and found[1] != EVERYWHERE
    return EVERYWHERE if masked else _of(value.args[0], found[0])


def power(value: Value, found: Found) -> Support:
    """`x ^ n` is zero where x is, if n is a positive number."""
    exponent = value.args[1]
    positive = not isinstance(exponent, Value) and exponent > 0
    return _of(value.args[0], found[0]) if positive else EVERYWHERE


def choice(value: Value, found: Found) -> Support:
    """`where(c, a, b)`: where c and a are, or b is."""
    condition, yes, no = (_of(a, f) for a, f in zip(value.args, found, strict=True))
    return condition.meet(yes).join(no)


def chosen(value: Value, found: Found) -> Support:
    """`softmax(scores, where = m)` is zero where m is false."""
    return found[1] if len(found) > 1 and found[1] is not None else EVERYWHERE


def mask(value: Value, found: Found) -> Support:
    """The masks by name; `prefix(n)` alone lets the first queries of a document see later keys."""
    sizes: tuple[int, ...] = value.attrs.get("sizes", ())
    match value.attrs["name"], sizes:
        case "causal", ():
            return CAUSAL
        case "window", (n,):
            return Support(n, 0)
        case "near", (n,):
            return Support(n + 1, n)
        case "dilated", (n, step):
            return Support((n - 1) * step + 1, 0)
        case "prefix", (n,):
            return Support(inf, max(n - 1, 0))
        case _:
            return EVERYWHERE
