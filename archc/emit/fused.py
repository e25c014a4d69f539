"""What the folds found that changes the text: attention and scans that a kernel runs whole, and the values they
swallow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archc.elaborate.call import Call, Program
from archc.emit.placed import is_placed
from archc.ir.graph import Region, Value
from archc.ops.support import Support
from archc.passes.attention import Attention, attentions
from archc.passes.caches import reach
from archc.passes.norms import Norm, norms
from archc.passes.scans import Factor, ScanClass, classify, factors_of, inside
from archc.passes.support import live_values

KERNELS = frozenset({"selective", "chunked", "chunked_key"})


@dataclass(frozen=True, eq=False)
class Fused:
    """`attention` by its output, `reads` the class of a scan by each of its read-outs, `absorbed` the values that no
    line computes, `regions` where each call was elaborated, `matrices` the weights that `@` contracts, `spans` how
    far the
    keys of a pair can lie, `norms` what a framework's own norm computes."""

    attention: Mapping[Value, Attention]
    reads: Mapping[Value, ScanClass]
    absorbed: frozenset[Value]
    regions: Mapping[Call, Region]
    matrices: frozenset[Value]
    spans: Mapping[Value, Support]
    norms: Mapping[Value, Norm]

    def is_matrix(self, weight: Value) -> bool:
        """Whether the weight is stored as a matrix: [kept, contracted, made]."""
        return weight in self.matrices


def find(program: Program) -> Fused:
    """Reads the folds once for the whole program."""
    graph = program.graph
    attention = {v: a for v, a in attentions(graph).items() if a.causal and len(a.over) == 1}
    reads: dict[Value, ScanClass] = {}
    absorbed: set[Value] = set()
    users = {v: len(us) for r, _ in graph.regions() for v, us in r.users.items()}
    for each in classify(graph).values():
        if runs_fused(each):
            reads[each.reads[0].value] = each
            absorbed |= inside(each) - {r.value for r in each.reads}
            absorbed |= _decay_chain(each, users)
    for found in attention.values():
        absorbed |= _between(found)
    regions: dict[Call, Region] = {}
    _regions(program.root, program.root.region, regions)
    matrices = {
        w
        for v in live_values(graph)
        if v.op == "contract" and "made" in v.attrs
        for w in v.operands[1:]
        if w.op == "weight" and len(v.operands) == 2
    }
    return Fused(attention, reads, frozenset(absorbed), regions, frozenset(matrices), reach(graph), norms(graph))


def runs_fused(found: ScanClass) -> bool:
    """Whether the kernels of the chunked and selective forms run this scan; the others run as written."""
    if found.kind not in KERNELS or len(found.reads) != 1 or found.column_of is not None:
        return False
    if found.scan.type.dtype == "complex" or not found.factors["key"] or len(found.key) != 1:
        return False
    if found.kind == "selective" and (found.before or found.bonus):
        return False
    read = [found.reads[0].query, found.log_decay.operand, *(f.operand for fs in found.factors.values() for f in fs)]
    if any(isinstance(each, Value) and is_placed(each) for each in read):
        return False  # the kernels want a batch
    if found.bonus and bonus_sides(found) is None:
        return False
    held = set(found.key) if found.kind == "selective" else {*found.key, *found.heads}
    if not set(found.reads[0].query.names) <= held:
        return False
    names = [set(f.operand.names) for f in found.factors["key"] if isinstance(f.operand, Value)]
    if found.kind == "selective":
        return split_decay(found) is not None and all(n <= set(found.key) for n in names)
    return all(n <= set(found.key) | set(found.heads) for n in names)


def bonus_sides(found: ScanClass) -> tuple[tuple[Factor, ...], tuple[Factor, ...]] | None:
    """What is added to the state before it is read, as factors of the keys and factors of the values.

    None if it is no such product.
    """
    (bonus,) = found.bonus
    factors = factors_of(bonus, set(found.scan.names))
    names = [set(f.operand.names) if isinstance(f.operand, Value) else set[str]() for f in factors]
    keys, values = set(found.key), set(found.value)
    if any(n & keys and n & values for n in names) or not any(n & keys for n in names):
        return None
    sides = [bool(n & keys) for n in names]
    return (
        tuple(f for f, of_key in zip(factors, sides, strict=True) if of_key),
        tuple(f for f, of_key in zip(factors, sides, strict=True) if not of_key),
    )


def _decay_chain(found: ScanClass, users: Mapping[Value, int]) -> set[Value]:
    """The values between the decay and what its logarithm is taken from, where nothing else reads them."""
    out: set[Value] = set()
    value = found.scan.args[0]
    while isinstance(value, Value) and value is not found.log_decay.operand and users.get(value, 0) <= 1:
        out.add(value)
        value = value.args[0]
    return out


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
    if not tokens or not weights or any(key & set(v.names) for v, _ in tokens):
        return None
    return tokens, weights


def _product(value: Value, sign: int) -> list[tuple[Value, int]]:
    if value.op == "neg":
        return _product(value.operands[0], -sign)
    if value.op == "mul" and len(value.operands) == 2:
        left, right = value.operands
        return [*_product(left, sign), *_product(right, 1)]
    return [(value, sign)]


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
