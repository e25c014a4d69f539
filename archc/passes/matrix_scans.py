"""Which scans the kernels of the selective and chunked forms can run, and what they are handed as products."""

from __future__ import annotations

from collections import Counter

from archc.ir.graph import Kind, Value
from archc.passes.placed import is_placed
from archc.passes.scan_class import Factor, ScanClass
from archc.passes.scans import factors_of

KERNELS = frozenset({"selective", "chunked", "chunked_key"})


def runs_fused(found: ScanClass) -> bool:
    """Whether the kernel of the chunked or selective form, or a convolution, runs this scan; others run as written.

    A normaliser runs with the scan that it normalises, if that has a kernel.
    """
    if found.kind == "long_convolution":
        return _convolves(found)
    return found.kind in KERNELS and not obstacle(found)


def obstacle(found: ScanClass) -> str:
    """Why the kernel of the chunked or selective form cannot run a scan, the end of a sentence; empty if it can."""
    selective = found.kind == "selective"
    if found.scan.type.dtype == "complex":
        return "its numbers are complex"
    if found.normalises is not None:
        return "it runs with the scan that it normalises"
    if len(found.reads) != 1:
        return "its state is read more than once"
    if not found.factors["key"]:
        return "its input is no product with keys"
    if len(found.key) != 1:
        return "its state has several axes"
    if selective and (found.before or found.bonus):
        return "its state is read before the update"
    read = [found.reads[0].query, found.log_decay.operand, *(f.operand for fs in found.factors.values() for f in fs)]
    if any(isinstance(each, Value) and is_placed(each) for each in read):
        return "it reads what is the same in every sequence of a batch"
    if found.bonus and bonus_sides(found) is None:
        return "what is added to its state is no product of keys and values"
    names = [set(f.operand.names) for f in found.factors["key"] if isinstance(f.operand, Value)]
    if any(not each <= {*found.key, *found.heads} for each in (*names, set(found.reads[0].query.names))):
        return "its keys or its read-out have axes of the values"
    if selective and split_decay(found) is None:
        return "its decay is no exponential of a step per channel times weights"
    return "each of its channels has keys or a read-out of its own" if selective and found.groups == found.heads else ""


def grouped(found: ScanClass) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The heads of a scan of outer products: axes that all of its keys and queries have, and those of heads that share
    some of them.
    """
    sources = [found.reads[0].query, *(f.operand for f in found.factors["key"])]
    names = [set(s.names) for s in sources if isinstance(s, Value)]
    groups = tuple(n for n in found.heads if all(n in each for each in names))
    return groups, tuple(n for n in found.heads if n not in groups)


def _convolves(found: ScanClass) -> bool:
    """Whether a scan is a convolution of its input with a kernel of weights: decay, read-out and what is not input."""
    decay, value = found.scan.args[0], found.reads[0].value
    if len(found.reads) != 1 or found.before or found.bonus or len(found.key) != 1:
        return False
    if found.scan.names != (*found.heads, *found.key) or set(value.names) != set(found.heads):
        return False
    if not isinstance(decay, Value) or not set(found.key) <= set(decay.names):
        return False
    fixed = [decay, found.reads[0].query, *(f.operand for f in found.factors["key"])]
    entering = [f.operand for f in found.factors["head"] if isinstance(f.operand, Value)]
    if any(v.kind is not Kind.WEIGHT for v in fixed if isinstance(v, Value)) or any(map(is_placed, entering)):
        return False
    single = found.scan.type.dtype == "complex" or not value.type.wide  # of real numbers it is rounded to its input's
    return single and any(v.kind is Kind.TOKEN for v in entering)


def bonus_sides(found: ScanClass) -> tuple[tuple[Factor, ...], tuple[Factor, ...]] | None:
    """What is added to the state before it is read, as factors of the keys and factors of the values.

    None if it is no such product.
    """
    (bonus,) = found.bonus
    factors = factors_of(bonus, set(found.scan.names), found.scan.origin.calls)
    names = [set(f.operand.names) if isinstance(f.operand, Value) else set[str]() for f in factors]
    keys, values = set(found.key), set(found.value)
    if any(n & keys and n & values for n in names) or not any(n & keys for n in names):
        return None
    sides = [bool(n & keys) for n in names]
    return (
        tuple(f for f, of_key in zip(factors, sides, strict=True) if of_key),
        tuple(f for f, of_key in zip(factors, sides, strict=True) if not of_key),
    )


def bonus_keys(found: ScanClass) -> tuple[Factor, ...]:
    """The factors of the bonus that do not vary along the values."""
    return tuple(f for f in _of_bonus(found) if not _has(f, found.value))


def shares_values(found: ScanClass) -> bool:
    """Whether the bonus, if there is one, has the values of the update."""
    own = Counter(f for f in _of_bonus(found) if _has(f, found.value))
    return not found.bonus or own == Counter(found.factors["value"])


def _of_bonus(found: ScanClass) -> list[Factor]:
    return factors_of(found.bonus[0], set(found.scan.names), found.scan.origin.calls) if found.bonus else []


def _has(factor: Factor, names: tuple[str, ...]) -> bool:
    return isinstance(factor.operand, Value) and not set(names).isdisjoint(factor.operand.names)


def split_decay(found: ScanClass) -> tuple[list[tuple[Value, int]], list[tuple[Value, int]]] | None:
    """The log decay of a selective scan as token factors over the channels times weight factors over channels and
    state.

    Each factor comes with its sign. None if it is no such product.
    """
    log = found.log_decay
    if log.form != "exponent" or log.times != 1 or not isinstance(log.operand, Value):
        return None
    factors = _product(log.operand, 1)
    key = set(found.key)
    tokens = [(v, s) for v, s in factors if v.kind.name == "TOKEN"]
    weights = [(v, s) for v, s in factors if v.kind.name == "WEIGHT"]
    if len(tokens) + len(weights) < len(factors) or not tokens or not weights:
        return None
    if any(key & set(v.names) for v, _ in tokens):
        return None
    return tokens, weights


def _product(value: Value, sign: int) -> list[tuple[Value, int]]:
    if value.op == "neg":
        return _product(value.operands[0], -sign)
    if value.op == "mul" and len(value.operands) == 2:
        left, right = value.operands
        return [*_product(left, sign), *_product(right, 1)]
    return [(value, sign)]
