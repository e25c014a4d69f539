"""Which scans have a normaliser: another scan of their keys alone that runs with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from archc.ir.graph import Operand, Value
from archc.passes.precision import precise_operand
from archc.passes.scan_class import Factor, Group, ScanClass, axes

Powers = Counter[tuple[Operand, int]]


def normalised(found: Mapping[Value, ScanClass]) -> dict[Value, ScanClass]:
    """Each chunked scan that has a normaliser, and the normaliser: another scan of its keys alone, of the same decay
    and read by the same queries (Katharopoulos et al. 2020, arXiv:2006.16236, equation 9).

    The read-out is then a sum over the very pairs of queries and keys of the chunked scan, whose values are one.
    """
    out: dict[Value, ScanClass] = {}
    for scan, each in found.items():
        if each.kind != "chunked":
            continue
        both = ((c, _with_gates_of(c, each)) for c in found.values() if c.scan not in out)
        alone, whole = next(((c, whole) for c, whole in both if _sums_keys(c, whole)), (None, each))
        if alone is not None:
            name = scan.label or scan.op
            of_keys = replace(
                alone,
                kind="chunked",
                heads=whole.heads,
                key=whole.key,
                factors={"head": (), "key": whole.factors["key"], "value": ()},
                normalises=scan,
                sentence=f"scan {axes(alone.scan.names)}: the normaliser of '{name}', sums of its keys",
            )
            out |= {of_keys.scan: of_keys, scan: replace(whole, normaliser=of_keys)}
    return out


def _with_gates_of(found: ScanClass, whole: ScanClass) -> ScanClass:
    """A chunked scan whose keys have the gates of its heads that another scan's input has beside its keys.

    The input gate of mLSTM is one, i in `S = f S + i v k` and in `z = f z + i k` (Beck et al. 2024, arXiv:2405.04517).
    """
    theirs = _input(found)
    wanted = theirs - _multiplied(whole.factors["key"], theirs)
    gates: list[Factor] = []
    rest: dict[Group, tuple[Factor, ...]] = {}
    for group in ("head", "value"):
        kept: list[Factor] = []
        for factor in whole.factors[group]:
            parts = _parts(factor, theirs)
            of_heads = [p for p in parts if p.names <= set(whole.heads) and wanted[_same(p)]]
            kept += [p for p in parts if p not in of_heads] if of_heads else [factor]
            gates += of_heads
            wanted -= Counter(map(_same, of_heads))
        rest[group] = tuple(kept)
    return replace(whole, factors={**rest, "key": (*whole.factors["key"], *gates)}) if gates else whole


def _input(found: ScanClass) -> Powers:
    """The factors of the input of a scan, in any precision."""
    return Counter(_same(f) for factors in found.factors.values() for f in factors)


def _multiplied(factors: tuple[Factor, ...], known: Powers) -> Powers:
    """What is multiplied in factors, taken apart as far as it is not known."""
    return Counter(_same(p) for f in factors for p in _parts(f, known))


def _parts(factor: Factor, known: Powers) -> list[Factor]:
    """The factors that a factor is a product of, taken apart as far as it is not known."""
    value = factor.operand
    if not isinstance(value, Value) or value.op not in ("mul", "div") or _same(factor) in known:
        return [factor]
    second = factor.power if value.op == "mul" else -factor.power
    left, right = value.args
    return [*_parts(Factor(left, factor.power), known), *_parts(Factor(right, second), known)]


def _same(factor: Factor) -> tuple[Operand, int]:
    """Equal for factors of one value in any precision."""
    return precise_operand(factor.operand), factor.power


def _sums_keys(found: ScanClass, whole: ScanClass) -> bool:
    """Whether a scan has the decay and the keys of a chunked one, and both are read once by the same queries."""
    if found.kind not in ("selective", "long_convolution") or found.scan.args[0] != whole.scan.args[0]:
        return False
    if found.scan.origin.calls != whole.scan.origin.calls or not len(found.reads) == len(whole.reads) == 1:
        return False
    if any(c.before or c.bonus for c in (found, whole)):
        return False
    mine, theirs = found.reads[0], whole.reads[0]
    same = mine.over == theirs.over and precise_operand(mine.query) is precise_operand(theirs.query)
    parts = [theirs.query, *(f.operand for f in whole.factors["key"])]
    if mine.value.type.wide != any(isinstance(p, Value) and p.type.wide for p in parts):
        return False  # the kernel gives the normaliser in the type of these
    keys, entering = whole.factors["key"], found.scan.args[1]
    whole_keys = [_same(f) for f in keys] == [(precise_operand(entering), 1)]
    sums = whole_keys or _multiplied(keys, _input(found)) == _input(found)
    return same and sums and set(mine.value.names) == set(whole.heads) and not _depends(whole.scan, mine.value)


def _depends(value: Value, on: Value) -> bool:
    """Whether a value is computed from an earlier one."""
    todo, seen = [value], {value}
    while todo:
        more = {v for v in todo.pop().operands if v.id >= on.id} - seen
        seen |= more
        todo += more
    return on in seen
