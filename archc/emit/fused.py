"""What the folds found that changes the text: attention and scans that a kernel runs whole, and the values they
swallow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.elaborate.call import Call, Program
from archc.emit.chunks import Regions, alike, call_regions, kernel_loops, kernel_scans
from archc.emit.numbers import number_from
from archc.emit.units import Units
from archc.fuse.builder import Given, Numbers
from archc.fuse.composed import Composition, compositions
from archc.fuse.convs import FusedConv, fused_convs
from archc.fuse.fused_scan import FusedScan
from archc.fuse.parts import is_complex
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph, Kind, Value
from archc.ops.support import Support
from archc.ops.table import OPS
from archc.passes.attention import Attention, attentions
from archc.passes.buckets import Buckets, buckets
from archc.passes.caches import reach
from archc.passes.delta import inside_rule
from archc.passes.norms import Norm, norms
from archc.passes.placed import is_placed
from archc.passes.scan_class import ScanClass, inside
from archc.passes.support import live_values
from archc.text import ast


@dataclass(frozen=True, eq=False)
class Fused:
    """`attention` by its output, `reads` the class of a scan by each of its read-outs, `absorbed` the values that no
    line computes, `regions` where each call was elaborated, `matrices` the weights that `@` contracts, with the axes
    that it sums, `spans` how far the keys of a pair can lie, `norms` what a framework's own norm computes, `gated` the
    scans and `convs` the convolutions that run with the equations around them, by what their kernel gives back,
    `composed` the sums over keys that run with their heads composed, `buckets` those that run in the order of buckets,
    `plain` why others, and scans, do not, `parted` the complex results of which only the parts are read."""

    attention: Mapping[Value, Attention]
    reads: Mapping[Value, ScanClass]
    absorbed: frozenset[Value]
    regions: Regions
    matrices: Mapping[Value, tuple[str, ...]]
    spans: Mapping[Value, Support]
    norms: Mapping[Value, Norm]
    gated: Mapping[Value, FusedScan]
    convs: Mapping[Value, FusedConv]
    composed: Mapping[Value, Composition]
    buckets: Mapping[Value, Buckets]
    plain: Mapping[Value, str]
    parted: frozenset[Value]

    @cached_property
    def remembered(self) -> frozenset[Value]:
        """What a decoder remembers though only its kernel computes it."""
        scans = (f.scan for f in self.gated.values() if f.kind == "diagonal")
        return frozenset([*scans, *(c.conv for c in self.convs.values())])

    @cached_property
    def rounded(self) -> frozenset[Value]:
        """What kernels give back in the compute type, that of their first input, whatever the spec has it in."""
        given = {v for v, found in self.gated.items() if not found.inputs[0].value.type.wide}
        return frozenset(v for v in given if not is_complex(v) or v in self.parted)

    def is_matrix(self, weight: Value) -> bool:
        """Whether the weight is stored as a matrix: [kept, contracted, made]."""
        return weight in self.matrices


def find(program: Program, units: Units) -> Fused:
    """Reads the folds once for the whole program."""
    graph = program.graph
    attention = {v: a for v, a in attentions(graph).items() if _runs_whole(a)}
    reads: dict[Value, ScanClass] = {}
    absorbed: set[Value] = set()
    users = {v: us for r, _ in graph.regions() for v, us in r.users.items()}
    regions = call_regions(program)
    for each in kernel_scans(program, units, regions).values():
        both = [each, *([] if each.normaliser is None else [each.normaliser])]
        reads |= {c.reads[0].value: c for c in both}
        within = {v for c in both for v in inside(c) if v.kind is not Kind.WEIGHT}
        absorbed |= within - {r.value for c in both for r in c.reads}
        absorbed |= _decay_chain(each, users) if each.kind != "long_convolution" else set()
    for found in attention.values():
        absorbed |= _between(found)
    for rule in kernel_loops(program, units, regions).values():
        reads[rule.reads[0].value] = rule
        absorbed |= inside_rule(rule, users)
    fused = {f.result: f for f in fused_scans(graph).values()}
    alone = {v: reason for v, f in fused.items() if (reason := _obstacle(f, users))}
    fused = {v: f for v, f in fused.items() if v not in alone}
    partly = _partly(fused, units, regions)
    if numbers := _numbers({v: (f.scan, v, *f.computed) for v, f in fused.items() if v not in partly}, units, regions):
        fused = {f.result: f for f in fused_scans(graph, numbers).values() if f.result in fused}
    signatures = {v: f.signature for v, f in fused.items() if v not in partly}
    other = partly | _other_numbers(signatures, units, regions)
    gated = {v: f for v, f in fused.items() if v not in other}
    for scan in gated.values():
        absorbed |= scan.computed
    convs = _convs(graph, frozenset(absorbed | gated.keys()), units, regions)
    for conv in convs.values():
        absorbed |= conv.computed
    composed, plain = _composed(graph, units, regions)
    in_buckets, scattered = _buckets(graph, units, regions)
    plain = {v: reason for v, reason in (plain | scattered).items() if v not in in_buckets}
    return Fused(
        attention, reads, frozenset(absorbed), regions, contracted_weights(graph), reach(graph), norms(graph), gated,
        convs, composed, in_buckets, plain | alone | other, frozenset(v for v in gated if _is_parted(v, users)),
    )  # fmt: skip


def contracted_weights(graph: Graph) -> dict[Value, tuple[str, ...]]:
    """The weights that `@` contracts, with the axes that go: they are stored as matrices."""
    return {
        w: v.attrs["over"]
        for v in live_values(graph)
        if v.op == "contract" and "made" in v.attrs
        for w in v.operands[1:]
        if w.op == "weight" and len(v.operands) == 2
    }


def _runs_whole(found: Attention) -> bool:
    """Whether plain attention goes to its kernel: over one axis, of one type, written by one function."""
    calls = {v.origin.calls for v in (found.output, found.weights, found.scores)}
    wide = {v.type.wide for v in (found.query, found.key, found.value)}
    return len(found.over) == 1 and len(calls) == 1 and len(wide) == 1


def _obstacle(found: FusedScan, users: Mapping[Value, Sequence[Value]]) -> str:
    """Why a scan is emitted without its equations, if it is.

    The kernel gives its result in the type of its inputs. What later tokens read as well keeps single precision.
    """
    if found.gates is None:
        return found.reason
    later = [u.op for u in users.get(found.result, ()) if OPS[u.op].flow == "time"]
    if later:
        return f"its result keeps single precision, for later tokens read it too ('{later[0]}')"
    for handed in (*found.inputs, *found.weights):
        if is_placed(handed.value):
            return f"'{handed.name}' is the same for all sequences, and its kernel takes tokens of a batch"
        if not handed.is_real:
            return f"'{handed.name}' is of {handed.value.type.dtype} numbers, and its kernel takes real ones"
    return ""


def _is_parted(value: Value, users: Mapping[Value, Sequence[Value]]) -> bool:
    """Whether only the parts of a complex value are read, where it was computed."""
    readers = users.get(value, ())
    near = all(u.op in ("real", "imag") and u.origin.calls == value.origin.calls for u in readers)
    return is_complex(value) and bool(readers) and near


def _convs(graph: Graph, elsewhere: frozenset[Value], units: Units, regions: Regions) -> dict[Value, FusedConv]:
    """Every convolution with what its kernel computes, as far as it is the same in all calls of a unit, but for the
    numbers that are written there, and the unit can name its weights.
    """
    found = fused_convs(graph, elsewhere)
    numbers = _numbers({f.conv: (v, *f.computed) for v, f in found.items()}, units, regions)
    while True:
        found = fused_convs(graph, elsewhere, numbers)
        convs = {f.conv: f for f in found.values()}
        other = set(_other_numbers({v: f.signature for v, f in convs.items()}, units, regions))
        for unit, same in alike(convs, units, regions):
            if not _in_reach([h.value for h in convs[same[0]].weights], unit.first):
                other.update(same)
        if not other:
            return found
        elsewhere = elsewhere.union(convs[v].result for v in other)


def _numbers(computed: Mapping[Value, Iterable[Value]], units: Units, regions: Regions) -> Numbers:
    """The numbers in equations that differ among the calls of a unit and are written there: kernels are handed them.

    computed: what each kernel computes, by its result.
    """
    out: dict[tuple[Value, int], Given] = {}
    for unit, same in alike(computed, units, regions):
        made = [sorted({*computed[v]}, key=lambda each: each.id) for v in same]
        names: dict[ast.Expr | str, str] = {}
        for values in zip(*made, strict=False):
            for index, numbers in enumerate(zip(*(v.args for v in values), strict=False)):
                if len(set(numbers)) > 1 and not any(isinstance(n, Value) for n in numbers):
                    node = number_from(unit.first, values[0], index)
                    if node is not None:
                        out |= {(v, index): Given(_named(node, names), v, index) for v in values}
    return out


def _named(node: ast.Expr, names: dict[ast.Expr | str, str]) -> str:
    """What the kernel calls a number, one that it has already if it is the same."""
    match node:
        case ast.Name():
            return names.setdefault(node.text, node.text)
        case ast.Unary(value=ast.Name(text=text)):
            return names.setdefault(f"-{text}", f"minus_{text}")
    return names.setdefault(node, f"number_{len(names) + 1}")


def _partly(fused: Mapping[Value, FusedScan], units: Units, regions: Regions) -> dict[Value, str]:
    """The scans with equations that other calls of their fn run another way, as the numbers in them say, and why."""
    out: dict[Value, str] = {}
    results = {f.scan: v for v, f in fused.items()}
    scans = {v for region in regions.values() for v in region.values if v.op == "scan"}
    for unit, same in alike(dict.fromkeys(scans), units, regions):
        if len({(v in results, results.get(v) is v) for v in same}) > 1:
            reason = f"calls of '{unit.first.name}' have other numbers in its decay"
            out |= {results[v]: reason for v in same if v in results}
    return out


def _other_numbers(signatures: Mapping[Value, object], units: Units, regions: Regions) -> dict[Value, str]:
    """What cannot be a kernel with its equations, for they differ among the calls of a unit, and why."""
    out: dict[Value, str] = {}
    for unit, same in alike(signatures, units, regions):
        if len({signatures[v] for v in same}) > 1:
            out |= dict.fromkeys(same, f"calls of '{unit.first.name}' have other numbers in its equations")
    return out


def _composed(graph: Graph, units: Units, regions: Regions) -> tuple[dict[Value, Composition], dict[Value, str]]:
    """The sums over keys that a kernel of composed heads runs, and why it does not run others.

    The calls of a unit share its text, so what is unrolled and the numbers in it must be the same in all of them.
    """
    found = compositions(graph)
    composed = {v: c for v, c in found.items() if isinstance(c, Composition)}
    plain = {v: reason for v, reason in found.items() if isinstance(reason, str)}
    for unit, same in alike(found, units, regions):
        reason = ""
        if len({composed[v].signature if v in composed else None for v in same}) > 1:
            reason = f"calls of '{unit.first.name}' mix heads in different sizes or with different numbers"
        elif same[0] in composed and not _in_reach([h.value for h in composed[same[0]].handed], unit.first):
            reason = "it reads weights of a shared fn that is handed to another"
        if reason:
            plain |= dict.fromkeys(same, reason)
            composed = {v: c for v, c in composed.items() if v not in same}
    return composed, plain


def _buckets(graph: Graph, units: Units, regions: Regions) -> tuple[dict[Value, Buckets], dict[Value, str]]:
    """The sums over keys that run in the order of buckets, in all calls of a unit, and why others do not."""
    found = buckets(graph)
    kept = {v: b for v, b in found.items() if isinstance(b, Buckets)}
    for _, same in alike(found, units, regions):
        if any(v not in kept for v in same):
            kept = {v: b for v, b in kept.items() if v not in same}
    reasons = {v: f"it cannot run in the order of buckets: {b}" for v, b in found.items() if isinstance(b, str)}
    return kept, reasons


def _in_reach(handed: Iterable[Value], call: Call) -> bool:
    """Whether a call can name the weights that a kernel reads."""
    return all(v.op != "weight" or call.way_to(v) is not None for v in handed)


def _decay_chain(found: ScanClass, users: Mapping[Value, Sequence[Value]]) -> set[Value]:
    """The values between the decay and what its logarithm is taken from, where nothing else reads them."""
    out: set[Value] = set()
    value = found.scan.args[0]
    while isinstance(value, Value) and value is not found.log_decay.operand and len(users.get(value, ())) <= 1:
        out.add(value)
        (value,) = value.operands
    return out


def _between(found: Attention) -> set[Value]:
    """The pairs between the scores and the output."""
    out: set[Value] = set()
    todo = [v for v in found.output.operands if v.kind.name == "PAIR"]
    while todo:
        value = todo.pop()
        out.add(value)
        todo += [v for v in value.operands if v.kind.name == "PAIR" and v not in out]
    return out
