"""What the folds found that changes the text: attention and scans that a kernel runs whole, and the values they
swallow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.elaborate.call import Call, Program
from archc.fuse.convs import FusedConv, fused_convs
from archc.fuse.scans import FusedScan, fused_scans
from archc.ir.graph import Region, Value
from archc.ops.support import Support
from archc.ops.table import OPS
from archc.passes.attention import Attention, attentions
from archc.passes.caches import reach
from archc.passes.matrix_scans import runs_fused
from archc.passes.norms import Norm, norms
from archc.passes.placed import is_placed
from archc.passes.scans import ScanClass, classify, inside
from archc.passes.support import live_values


@dataclass(frozen=True, eq=False)
class Fused:
    """`attention` by its output, `reads` the class of a scan by each of its read-outs, `absorbed` the values that no
    line computes, `regions` where each call was elaborated, `matrices` the weights that `@` contracts, `spans` how
    far the
    keys of a pair can lie, `norms` what a framework's own norm computes, `gated` the scans and `convs` the
    convolutions that run with the equations around them, by what their kernel gives back."""

    attention: Mapping[Value, Attention]
    reads: Mapping[Value, ScanClass]
    absorbed: frozenset[Value]
    regions: Mapping[Call, Region]
    matrices: frozenset[Value]
    spans: Mapping[Value, Support]
    norms: Mapping[Value, Norm]
    gated: Mapping[Value, FusedScan]
    convs: Mapping[Value, FusedConv]

    @cached_property
    def remembered(self) -> frozenset[Value]:
        """What a decoder remembers though only its kernel computes it."""
        scans = (f.scan for f in self.gated.values() if f.kind == "diagonal")
        return frozenset([*scans, *(c.conv for c in self.convs.values())])

    def is_matrix(self, weight: Value) -> bool:
        """Whether the weight is stored as a matrix: [kept, contracted, made]."""
        return weight in self.matrices


def find(program: Program) -> Fused:
    """Reads the folds once for the whole program."""
    graph = program.graph
    attention = {v: a for v, a in attentions(graph).items() if a.causal and len(a.over) == 1}
    reads: dict[Value, ScanClass] = {}
    absorbed: set[Value] = set()
    users = {v: us for r, _ in graph.regions() for v, us in r.users.items()}
    for each in classify(graph).values():
        if runs_fused(each):
            reads[each.reads[0].value] = each
            absorbed |= inside(each) - {r.value for r in each.reads}
            absorbed |= _decay_chain(each, users)
    for found in attention.values():
        absorbed |= _between(found)
    gated = {f.result: f for f in fused_scans(graph).values() if _runs_with_gates(f, users)}
    for scan in gated.values():
        absorbed |= scan.computed
    convs = fused_convs(graph, absorbed)
    for conv in convs.values():
        absorbed |= conv.computed
    regions: dict[Call, Region] = {}
    _regions(program.root, program.root.region, regions)
    matrices = {
        w
        for v in live_values(graph)
        if v.op == "contract" and "made" in v.attrs
        for w in v.operands[1:]
        if w.op == "weight" and len(v.operands) == 2
    }
    spans, own_norms = reach(graph), norms(graph)
    return Fused(attention, reads, frozenset(absorbed), regions, frozenset(matrices), spans, own_norms, gated, convs)


def _runs_with_gates(found: FusedScan, users: Mapping[Value, Sequence[Value]]) -> bool:
    """Whether a scan is emitted with its equations: of real numbers, over one axis if it is selective.

    The kernel gives its result in the type of its inputs. What later tokens read as well keeps single precision.
    """
    if any(OPS[u.op].flow == "time" for u in users.get(found.result, ())):
        return False
    if any(is_placed(h.value) for h in found.inputs):  # the kernel wants a batch
        return False
    real = all(h.value.type.dtype == "real" for h in (*found.inputs, *found.weights))
    return found.gates is not None and real and (found.kind == "diagonal" or len(found.tile) == 1)


def _decay_chain(found: ScanClass, users: Mapping[Value, Sequence[Value]]) -> set[Value]:
    """The values between the decay and what its logarithm is taken from, where nothing else reads them."""
    out: set[Value] = set()
    value = found.scan.args[0]
    while isinstance(value, Value) and value is not found.log_decay.operand and len(users.get(value, ())) <= 1:
        out.add(value)
        value = value.args[0]
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


def _regions(call: Call, region: Region | None, out: dict[Call, Region]) -> None:
    here = call.region or region
    assert here is not None
    out[call] = here
    for below in call.calls.values():
        _regions(below, here, out)
    for stack in call.stacks.values():
        for below in stack.distinct:
            _regions(below, below.region, out)
