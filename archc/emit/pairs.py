"""Pairs of query and key: plain attention goes to its kernel, every other pair program runs in blocks of queries.

A pair program begins where tokens are lifted and ends in a sum over keys. Its text is a function of `rows`, one block
of queries against the keys that they can see. A fn that takes pairs (head composition) is cut in two: `tokens`
computes what depends on one token, once for the sequence; the call itself computes pairs for a block.
"""

from __future__ import annotations

from math import inf

from archc.elaborate.call import Call
from archc.emit.attend import attention
from archc.emit.body import Body, Rule
from archc.emit.calls import argument, module_name, state_name
from archc.emit.code import Code, call, python_name
from archc.emit.layout import letters, reindex
from archc.emit.placed import whole
from archc.emit.statements import let, let_pairs
from archc.emit.units import is_number_mask, own_values
from archc.ir.graph import Kind, Value
from archc.text import ast

SUMS = ("contract_keys", "reduce_keys")


def end_of_pairs(body: Body, value: Value) -> Code:
    """A sum over keys: plain attention, the end of a program that is being written, or a whole program."""
    found = body.fused.attention.get(value)
    if found is not None:
        return attention(body, value, found)
    if body.in_rows:
        return _sum(body, value)
    return _program(body, value)


# --- the program -------------------------------------------------------------------------------------


def pair_values(body: Body, end: Value) -> list[Value]:
    """The pairs that a sum over keys is made of, here and not in calls below, operands first."""
    out: dict[Value, None] = {}

    def visit(value: Value) -> None:
        if value in out or value.kind is not Kind.PAIR:
            return
        if value in body.results:
            node, _ = body.results[value]
            for bound in body.call.calls[node].arguments.values():
                if isinstance(bound, Value):
                    visit(bound)
        else:
            for operand in value.operands:
                visit(operand)
        out[value] = None

    for operand in end.operands:
        visit(operand)
    return list(out)


def _program(body: Body, end: Value) -> Code:
    """`def program(rows)` and its run over blocks of queries."""
    pairs = pair_values(body, end)
    keys = _remember(body, pairs, program_state(body, end))
    bundles = _bundles(body, pairs)
    saved, body.lines = body.lines, []
    names = dict(body.names)
    body.lifted.update(keys)
    body.bundles.update(bundles)
    body.in_rows = True
    statement = body.statement
    for each in body.call.definition.body:
        if isinstance(each, ast.Let) and body.call.facts.get(each.value) in pairs:
            body.statement = each
            let_pairs(body, each)
    result = body.render(end)
    body.statement = statement
    inner, body.lines = body.lines, saved
    body.names = names
    body.in_rows = False
    programs = sum(line.startswith("def program") for line in saved)
    name = f"program_{programs + 1}" if programs else "program"
    body.lines += ["", f"def {name}(rows):"]
    body.lines += [f"    {line}" for line in inner]
    body.lines += [f"    return {result.text}", ""]
    body.kernel("over_rows")
    text = call("over_rows", name, "keys", **_reach(body, end, pairs))
    target = body.temporary(end, "y")
    body.line(f"{target} = {text.text}", end)
    body.bind(end, target)
    return Code(target)


def _reach(body: Body, end: Value, pairs: list[Value]) -> dict[str, Code]:
    """How far behind and ahead of a query its keys can lie."""
    span = next(body.fused.spans[o] for o in end.operands if o in body.fused.spans)
    masks = {v for v in pairs if v.op == "mask"}
    out: dict[str, Code] = {}
    if span.back != inf:
        out["before"] = Code(str(int(span.back) - 1))
    for mask in masks:
        for key, bound in body.call.arguments.items():
            if bound is mask and is_number_mask(mask):
                number = body.numbers.symbol(key, "forward").text
                out["before"] = Code(f"{number} and {number} - 1")
        node = body.call.nodes.get(mask)
        if span.back != inf and len(masks) == 1 and mask.attrs["name"] == "window" and isinstance(node, ast.Call):
            (arg,) = node.args
            assert isinstance(arg.value, ast.Expr)
            out["before"] = Code(f"{body.numbers.text(arg.value, 'forward').at(70)} - 1")
    if span.ahead != 0:
        out["after"] = Code("None" if span.ahead == inf else str(int(span.ahead)))
    return out


def program_ends(body: Body) -> list[Value]:
    """The sums over keys that end a program of this unit, in the order of the spec."""
    region = body.fused.regions[body.call]
    mine = set(own_values(body.call))
    sums = [v for v in region.values if v.op in SUMS and v in mine and v in region.live]
    return [v for v in sums if v not in body.fused.attention]


def program_state(body: Body, end: Value) -> str:
    """The key of the rings of a program: each has its own."""
    place = program_ends(body).index(end)
    return f"keys_{place + 1}" if place else "keys"


