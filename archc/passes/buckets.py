"""Which pair programs let a query see only keys of its own bucket, so that tokens can be sorted by bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archc.ir.graph import Graph, Kind, Operand, Region, Value
from archc.ops.table import OPS
from archc.passes.attention import alone
from archc.passes.placed import is_placed
from archc.passes.precision import precise

MIXES = frozenset({"contract", "reduce"})
"""Ops on pairs that may join elements of other axes than lanes."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """softmax(scores, where = same and ...) . values, where `same` says that a query and a key are in one bucket.

    `bucket` is a token of whole numbers over `lanes`, each sorted by itself, and over `rounds` if tokens meet where
    they are equal in any of several. Nothing between the lifts and the `output` mixes lanes. `weights` is the softmax,
    `pairs` are all that the output is made of but for what `same` is made of.
    """

    output: Value
    weights: Value
    same: Value
    bucket: Value
    lanes: tuple[str, ...]
    rounds: tuple[str, ...]
    pairs: frozenset[Value]

    @property
    def among(self) -> int | None:
        """How many buckets there are, where a bucket is the place of the largest of so many."""
        chosen = precise(self.bucket)
        if chosen.op != "argmax":
            return None
        source, (over,) = chosen.operands[0], chosen.attrs["over"]
        return source.type.sizes[over]

    @property
    def share(self) -> float | None:
        """The part of all pairs that is in one bucket if every bucket is as full as any other; None: not known."""
        rounds = self.bucket.type.sizes[self.rounds[0]] if self.rounds else 1
        return None if self.among is None else 1 - (1 - 1 / self.among) ** rounds

    @property
    def sentence(self) -> str:
        """What a query sees, and how much of all pairs that is."""
        rounds = self.bucket.type.sizes[self.rounds[0]] if self.rounds else 1
        where = f"in its bucket in one of {rounds} rounds" if rounds > 1 else "in its bucket"
        even = "" if self.share is None else f"; of {self.among} even buckets that is {self.share:.2%} of all pairs"
        name = f"'{self.bucket.label}'" if self.bucket.label else "bucket"
        return f"pairs within buckets, in the order of {name}: a query sees the keys {where}{even}"


def buckets(graph: Graph) -> dict[Value, Buckets | str]:
    """By its output, every sum over keys whose mask asks for one bucket; or why it cannot be sorted."""
    found: dict[Value, Buckets | str] = {}
    for region, _ in graph.regions():
        for value in region.values:
            if value.op == "contract_keys" and value in region.live:
                each = _recognise(value, region)
                if each is not None:
                    found[value] = each
    return found


def _recognise(output: Value, region: Region) -> Buckets | str | None:
    softmaxes = [v for v in _pairs(output.operands, None) if v.op == "softmax_keys"]
    if not softmaxes or len(softmaxes[0].args) == 1:
        return None
    weights = softmaxes[0]
    found = next(((v, *m) for v in _conjuncts(weights.args[1]) if (m := _meeting(v)) is not None), None)
    if found is None:
        return None
    same, bucket, rounds = found
    lanes = tuple(n for n in bucket.names if n not in rounds)
    made = Buckets(output, weights, same, bucket, lanes, rounds, frozenset(_pairs(output.operands, same)))
    return _obstacle(made, region, len(softmaxes)) or made


def _conjuncts(mask: Operand) -> Iterator[Value]:
    """What must all be true."""
    if isinstance(mask, Value):
        if mask.op == "and":
            for each in mask.args:
                yield from _conjuncts(each)
        else:
            yield mask


def _meeting(mask: Value) -> tuple[Value, tuple[str, ...]] | None:
    """The bucket of `queries(b) == keys(b)`, and the rounds if the mask is that one of them is so: that the number of
    those that are is above 0."""
    match mask.op, mask.args:
        case "eq", (Value() as left, Value() as right) if {left.op, right.op} == {"queries", "keys"}:
            token = left.operands[0]
            fits = token is right.operands[0] and token.type.dtype == "int" and token.op != "pos"
            return (token, ()) if fits else None
        case ("gt", (Value() as count, 0)) | ("ge", (Value() as count, 1)):
            if count.op != "reduce" or count.attrs["fn"] not in ("sum", "max"):
                return None
            (each,) = count.operands
            if each.op != "where" or each.args[1:] != (1, 0) or not isinstance(each.args[0], Value):
                return None
            found = _meeting(each.args[0])
            return None if found is None or found[1] else (found[0], count.attrs["over"])
    return None


def _pairs(ends: tuple[Operand, ...], stop: Value | None) -> list[Value]:
    """The pairs that values are made of, each once, without what `stop` is made of."""
    found: dict[Value, None] = {}
    todo = [v for v in ends if isinstance(v, Value)]
    while todo:
        value = todo.pop()
        if value.kind is Kind.PAIR and value not in found and value is not stop:
            found[value] = None
            todo += value.operands
    return list(found)


def _obstacle(made: Buckets, region: Region, softmaxes: int) -> str:
    """Why lanes cannot run by themselves in tiles; nothing if they can."""
    output, weights, lanes = made.output, made.weights, made.lanes
    if softmaxes > 1 or not any(alone(v, region) is weights for v in output.operands):
        return "more is made of its weights than one sum over keys"
    if len(made.rounds) > 1 or made.bucket.names != (*lanes, *made.rounds):
        return "its rounds are not one axis, the last one of the bucket"
    if output.attrs["over"] or output.names[: len(weights.names)] != weights.names:
        return "what it gives does not begin with the axes of its weights"
    if len({v.origin.calls for v in (output, *made.pairs, made.same)}) > 1 or not made.pairs.isdisjoint(region.params):
        return "its pairs are made by several fns"
    for value in sorted(made.pairs, key=lambda v: v.id):
        token = value.operands[0] if value.op in ("queries", "keys") else None
        lacks = (token is not None and token.op != "pos") or value is weights
        if lacks and value.names[: len(lanes)] != lanes:
            return f"'{value.label or value.op}' does not begin with the axes of the bucket"
        if token is not None and token.op != "pos" and is_placed(token):
            return f"'{token.label or token.op}' is made of positions alone"
        if any(v.kind is not Kind.PAIR for v in value.operands) and token is None:
            return "its pairs read weights"
        mixed = value.attrs.get("over", ()) if value.op in MIXES else ()
        simple = OPS[value.op].flow in ("pointwise", "alias", "pair") and value.op != "rename"
        if not (simple or value.op in MIXES) or set(mixed) & set(lanes):
            return f"'{value.label or value.op}' mixes what is sorted apart"
    return ""
