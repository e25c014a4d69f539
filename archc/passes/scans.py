"""Which algorithm a scan wants: read from axes and from the product structure, nothing else.

S are the axes of h; R those over which all read-outs contract (none if h escapes); H those of S outside R that the
decay, or an input factor with an axis of R, has; V the rest. The table is in the manual of the language, section "One
scan, many recurrences".
"""

from __future__ import annotations

from dataclasses import replace

from archc.diagnostics import Span
from archc.ir.graph import Graph, Kind, Operand, Region, Value
from archc.passes.in_calls import can_be_read
from archc.passes.log_decay import NO_LOGARITHM, log_decay
from archc.passes.normalisers import normalised
from archc.passes.readout import ReadOut, read_before, read_outs
from archc.passes.scan_class import Factor, Group, ScanClass, ScanKind, axes


def classify(graph: Graph) -> dict[Value, ScanClass]:
    """Every live scan with its class."""
    out: dict[Value, ScanClass] = {}
    for region, _ in graph.regions():
        found = {v: _classify(v, region) for v in region.values if v.op == "scan" and v in region.live}
        out |= found | normalised(found)
    return out


def _classify(scan: Value, region: Region) -> ScanClass:
    decay, entering = scan.args
    factors = tuple(factors_of(entering, set(scan.names), scan.origin.calls))
    reads = read_outs(scan, region)
    decays = set(decay.names) if isinstance(decay, Value) else set[str]()
    varies = isinstance(decay, Value) and decay.kind is Kind.TOKEN
    before = read_before(scan, region) is not None
    none: dict[Group, tuple[Factor, ...]] = {"head": factors, "key": (), "value": ()}
    log = log_decay(decay, scan.origin.calls)
    plain = ScanClass(scan, "diagonal", scan.names, (), (), none, log, varies, before=before)
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


def factors_of(entering: Operand, state: set[str], calls: tuple[Span, ...], power: int = 1) -> list[Factor]:
    """The factors of the input: outer products, and whatever is as large as the state, are taken apart.

    calls: of the function that the scan is written in, which has to name them.
    """
    if not isinstance(entering, Value) or not can_be_read(entering, calls):
        return [Factor(entering, power)]
    if entering.op in ("fp32", "narrow"):
        inner = factors_of(entering.args[0], state, calls, power)
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
            return [f for a in entering.args for f in factors_of(a, state, calls, power)]
        case "div":
            return factors_of(entering.args[0], state, calls, power) + factors_of(
                entering.args[1], state, calls, -power
            )
        case "neg":
            return [Factor(-1), *factors_of(entering.args[0], state, calls, power)]
    return [Factor(entering, power)]


def _diagonal(found: ScanClass) -> str:
    fixed = "" if found.varies else ", the same decay for every token"
    over = axes(found.scan.names) if found.scan.names else "one number"
    result = "the state before each token is what is read" if found.before else "the state itself is the result"
    return f"diagonal scan over {over}{fixed}; {result}"


def kept_sentence(scan: Value, problem: str) -> str:
    """How a scan runs whose every state is stored, and why."""
    width = 8 if scan.type.dtype == "complex" else 4
    return f"state {axes(scan.names)} is kept for every token ({scan.type.elements * width:,} bytes a token): {problem}"


def _sentence(found: ScanClass) -> str:
    head, key, value = axes(found.heads), axes(found.key), axes(found.value)
    when = ", read before the update" if found.before else ""
    when += " plus a bonus for the present token" if found.bonus else ""
    match found.kind:
        case "selective":
            groups = f" in groups {axes(found.groups)}" if found.groups else ""
            return f"selective scan: channels {head}{groups}, state {key} contracted at once and never stored{when}"
        case "long_convolution":
            return f"long convolution (the decay is the same for every token): channels {head}, state {key}{when}"
        case "chunked":
            decay = "a decay per head" if found.varies else "a fixed decay"
            return f"chunked matrix form, {decay}: heads {head}, key {key}, value {value}{when}"
        case _:
            return f"chunked matrix form, a decay per key: heads {head}, key {key}, value {value}{when}"
