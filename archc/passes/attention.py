"""Which pair programs are plain attention, so that a fused kernel can run them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose

from archc.ir.graph import Graph, Operand, Region, Value
from archc.passes.precision import precise

PLAIN_MASKS = ("causal", "window", "everything")


@dataclass(frozen=True, eq=False)
class Attention:
    """softmax(scale * query . key, where = mask) . value, over `over`; all that scaled-dot-product attention can run.

    `query` [groups, members, over], `key` [groups, over] and `value` [groups, values] are tokens: `members` query
    heads share the key head of a group. `window` keys can be seen, the token itself included; None: all, up to the
    token if `causal`. `scores` and `weights` are the pairs between, which nothing else reads.
    """

    output: Value
    query: Value
    key: Value
    value: Value
    scale: float
    causal: bool
    window: int | None
    over: tuple[str, ...]
    groups: tuple[str, ...]
    members: tuple[str, ...]
    values: tuple[str, ...]
    scores: Value
    weights: Value


def attentions(graph: Graph) -> dict[Value, Attention]:
    """Every plain attention by its output, the sum over keys."""
    found: dict[Value, Attention] = {}
    for region, _ in graph.regions():
        for value in region.values:
            if value.op == "contract_keys" and value in region.live:
                attention = _recognise(value, region)
                if attention is not None:
                    found[value] = attention
    return found


def _recognise(output: Value, region: Region) -> Attention | None:
    parts = _two(output.operands, "softmax_keys", "keys", region)
    if parts is None or output.attrs["over"]:
        return None
    weights, values = parts
    mask = mask_window(weights.args[1] if len(weights.args) > 1 else None)
    product, scale = _scaled(weights.args[0], region)
    if mask is None or product is None:
        return None
    lifted = _two(product.operands, "queries", "keys", region)
    if lifted is None:
        return None
    query, key, value = lifted[0].operands[0], lifted[1].operands[0], values.operands[0]
    over: tuple[str, ...] = product.attrs["over"]
    groups = tuple(n for n in key.names if n not in over)
    members = tuple(n for n in query.names if n not in over and n not in groups)
    rest = tuple(n for n in value.names if n not in groups)
    shared = set(over) <= set(query.names) & set(key.names) and set(groups) <= set(query.names) & set(value.names)
    if not shared or set(rest) & set(members):
        return None
    causal, window = mask
    return Attention(output, query, key, value, scale, causal, window, over, groups, members, rest, product, weights)


def alone(value: Operand, region: Region) -> Value | None:
    """The value behind changes of precision, if nothing else reads it on the way."""
    while isinstance(value, Value):
        if len(region.users.get(value, ())) != 1 or value in region.results:
            return None
        if value.op not in ("fp32", "narrow"):
            return value
        value = value.args[0]
    return None


def _two(operands: tuple[Value, ...], one: str, other: str, region: Region) -> tuple[Value, Value] | None:
    """The two operands, the first made by op `one` and read only here, the second by op `other`."""
    if len(operands) != 2:
        return None
    for left, right in (operands, operands[::-1]):
        first, second = alone(left, region), precise(right)
        if first is not None and first.op == one and second.op == other:
            return first, second
        first = precise(left)
        if one == "queries" and first.op == one and second.op == other:
            return first, second
    return None


def _scaled(scores: Operand, region: Region) -> tuple[Value | None, float]:
    """The contraction behind products with numbers, and what they multiply to."""
    scale = 1.0
    value = alone(scores, region)
    while value is not None and value.op in ("mul", "div"):
        numbers = [a for a in value.args if not isinstance(a, Value)]
        if len(numbers) != 1 or (value.op == "div" and isinstance(value.args[1], Value)):
            return None, scale
        scale = scale * numbers[0] if value.op == "mul" else scale / numbers[0]
        value = alone(value.operands[0], region)
    if value is None or value.op != "contract" or isclose(scale, 0):
        return None, scale
    return value, scale


def mask_window(mask: Operand | None) -> tuple[bool, int | None] | None:
    """Whether a mask is causal, and its window; None for any other mask."""
    if mask is None:
        return False, None
    if not isinstance(mask, Value):
        return None
    if mask.op == "and":
        both = [mask_window(a) for a in mask.args]
        sides = [b for b in both if b is not None]
        if len(sides) != 2:
            return None
        windows = [w for _, w in sides if w is not None]
        return any(c for c, _ in sides), min(windows, default=None)
    if mask.op != "mask" or mask.attrs["name"] not in PLAIN_MASKS:
        return None
    name, sizes = mask.attrs["name"], mask.attrs["sizes"]
    return name != "everything", sizes[0] if sizes else None
