"""Which algorithm a scan wants: read from axes and from the product structure, nothing else.

S are the axes of h; R those over which all read-outs contract (none if h escapes); H those of S outside R that the
decay, or an input factor with an axis of R, has; V the rest. The table is in the manual of the language, section "One
scan, many recurrences".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from archc.ir.graph import Graph, Kind, Operand, Region, Value
from archc.ops.table import OPS
from archc.passes.log_decay import NO_LOGARITHM, LogDecay, log_decay
from archc.passes.readout import ReadOut, read_outs

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


def classify(graph: Graph) -> dict[Value, ScanClass]:
    """Every live scan with its class."""
    out: dict[Value, ScanClass] = {}
    for region, _ in graph.regions():
        found = {v: _classify(v, region) for v in region.values if v.op == "scan" and v in region.live}
        out |= found | _normalised(found)
    return out


def _classify(scan: Value, region: Region) -> ScanClass:
    decay, entering = scan.args
    factors = tuple(factors_of(entering, set(scan.names)))
    reads = read_outs(scan, region)
    decays = set(decay.names) if isinstance(decay, Value) else set[str]()
    varies = isinstance(decay, Value) and decay.kind is Kind.TOKEN
    plain = ScanClass(
        scan, "diagonal", scan.names, (), (), {"head": factors, "key": (), "value": ()}, log_decay(decay), varies
    )
    problem = _problem(reads)
    if reads is None or problem:
        sentence = _diagonal(plain) if not problem else kept_sentence(scan, problem)
        return replace(plain, fits=not problem, sentence=sentence)
    over = reads[0].over
    with_key = [f for f in factors if f.names & over]
    heads = {n for n in scan.names if n not in over and (n in decays or any(n in f.names for f in with_key))}
    value = {n for n in scan.names if n not in over and n not in heads}
    kind: ScanKind
    if not value:
        kind = "selective" if varies else "long_convolution"
    else:
        kind = "chunked_key" if decays & over else "chunked"
    found = replace(
        plain,
        kind=kind,
        heads=tuple(n for n in scan.names if n in heads),
        key=tuple(n for n in scan.names if n in over),
        value=tuple(n for n in scan.names if n in value),
        factors={
            "head": tuple(f for f in factors if f not in with_key and not f.names & value),
            "key": tuple(with_key),
            "value": tuple(f for f in factors if f.names & value),
        },
        reads=reads,
        before=reads[0].before,
    )
    if kind == "selective":
        found = replace(found, heads=tuple(dict.fromkeys((*found.groups, *found.heads))))
    if value and not found.log_decay.exists:
        return replace(plain, fits=False, sentence=kept_sentence(scan, NO_LOGARITHM))
    return replace(found, sentence=_sentence(found))


DIRECTLY = "contract it directly after the scan"


def _problem(reads: tuple[ReadOut, ...] | None) -> str:
    """Why several read-outs cannot share one state that is never stored."""
    if reads is None:
        return ""
    if len({r.over for r in reads}) > 1:
        return f"its read-outs contract different axes; {DIRECTLY}"
    if len({r.before for r in reads}) > 1:
        return f"it is read both before and after the update; {DIRECTLY}"
    return ""


def factors_of(entering: Operand, state: set[str], power: int = 1) -> list[Factor]:
    """The factors of the input: outer products, and whatever is as large as the state, are taken apart."""
    if not isinstance(entering, Value):
        return [Factor(entering, power)]
    if entering.op in ("fp32", "narrow"):
        inner = factors_of(entering.args[0], state, power)
        return (
            [Factor(entering, power)]
            if entering.op == "narrow" and inner == [Factor(entering.args[0], power)]
            else inner
        )
    outer = all(set(v.names) < set(entering.names) for v in entering.operands)
    if not outer and not state <= set(entering.names):
        return [Factor(entering, power)]
    match entering.op:
        case "mul":
            return [f for a in entering.args for f in factors_of(a, state, power)]
        case "div":
            return factors_of(entering.args[0], state, power) + factors_of(entering.args[1], state, -power)
        case "neg":
            return [Factor(-1), *factors_of(entering.args[0], state, power)]
    return [Factor(entering, power)]


def _normalised(found: Mapping[Value, ScanClass]) -> dict[Value, ScanClass]:
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
                sentence=f"scan {_axes(alone.scan.names)}: the normaliser of '{name}', sums of its keys",
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


Powers = Counter[tuple[Operand, int]]


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
    return _bare(factor.operand), factor.power


def _sums_keys(found: ScanClass, whole: ScanClass) -> bool:
    """Whether a scan has the decay and the keys of a chunked one, and both are read once by the same queries."""
    if found.kind not in ("selective", "long_convolution") or found.scan.args[0] != whole.scan.args[0]:
        return False
    if found.scan.origin.calls != whole.scan.origin.calls or not len(found.reads) == len(whole.reads) == 1:
        return False
    if any(c.before or c.bonus for c in (found, whole)):
        return False
    mine, theirs = found.reads[0], whole.reads[0]
    same = mine.over == theirs.over and _bare(mine.query) is _bare(theirs.query)
    parts = [theirs.query, *(f.operand for f in whole.factors["key"])]
    if mine.value.type.wide != any(isinstance(p, Value) and p.type.wide for p in parts):
        return False  # the kernel gives the normaliser in the type of these
    keys, entering = whole.factors["key"], found.scan.args[1]
    whole_keys = [_same(f) for f in keys] == [(_bare(entering), 1)]
    sums = whole_keys or _multiplied(keys, _input(found)) == _input(found)
    return same and sums and set(mine.value.names) == set(whole.heads) and not _depends(whole.scan, mine.value)


def _bare(operand: Operand) -> Operand:
    """What is brought to another precision."""
    while isinstance(operand, Value) and operand.op in ("fp32", "narrow"):
        operand = operand.args[0]
    return operand


def _depends(value: Value, on: Value) -> bool:
    """Whether a value is computed from an earlier one."""
    todo, seen = [value], {value}
    while todo:
        more = {v for v in todo.pop().operands if v.id >= on.id} - seen
        seen |= more
        todo += more
    return on in seen


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


def _axes(names: tuple[str, ...]) -> str:
    return f"[{' '.join(names)}]"


def _diagonal(found: ScanClass) -> str:
    fixed = "" if found.varies else ", the same decay for every token"
    return f"diagonal scan over {_axes(found.scan.names)}{fixed}; the state itself is the result"


def kept_sentence(scan: Value, problem: str) -> str:
    """How a scan runs whose every state is stored, and why."""
    width = 8 if scan.type.dtype == "complex" else 4
    return (
        f"state {_axes(scan.names)} is kept for every token ({scan.type.elements * width:,} bytes a token): {problem}"
    )


def _sentence(found: ScanClass) -> str:
    head, key, value = _axes(found.heads), _axes(found.key), _axes(found.value)
    when = ", read before the update" if found.before else ""
    when += " plus a bonus for the present token" if found.bonus else ""
    match found.kind:
        case "selective":
            groups = f" in groups {_axes(found.groups)}" if found.groups else ""
            return f"selective scan: channels {head}{groups}, state {key} contracted at once and never stored{when}"
        case "long_convolution":
            return f"long convolution (the decay is the same for every token): channels {head}, state {key}{when}"
        case "chunked":
            decay = "a decay per head" if found.varies else "a fixed decay"
            return f"chunked matrix form, {decay}: heads {head}, key {key}, value {value}{when}"
        case _:
            return f"chunked matrix form, a decay per key: heads {head}, key {key}, value {value}{when}"
