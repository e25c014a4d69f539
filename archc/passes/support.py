"""Causality: where every pair may be non-zero, and the proof that no output of a model reads a later token."""

from __future__ import annotations

from collections.abc import Iterator

from archc.diagnostics import ArchError, Diagnostic, Note, Span, led_here
from archc.ir.graph import Graph, Kind, Value
from archc.ops.support import CAUSAL, EVERYWHERE, Support
from archc.ops.table import OPS

REDUCTIONS = ("contract_keys", "reduce_keys")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def live_values(graph: Graph) -> Iterator[Value]:
    """Every value that a result depends on, in all regions, outermost first; each once."""
    for region, _ in graph.regions():
        for value in region.values:
            if value in region.live and value not in region.params:
                yield value


def supports(graph: Graph) -> dict[Value, Support]:
    """Where each pair may be non-zero."""
    found: dict[Value, Support] = {}
    for value in live_values(graph):
        if value.kind is Kind.PAIR:
            of = tuple(found.get(a) if isinstance(a, Value) else None for a in value.args)
            found[value] = OPS[value.op].support(value, of)
    return found


def seen(value: Value, found: dict[Value, Support]) -> Support:
    """The keys that a reduction over keys can read: where all of its factors may be non-zero."""
    out = EVERYWHERE
    for operand in value.operands:
        if operand in found:
            out = out.meet(found[operand])
    return out


def check_causal(graph: Graph) -> dict[Value, Support]:
    """The supports, if the graph is causal; graphs of encoders may look ahead.

    Raises `ArchError`: E501 for a sum or a softmax over keys that can see later tokens (with notes at the masks that
    let it), E502 for a reduction over time. A softmax must be causal by itself: its denominator is a sum over keys.
    """
    found = supports(graph)
    if graph.kind == "encoder":
        return found
    problems: list[Diagnostic] = []
    explained: set[Value] = set()
    for value in live_values(graph):
        if value.op in REDUCTIONS and not seen(value, found).causal:
            problems.append(_sees_ahead(value, "sum", found, explained))
        if value.op == "reduce_time":
            problems.append(_over_time(value))
    for value in live_values(graph):
        if value.op == "softmax_keys" and not found[value].causal and value not in explained:
            problems.append(_sees_ahead(value, "softmax", found, explained))
    if problems:
        raise ArchError(problems)
    return found


def _sees_ahead(value: Value, word: str, found: dict[Value, Support], explained: set[Value]) -> Diagnostic:
    todo = [value] if word == "softmax" else list(value.operands)
    place, trail = _place(value)
    return Diagnostic(
        "E501",
        f"not causal: this {word} over keys can see later tokens",
        place,
        (*_reasons(todo, found, explained), *trail),
        help="give the softmax a causal mask (where = causal or window(n)), multiply by one, or declare an encoder",
    )


def _over_time(value: Value) -> Diagnostic:
    place, trail = _place(value)
    return Diagnostic(
        "E502",
        f"not causal: a {value.attrs['fn']} over time sees the whole sequence",
        place,
        trail,
        help="use a scan or a sum over keys under a causal mask, or declare an encoder",
    )


def _place(value: Value) -> tuple[Span, tuple[Note, ...]]:
    assert value.origin.span is not None, "every value of a spec was written somewhere"
    return led_here((value.origin.span, *reversed(value.origin.calls)))


def _reasons(todo: list[Value], found: dict[Value, Support], explained: set[Value]) -> Iterator[Note]:
    """The masks that admit later keys, and the ops that turn zeros into something else; adds what it has walked."""
    known: set[Value] = set()
    while todo:
        each = todo.pop()
        if each in known or each not in found or found[each].causal:
            continue
        known.add(each)
        explained.add(each)
        if each.op == "mask":
            yield Note(f"this mask admits later keys: {_named(each)}", each.origin.span)
        elif each.op == "softmax_keys" and len(each.args) == 1:
            yield Note("this softmax has no mask", each.origin.span)
        elif each.op in COMPARISONS:
            yield Note("this comparison may be true at later keys: say ... and causal", each.origin.span)
        elif each.op not in ("queries", "keys") and not _would_be_causal(each, found):
            masked = any(below.op == "mask" or below.op in COMPARISONS for below in _below(each))
            why = "zeros of the mask do not stay zero here" if masked else "these pairs have no mask"
            yield Note(why, each.origin.span)
        else:
            todo += each.operands[1:] if each.op == "softmax_keys" else each.operands


def _below(value: Value) -> Iterator[Value]:
    """The pairs that a value is made of."""
    todo, known = [value], {value}
    while todo:
        pairs = {v for v in todo.pop().operands if v.kind is Kind.PAIR} - known
        known |= pairs
        todo += pairs
        yield from pairs


def _would_be_causal(value: Value, found: dict[Value, Support]) -> bool:
    """Whether an op keeps later keys out if all of its operands do."""
    of = tuple(found[a].meet(CAUSAL) if isinstance(a, Value) and a in found else None for a in value.args)
    return OPS[value.op].support(value, of).causal


def _named(mask: Value) -> str:
    sizes = ", ".join(str(n) for n in mask.attrs["sizes"])
    return f"{mask.attrs['name']}({sizes})" if sizes else str(mask.attrs["name"])