def lifted_keys(body: Body, pairs: list[Value]) -> list[Value]:
    """The tokens that the pairs lift to keys, each once; positions and inputs that never need a cache aside."""
    return list(dict.fromkeys(v.operands[0] for v in pairs if v.op == "keys" and v.operands[0].op != "pos"))


def _remember(body: Body, pairs: list[Value], state: str) -> dict[Value, str]:
    """The line that fetches what the keys can be; gives the names of the remembered tokens by their lift."""
    tokens = lifted_keys(body, pairs)
    body.kernel("remember")
    names = unique([_token_name(body, t, pairs) for t in tokens]) or ["_"]
    codes = [whole(body, t).text for t in tokens] or ["pos[..., None][..., :0]"]  # nothing of each token, but a place
    left = ", ".join(names) + ("," if len(names) == 1 else "")
    right = ", ".join(codes) + ("," if len(codes) == 1 else "")
    new = f'new["{state}"]' if body.unit.has_state else "_"
    old = body.old(state) if body.unit.has_state else "None"
    body.line(f"({left}), keys, {new} = remember(({right}), pos, {old})")
    lifts = {v.operands[0]: v for v in pairs if v.op == "keys" and v.operands[0].op != "pos"}
    return {lifts[token]: names[i] for i, token in enumerate(tokens)}


def unique(names: list[str]) -> list[str]:
    """The names, those that repeat with a number after them.

    >>> unique(["key", "value", "key"])
    ['key', 'value', 'key_2']
    """
    return [n if (count := names[: i + 1].count(n)) == 1 else f"{n}_{count}" for i, n in enumerate(names)]


def _token_name(body: Body, token: Value, pairs: list[Value]) -> str:
    """The remembered form takes the name of the token, unless the token itself is needed as well."""
    name = body.names.get(token) or python_name(token.label or "key")
    region = body.fused.regions[body.call]
    lifts = [u for u in region.users.get(token, ()) if u.op == "keys"]
    elsewhere = len(lifts) < len(region.users.get(token, ())) or any(v not in pairs for v in lifts)
    several = len(program_ends(body)) > 1
    return f"{name}_keys" if elsewhere or several or token not in body.names else name


def _bundles(body: Body, pairs: list[Value]) -> dict[ast.Call, str]:
    """The token part of every fn that takes pairs, called once for the sequence."""
    out: dict[ast.Call, str] = {}
    for node in dict.fromkeys(body.results[v][0] for v in pairs if v in body.results):
        below = body.call.calls[node]
        unit = body.units.of[below]
        if not unit.takes_rows:
            continue
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


# --- a fn that takes pairs ---------------------------------------------------------------------------


def split_unit(body: Body) -> tuple[list[str], list[str]]:
    """The lines of `tokens` and of the call itself, of a fn that takes pairs."""
    returned = [v for v in body.call.returned if isinstance(v, Value)]
    pairs: dict[Value, None] = {}
    for value in returned:
        for pair in [*pair_values_of(body, value), value]:
            pairs[pair] = None
    order = list(pairs)
    for statement in body.call.definition.body:
        if isinstance(statement, ast.Let) and body.call.facts.get(statement.value) not in pairs:
            body.statement = statement
            let(body, statement)
    body.statement = None
    queries = list(dict.fromkeys(v.operands[0] for v in order if v.op == "queries" and v.operands[0].op != "pos"))
    bundle = [body.names.get(q) or body.render(q).text for q in queries]
    handed = {q: body.names.get(q) or f"query_{i}" for i, q in enumerate(queries)}
    keys: dict[Value, str] = {}
    if lifted_keys(body, order):
        keys = _remember(body, order, "keys")
        body.lines[-1] = body.lines[-1].replace("), keys, ", "), _, ", 1)
    inner = _bundles(body, order)
    parts = [*bundle, *keys.values(), *inner.values()]
    text = f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    body.line(f"return {text}, new" if body.unit.has_state else f"return {text}")
    tokens, body.lines = body.lines, []
    names = [*handed.values(), *keys.values(), *inner.values()]
    body.line(f"{', '.join(names)}{',' if len(names) == 1 else ''} = tokens")
    body.names.update(handed)
    body.lifted.update(keys)
    body.bundles.update(inner)
    body.in_rows = True
    for statement in body.call.definition.body:
        if isinstance(statement, ast.Let) and body.call.facts.get(statement.value) in pairs:
            body.statement = statement
            let_pairs(body, statement)
    body.statement = None
    body.line(f"return {', '.join(body.render(v).text for v in returned)}")
    return tokens, body.lines


