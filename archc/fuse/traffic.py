"""How many bytes a fused kernel moves per element: as it runs, at best, and with every operation by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from archc.fuse.composed import Composition
from archc.fuse.mixing import Mixing
from archc.fuse.on_axes import only_moves
from archc.fuse.parts import is_complex
from archc.ir.graph import Kind, Value
from archc.passes.scan_class import Group, ScanClass

HALF, SINGLE = 2, 4
"""Bytes of an element in bfloat16 and in single precision."""


@dataclass(frozen=True)
class Traffic:
    """Bytes per token and element of the tile (channel), weights and the state between tokens left out.

    forward, backward: the kernel reads its inputs and writes its result; going back it reads them again and the
    result's derivative, and writes theirs; all in bfloat16. ideal_*: the least that it could be if values that are
    read elsewhere as well were computed here where that saves something. separate: the forward pass with every
    operation on its own, single precision where the spec says so.
    """

    forward: float
    backward: float
    ideal_forward: float
    ideal_backward: float
    separate: float


def traffic(
    found: ScanClass,
    tile: tuple[str, ...],
    inputs: Sequence[Value],
    ideal: Sequence[Value],
    values: Iterable[Value],
    *,
    kept: bool = False,
    parts: int = 1,
    results: int = 1,
) -> Traffic:
    """The traffic of a scan whose kernel reads `inputs`, at best `ideal`, and computes `values`; kept: what it reads
    out stays for the backward pass, which at best computes it again. parts: of the keys, each of which reads what has
    no keys and gives a result. results: of an element, two if they are the parts of a complex number; of complex inputs
    each part is read.

    With a decay per key, keys and queries are among the inputs. Else a kernel of outer products reads inputs that heads
    share once for each.
    """
    sizes = found.scan.type.sizes
    elements = prod(sizes[n] for n in tile)
    keys = [f.operand for f in found.factors["key"] if isinstance(f.operand, Value)]
    outer = [] if found.kind == "chunked_key" else [*keys, *(r.query for r in found.reads)]
    forward, backward = _moved([*inputs, *outer], elements, results)
    best = _moved([*ideal, *outer], elements, results)
    if found.kind == "chunked":
        heads = prod(sizes[n] for n in found.heads)
        tokens = [v for v in inputs if v.kind is Kind.TOKEN]
        again = sum(heads * prod(sizes[n] for n in found.value if n in v.names) - v.type.elements for v in tokens)
        forward, backward = forward + HALF * again / elements, backward + 2 * HALF * again / elements
    if parts > 1:
        again = sum(v.type.elements for v in inputs if v.kind is Kind.TOKEN and not set(found.key) & set(v.names))
        result = elements * (parts - 1)
        more = HALF * ((parts - 1) * again + result) / elements
        forward, backward = forward + more, backward + 2 * more - HALF * result / elements
    if kept:
        forward, backward = forward + HALF, backward + HALF
    if found.normaliser is not None:  # stays, too, a number in single precision for every head
        of_head = SINGLE * prod(sizes[n] for n in found.heads) / elements
        forward, backward = forward + of_head, backward + of_head
    alone = sum(_bytes(v) + sum(map(_bytes, v.operands)) for v in values if not only_moves(v))
    return Traffic(forward, backward, min(forward, best[0]), min(backward, best[1]), alone / elements)


def of_convolution(conv: Value, inputs: Sequence[Value], values: Iterable[Value]) -> Traffic:
    """The traffic of a convolution whose kernel reads `inputs` besides what is convolved, and computes `values`.

    Tokens within reach of the taps come from the cache.
    """
    elements = conv.type.elements
    forward, backward = _moved([conv.operands[0], *inputs], elements)
    alone = sum(_bytes(v) + sum(map(_bytes, v.operands)) for v in values if not only_moves(v))
    return Traffic(forward, backward, forward, backward, alone / elements)


@dataclass(frozen=True)
class PairTraffic:
    """Bytes per query, head and channel of an attention with composed heads, weights left out.

    forward, backward: in every pass of its kernel each operand once, since queries of other blocks find keys and values
    in the cache; two passes forward (the normalisers of the softmax, which stay in single precision; the values) and
    four backward (their derivatives; queries; values; keys). ideal_*: everything once. separate: of a forward pass with
    every operation on pairs by itself, for every key. token: of a single query, for every key: the key, its value and
    what compositions read of it, once; scores that are kept between the passes come from the cache.
    """

    forward: float
    backward: float
    ideal_forward: float
    ideal_backward: float
    separate: float
    token: float


def pair_traffic(found: Composition) -> PairTraffic:
    """The traffic of a sum over keys whose heads are composed."""
    sizes = found.query.type.sizes | found.key.type.sizes | found.value.type.sizes
    heads, dim, width = (prod(sizes[n] for n in names) for names in (found.heads, found.over, found.values))
    q = k = HALF * heads * dim
    v = y = HALF * heads * width
    before, after = _tokens(found.before), _tokens(found.after)
    row = SINGLE * heads  # a number in single precision for every head of a query
    once = q + k + v + before + after
    back = once + y + row  # the derivative of the result and the normalisers are read too
    own = q + sum(HALF * token.type.elements for token in (found.key, found.value)) + before + after
    forward = (q + k + before + row) + (once + row + y)
    pairs = [found.scores, found.softmax, *(v for m in (found.before, found.after) if m is not None for v in m.values)]
    alone = sum(_pair_bytes(v) + sum(map(_pair_bytes, v.operands)) for v in pairs if not only_moves(v))
    element = heads * dim
    return PairTraffic(
        forward=forward / element,
        backward=(4 * back + 3 * row + once) / element,  # the sums of p dp are written, and read twice
        ideal_forward=(own + y) / element,
        ideal_backward=(own + y + own) / element,
        separate=alone / element,
        token=(k + v + _tokens(found.before, "keys") + _tokens(found.after, "keys")) / element,
    )


def _tokens(mixing: Mixing | None, *sides: str) -> int:
    """Bytes per token of what a composition reads, of these sides or of both."""
    handed = () if mixing is None else mixing.handed
    return sum(HALF * h.value.type.elements for h in handed if h.side in (sides or ("queries", "keys")))


def _pair_bytes(value: Value) -> int:
    """Bytes of a pair that is stored."""
    if value.kind is not Kind.PAIR or value.op in ("queries", "keys", "mask"):
        return 0
    return (SINGLE if value.type.wide else HALF) * value.type.elements


def outer_traffic(found: ScanClass, values: Iterable[Value], parts: int = 1) -> Traffic:
    """The traffic of a scan of outer products, by element of what is read out, over heads and value axes.

    Its kernel reads log decays, keys, values and queries and keeps the state; values, queries and keys that the spec
    has in single precision move as such, at best they are halves. `values` are the scan and what it swallows.
    parts: of the keys of a head, each of which is a head to the kernel: it has keys and queries of its own, but reads
    all values, and the decay unless that has keys, and gives a result of its own.
    """
    sizes = found.scan.type.sizes
    elements = prod(sizes[n] for n in (*found.heads, *found.value))
    query = found.reads[0].query
    keys, queries = _product(found, "key"), (query.type.elements, _stays_wide(query, found))
    wide = _product(found, "head", "value")[1]
    log = found.log_decay.operand
    decay = SINGLE * log.type.elements if isinstance(log, Value) and log.kind is Kind.TOKEN else 0
    best = decay + HALF * (keys[0] + elements + queries[0])
    of_heads, of_sums = (prod(sizes[n] for n in names) for names in ((*found.heads, *found.key), found.heads))
    both = [(of_heads if parts > 1 else count, kind) for count, kind in (keys, queries)]
    result = parts * (SINGLE if wide else HALF)
    read = decay * (1 if found.kind == "chunked_key" else parts) + result * elements
    read += sum((SINGLE if kind else HALF) * count for count, kind in both)
    if found.normaliser is not None:  # written, or its derivative read
        read, best = (each + SINGLE * parts_of * of_sums for each, parts_of in ((read, parts), (best, 1)))
    alone = sum(_bytes(v) + sum(map(_bytes, v.operands)) for v in values if not only_moves(v))
    return Traffic(
        read / elements + result,
        2 * read / elements + result,
        best / elements + HALF,
        2 * best / elements + HALF,
        alone / elements,
    )


def _product(found: ScanClass, *groups: Group) -> tuple[int, bool]:
    """Elements of a product of factors, and whether it is in single precision."""
    factors = [f.operand for g in groups for f in found.factors[g] if isinstance(f.operand, Value)]
    sizes = found.scan.type.sizes
    return prod(sizes[n] for n in {n for f in factors for n in f.names}), any(_stays_wide(f, found) for f in factors)


def _stays_wide(value: Value, found: ScanClass) -> bool:
    """Whether a value is in single precision where the scan is: what a function gives back is not."""
    return value.type.wide and value.origin.calls == found.scan.origin.calls


def _moved(read: Iterable[Value], elements: int, results: int = 1) -> tuple[float, float]:
    """Bytes per element forward and backward of a kernel with these inputs and results."""
    inputs = HALF * sum((1 + is_complex(v)) * v.type.elements for v in read if v.kind is Kind.TOKEN) / elements
    return inputs + HALF * results, 2 * inputs + HALF * results


def _bytes(value: Value) -> int:
    """Bytes per token of a value that is stored."""
    each = 2 * SINGLE if is_complex(value) else SINGLE if value.type.wide else HALF
    return each * value.type.elements if value.kind is Kind.TOKEN else 0
