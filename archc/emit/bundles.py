"""Fns that take pairs (head composition), cut in two: what depends on one token, and pairs of a block of queries.

`tokens` computes the first once for the sequence and gives a bundle: the tokens of queries, those remembered of keys,
the bundles of fns below. The call itself takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archc.elaborate.call import Call
from archc.emit.body import Body, results_of
from archc.emit.calls import argument, module_name, state_name
from archc.emit.lifted import lifted, pairs_below, remember
from archc.emit.statements import let, let_pairs
from archc.emit.units import Units
from archc.ir.graph import Kind, Value
from archc.text import ast


@dataclass(frozen=True)
class Bundle:
    """What `tokens` of a call gives, in this order: tokens lifted to queries, to keys, the bundles of calls below."""

    pairs: tuple[Value, ...]
    queries: tuple[Value, ...]
    keys: tuple[Value, ...]
    below: tuple[ast.Call, ...]


def bundle(call: Call, units: Units) -> Bundle:
    """The bundle of a call of a fn that takes pairs."""
    pairs = pairs_below(call, [v for v in call.returned if isinstance(v, Value)])
    queries, keys = (tuple(lifted(side, pairs)) for side in ("queries", "keys"))
    return Bundle(tuple(pairs), queries, keys, tuple(_takers(call, pairs, units)))


def _takers(call: Call, pairs: Sequence[Value], units: Units) -> list[ast.Call]:
    """The calls of fns that take rows themselves, among those that made the pairs."""
    results = results_of(call)
    nodes = dict.fromkeys(results[v][0] for v in pairs if v in results)
    return [node for node in nodes if units.of[call.calls[node]].takes_rows]


def parts(call: Call, units: Units) -> Iterator[tuple[str, Value, tuple[int, ...]]]:
    """Every token of the bundle of a call, with its side and the places at which it lies, from the outside in."""
    found = bundle(call, units)
    for place, token in enumerate((*found.queries, *found.keys)):
        yield "queries" if place < len(found.queries) else "keys", token, (place,)
    for place, node in enumerate(found.below, len(found.queries) + len(found.keys)):
        for side, token, inner in parts(call.calls[node], units):
            yield side, token, (place, *inner)


def bundles(body: Body, pairs: Sequence[Value]) -> dict[ast.Call, str]:
    """The token part of every fn that takes pairs, called once for the sequence."""
    out: dict[ast.Call, str] = {}
    for node in _takers(body.call, pairs, body.units):
        below = body.call.calls[node]
        unit = body.units.of[below]
        name = f"{state_name(body, node)}_tokens"
        args = [argument(body, below, key).text for key in token_parameters(below)] + ["pos"]
        if unit.has_state:
            state = state_name(body, node)
            args.append(body.old(state))
            body.line(f'{name}, new["{state}"] = {module_name(body, node)}.tokens({", ".join(args)})')
        else:
            body.line(f"{name} = {module_name(body, node)}.tokens({', '.join(args)})")
        out[node] = name
    return out


def token_parameters(below: Call) -> list[str]:
    """The arguments of a fn that takes pairs which are tokens."""
    out = []
    for param in below.definition.params:
        bound = below.arguments.get(param.name.text)
        if isinstance(bound, Value) and bound.kind is not Kind.PAIR:
            out.append(param.name.text)
    return out


def pair_parameters(below: Call) -> list[str]:
    """The arguments of a fn that are pairs."""
    out = []
    for param in below.definition.params:
        bound = below.arguments.get(param.name.text)
        if isinstance(bound, Value) and bound.kind is Kind.PAIR and bound.op != "mask":
            out.append(param.name.text)
    return out


def split_unit(body: Body) -> tuple[list[str], list[str]]:
    """The lines of `tokens` and of the call itself, of a fn that takes pairs."""
    returned = [v for v in body.call.returned if isinstance(v, Value)]
    found = bundle(body.call, body.units)
    for statement in body.call.definition.body:
        if isinstance(statement, ast.Let) and body.call.facts.get(statement.value) not in found.pairs:
            body.statement = statement
            let(body, statement)
    body.statement = None
    given = [body.names.get(q) or body.render(q).text for q in found.queries]
    handed = {q: body.names.get(q) or f"query_{i}" for i, q in enumerate(found.queries)}
    keys = remember(body, found.pairs, "keys", "_") if found.keys else {}
    inner = bundles(body, found.pairs)
    kept = list(dict.fromkeys(keys.values()))
    places = [*given, *kept, *inner.values()]
    text = f"({', '.join(places)}{',' if len(places) == 1 else ''})"
    body.line(f"return {text}, new" if body.unit.has_state else f"return {text}")
    tokens, body.lines = body.lines, []
    names = [*handed.values(), *kept, *inner.values()]
    body.line(f"{', '.join(names)}{',' if len(names) == 1 else ''} = tokens")
    body.names.update(handed)
    body.lifted.update(keys)
    body.bundles.update(inner)
    body.in_rows = True
    for statement in body.call.definition.body:
        if isinstance(statement, ast.Let) and body.call.facts.get(statement.value) in found.pairs:
            body.statement = statement
            let_pairs(body, statement)
    body.statement = None
    body.line(f"return {', '.join(body.render(v).text for v in returned)}")
    return tokens, body.lines