def pair_values_of(body: Body, value: Value) -> list[Value]:
    """The pairs below a pair, and the pair itself."""
    if value in body.results or value.kind is not Kind.PAIR:
        return []
    out: dict[Value, None] = {}
    for operand in value.operands:
        if operand.kind is Kind.PAIR and operand not in body.names:
            for each in pair_values_of(body, operand):
                out[each] = None
            out[operand] = None
    return list(out)


# --- rules inside of a program -----------------------------------------------------------------------


def _queries(body: Body, value: Value) -> Code:
    (token,) = value.operands
    if token.op == "pos":
        return Code("rows.query_pos[..., None]")
    return Code(f"rows.queries({whole(body, token).text})")


def _keys(body: Body, value: Value) -> Code:
    if value.operands[0].op == "pos":
        return Code("rows.key_pos[..., None, :]")
    return Code(f"rows.keys({body.remembered(value)})")


def _mask(body: Body, value: Value) -> Code:
    for key, bound in body.call.arguments.items():
        if bound is value and is_number_mask(value):
            return Code(f"rows.window({body.numbers.symbol(key, 'forward').text})")
    node = body.call.nodes.get(value)
    numbers = [str(s) for s in value.attrs["sizes"]]
    if isinstance(node, ast.Call):
        numbers = [body.numbers.text(a.value, "forward").text for a in node.args if isinstance(a.value, ast.Expr)]
    return Code(f"rows.{value.attrs['name']}({', '.join(numbers)})")


def _softmax(body: Body, value: Value) -> Code:
    scores = value.operands[0]
    args = [reindex(body.render(scores), scores, value.type, body.dialect).text]
    if len(value.args) > 1:
        args.append(body.aligned(value, 1).text if value.operands[1].names else body.render(value.operands[1]).text)
    return Code(f"rows.softmax({', '.join(args)})")


def _sum(body: Body, value: Value) -> Code:
    """The end of a program: [B, Tq, *axes]."""
    if value.op == "reduce_keys":
        args = [body.operand(value, i).text for i in range(len(value.args))]
        code = Code(f"rows.{value.attrs['fn']}({', '.join(args)})")
        over = value.attrs["over"]
        if not over:
            return code
        inner = [n for n in value.operands[0].names]
        places = sorted(inner.index(n) - len(inner) for n in over)
        return body.dialect.reduce(value.attrs["fn"], code, places)
    return _letters(body, value, "bq{}")


def contract_pairs(body: Body, value: Value) -> Code:
    """A contraction of pairs over feature axes: [B, *axes, Tq, Tk]."""
    return _letters(body, value, "b{}qk")


def _letters(body: Body, value: Value, result: str) -> Code:
    letter = {n: c for n, c in letters(dict.fromkeys(n for o in value.operands for n in o.names), avoid="bqk").items()}

    def spell(names: tuple[str, ...]) -> str:
        return "".join(letter[n] for n in names)

    specs, codes = [], []
    for index, operand in enumerate(value.operands):
        pattern, code = _operand(body, operand, value, index)
        specs.append(pattern.format(spell(operand.names)))
        codes.append(body.matched(code, operand, value))
    seen = "".join(specs)
    if "q" not in seen or "k" not in seen:
        specs, codes = [], []
        for operand in value.operands:
            specs.append(("..." if operand.kind is Kind.PAIR else "") + spell(operand.names))
            code = body.matched(body.render(operand), operand, value)
            codes.append(body.dialect.move_axes(code, "(-2, -1)", "(1, 2)") if operand.kind is Kind.PAIR else code)
        out = body.dialect.einsum(f"{','.join(specs)}->...{spell(value.names)}", *codes)
        return body.dialect.move_axes(out, "(1, 2)", "(-2, -1)")
    return body.dialect.einsum(f"{','.join(specs)}->{result.format(spell(value.names))}", *codes)


def _operand(body: Body, operand: Value, value: Value, index: int) -> tuple[str, Code]:
    """An operand of a contraction and its letters: lifted tokens stay tokens."""
    if operand not in body.names and operand.op == "queries" and operand.operands[0].op != "pos":
        return "bq{}", Code(f"rows.query_tokens({whole(body, operand.operands[0]).text})")
    if operand.op == "keys" and operand.operands[0].op != "pos":
        return "bk{}", Code(f"rows.key_tokens({body.remembered(operand)})")
    if operand.kind is Kind.WEIGHT:
        return "{}", body.render(operand)
    code = body.render(operand)
    if value.op == "contract_keys" and operand.op != "softmax_keys":
        code = Code(f"rows.select({code.text})")
    return "b{}qk", code


PAIR_RULES: dict[str, Rule] = {
    "contract": contract_pairs,
    "queries": _queries,
    "keys": _keys,
    "mask": _mask,
    "softmax_keys": _softmax,
    "reduce_keys": end_of_pairs,
    "contract_keys": end_of_pairs,
}
