"""The tokens that pairs are lifted from: where a program ends, what it is made of, what it remembers of the keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from archc.elaborate.call import Call
from archc.emit.body import Body, results_of
from archc.emit.code import python_name
from archc.emit.fused import Fused
from archc.emit.placed import whole
from archc.emit.units import own_values
from archc.fuse.composed import SUMS
from archc.ir.graph import Kind, Value
from archc.passes.readout import leaves


def pairs_below(call: Call, ends: Iterable[Value]) -> list[Value]:
    """The pairs that values are made of in a call, here and not in calls below it, operands first; no arguments of the
    call."""
    results = results_of(call)
    given = {b for b in call.arguments.values() if isinstance(b, Value) and b.op != "mask"}
    out: dict[Value, None] = {}

    def visit(value: Value) -> None:
        if value in out or value.kind is not Kind.PAIR or value in given:
            return
        below = call.calls[results[value][0]].arguments.values() if value in results else value.operands
        for operand in below:
            if isinstance(operand, Value):
                visit(operand)
        out[value] = None

    for end in ends:
        visit(end)
    return list(out)


def pair_values(body: Body, end: Value) -> list[Value]:
    """The pairs that a sum over keys is made of."""
    return pairs_below(body.call, end.operands)


def ends_of(call: Call, fused: Fused) -> list[Value]:
    """The sums over keys that end a program of a call, in the order of the spec."""
    region = fused.regions[call]
    mine = set(own_values(call))
    sums = [v for v in region.values if v.op in SUMS and v in mine and v in region.live]
    return [v for v in sums if v not in fused.attention]


def program_ends(body: Body) -> list[Value]:
    """Those of this unit."""
    return ends_of(body.call, body.fused)


def program_state(body: Body, end: Value) -> str:
    """The key of the rings of a program: each has its own."""
    place = program_ends(body).index(end)
    return f"keys_{place + 1}" if place else "keys"


def in_all_calls(body: Body, end: Value) -> list[Value]:
    """The same sum in every call that the unit serves: a number in its masks may differ."""
    place = program_ends(body).index(end)
    return [ends[place] for ends in (ends_of(c, body.fused) for c in body.unit.calls) if place < len(ends)]


def lifted(side: str, pairs: Iterable[Value]) -> list[Value]:
    """The tokens that pairs lift to one side, `queries` or `keys`, each once; without positions, which are known."""
    return list(dict.fromkeys(v.operands[0] for v in pairs if v.op == side and v.operands[0].op != "pos"))


def name_queries(body: Body, pairs: Sequence[Value], wanted: Collection[Value]) -> None:
    """Lines for those tokens of queries that have no name yet: a program and the kernel that runs it both read them."""
    for token in dict.fromkeys(v.operands[0] for v in pairs if v.op == "queries"):
        if token not in wanted or token in body.names:
            continue
        code = body.render(token)
        if code.text.isidentifier():
            continue
        base = python_name(token.label or "query")
        count = sum(n == base or n.startswith(f"{base}_") for n in body.taken)
        name = f"{base}_{count + 1}" if count else base
        body.line(f"{name} = {code.text}", token)
        body.bind(token, name)


def remember(body: Body, pairs: Sequence[Value], state: str, keys: str = "keys") -> dict[Value, str]:
    """The line that fetches what the keys can be, and as `keys` where they lie; gives the names of the remembered
    tokens by their lift."""
    tokens = lifted("keys", pairs)
    body.kernel("remember")
    names = unique([_token_name(body, t, pairs) for t in tokens]) or ["_"]
    codes = [whole(body, t).text for t in tokens] or ["pos[..., None][..., :0]"]  # nothing of each token, but a place
    left = ", ".join(names) + ("," if len(names) == 1 else "")
    right = ", ".join(codes) + ("," if len(codes) == 1 else "")
    new = f'new["{state}"]' if body.unit.has_state else "_"
    old = body.old(state) if body.unit.has_state else "None"
    body.line(f"({left}), {keys}, {new} = remember(({right}), pos, {old})")
    by_token = dict(zip(tokens, names, strict=False))
    return {v: by_token[v.operands[0]] for v in pairs if v.op == "keys" and v.operands[0].op != "pos"}


def unique(names: list[str]) -> list[str]:
    """The names, those that repeat with a number after them.

    >>> unique(["key", "value", "key"])
    ['key', 'value', 'key_2']
    """
    return [n if (count := names[: i + 1].count(n)) == 1 else f"{n}_{count}" for i, n in enumerate(names)]


def _token_name(body: Body, token: Value, pairs: Sequence[Value]) -> str:
    """The remembered form takes the name of the token, unless the token itself is needed as well."""
    name = body.names.get(token) or python_name(token.label or "key")
    region = body.fused.regions[body.call]
    lifts = [u for u in region.users.get(token, ()) if u.op == "keys"]
    elsewhere = len(lifts) < len(region.users.get(token, ())) or any(v not in pairs for v in lifts)
    elsewhere |= leaves(token, region)
    several = len(program_ends(body)) > 1
    return f"{name}_keys" if elsewhere or several or token not in body.names else name
