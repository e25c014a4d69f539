"""Attention with composed heads: sums over keys of a softmax whose pairs are mixed across heads before it or after it.

Of the class are programs `y = sum over keys of after(softmax(before(scale * query . key))) value` under a causal mask
or a window, where before and after are computed pair by pair from the pairs themselves, tokens of the query or the
key, and weights. One kernel runs them with all heads of a tile together (DCMHA, Xiao et al. 2024, arXiv:2405.08553;
talking heads, Shazeer et al. 2020, arXiv:2003.02436, are the static case).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from archc.fuse.mixing import Handed, Mixing, Outside
from archc.fuse.unrolled import mixing
from archc.ir.graph import Graph, Kind, Region, Value
from archc.ops.aliases import bare
from archc.passes.attention import attentions, mask_window
from archc.passes.placed import is_placed

SUMS = ("contract_keys", "reduce_keys")


@dataclass(frozen=True, eq=False)
class Composition:
    """A sum over keys that a kernel of composed heads can run.

    `query` and `key` are the tokens whose product over the axes `over` are the scores, `value` those that are summed,
    with the axes `values` besides heads. `heads` are the axes of the scores, `made` what the same axes are called where
    the values are summed. `start` are the scores after products with numbers that the program itself writes: what
    `before` begins with. `window` keys can be seen, the token itself included; None: all up to the token.
    """

    output: Value
    query: Value
    key: Value
    value: Value
    heads: tuple[str, ...]
    made: tuple[str, ...]
    over: tuple[str, ...]
    values: tuple[str, ...]
    scores: Value
    start: Value
    softmax: Value
    window: int | None
    before: Mixing | None
    after: Mixing | None

    @property
    def handed(self) -> tuple[Handed, ...]:
        """The tokens and weights that before and after read."""
        return tuple(h for each in (self.before, self.after) if each is not None for h in each.handed)

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for two programs if one kernel with the same numbers in it runs both."""
        calls = self.output.origin.calls
        mask = next(v for v in self.softmax.operands if v.type.dtype == "bool")
        window = self.window if len(mask.origin.calls) > len(calls) else None  # else it is a number of the program
        return window, *(m and m.signature for m in (self.before, self.after))


def compositions(graph: Graph) -> dict[Value, Composition | str]:
    """Every live sum over keys that is no plain attention: how a kernel runs it, or why none does."""
    plain = attentions(graph)
    out: dict[Value, Composition | str] = {}
    for region, _ in graph.regions():
        for value in region.values:
            if value.op in SUMS and value in region.live and value not in plain:
                try:
                    out[value] = _recognised(value, region)
                except Outside as reason:
                    out[value] = str(reason)
    return out


def _recognised(end: Value, region: Region) -> Composition:
    pairs, value = _sides(end)
    softmax = _only(_found(pairs, lambda v: v.op == "softmax_keys"), "softmax over keys")
    where = softmax.operands[1] if len(softmax.operands) > 1 else None
    mask = mask_window(where)
    if mask is None or not mask[0]:
        raise Outside("its mask is neither causal nor a window")
    if where is None or where.op != "mask":
        raise Outside("its mask is made of several")
    target = softmax.operands[0]
    scores = _only(_found(target, _is_product), "product of queries and keys")
    query, key = sorted(map(bare, scores.operands), key=lambda v: v.op != "queries")
    start = _scaled(scores, region, end)
    before, middle = mixing(start, target, end.origin.calls)
    after, made = mixing(softmax, pairs, end.origin.calls)
    made = tuple(made[softmax.names.index(n)] for n in middle)
    if (softmax.names, pairs.names) != (middle, made):
        raise Outside("the axes of its heads change their order")
    if before is None and after is None:
        raise Outside("its heads are not composed")
    if not scores.names:
        raise Outside("it has no axis of heads")
    found = Composition(
        output=end,
        query=query.operands[0],
        key=key.operands[0],
        value=value.operands[0],
        heads=scores.names,
        made=made,
        over=scores.attrs["over"],
        values=tuple(n for n in value.names if n not in made),
        scores=scores,
        start=start,
        softmax=softmax,
        window=mask[1],
        before=before,
        after=after,
    )
    for token in (found.query, found.key, found.value, *(h.value for h in found.handed if h.side)):
        if is_placed(token) or token.type.dtype != "real":
            raise Outside(f"'{token.label or token.op}' is made of positions alone or of no real numbers")
    return found


def _sides(end: Value) -> tuple[Value, Value]:
    """The pairs and the lifted values of a sum over keys."""
    if end.op != "contract_keys" or end.attrs["over"]:
        raise Outside("it is no sum of values over keys alone")
    lifted = [v for v in end.operands if bare(v).op == "keys"]
    pairs = [v for v in end.operands if v.kind is Kind.PAIR and v not in lifted]
    if len(lifted) != 1 or len(pairs) != 1:
        raise Outside("it sums no product of pairs and values of the keys")
    return pairs[0], bare(lifted[0])


def _is_product(value: Value) -> bool:
    """Whether it is a product of query and key over axes that both have."""
    if value.op != "contract":
        return False
    sides = [bare(v) for v in value.operands]
    shared = all(set(value.attrs["over"]) <= set(v.names) for v in sides)
    return shared and {v.op for v in sides} == {"queries", "keys"}


def _found(below: Value, wanted: Callable[[Value], bool]) -> list[Value]:
    """The first wanted values below a pair, each way down."""
    out: dict[Value, None] = {}
    seen: set[Value] = set()
    todo = [below]
    while todo:
        value = todo.pop()
        if value in seen or value.kind is not Kind.PAIR:
            continue
        seen.add(value)
        if wanted(value):
            out[value] = None
        else:
            todo += value.operands
    return list(out)


def _only(found: list[Value], what: str) -> Value:
    if len(found) != 1:
        raise Outside(f"it has more than one {what}" if found else f"it has no {what}")
    return found[0]


def _scaled(scores: Value, region: Region, end: Value) -> Value:
    """The scores after the products with numbers that the program of the sum writes itself: their text is known."""
    value = scores
    while True:
        users = region.users.get(value, ())
        if len(users) != 1 or users[0].origin.calls != end.origin.calls:
            return value
        (user,) = users
        divides = user.op == "div" and user.args[0] is value
        if not (user.op == "mul" or divides) or len(user.operands) != 1:
            return value
        value = user
