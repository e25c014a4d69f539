"""Rules of pairs inside of a program: a block of queries against keys, as arrays [B, *axes, Tq, Tk].

Tokens stay tokens where a contraction can take them as they are.
"""

from __future__ import annotations

from archc.emit.body import Body, Rule
from archc.emit.code import Code
from archc.emit.layout import letters, reindex
from archc.emit.placed import whole
from archc.emit.units import is_number_mask
from archc.ir.graph import Kind, Value
from archc.text import ast


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


def sum_over_keys(body: Body, value: Value) -> Code:
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
            code = body.matched(axis_by_axis(body, operand, body.render(operand)), operand, value)
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
        return "{}", axis_by_axis(body, operand, body.render(operand))
    code = body.render(operand)
    if value.op == "contract_keys" and operand.op != "softmax_keys":
        code = Code(f"rows.select({code.text})")
    return "b{}qk", code


def axis_by_axis(body: Body, weight: Value, code: Code) -> Code:
    """A weight with its own axes, where it is stored as a matrix of fewer."""
    over = body.fused.matrices.get(weight, ())
    sizes = weight.type.sizes
    rows, columns = ([n for n in weight.names if (n in over) == summed] for summed in (True, False))
    if not over or len(weight.names) < 3 or not (rows and columns):
        return code
    if len(columns) > 1:
        code = body.dialect.unflatten(code, -1, [body.size(n, sizes[n]) for n in columns])
    if len(rows) > 1:
        code = body.dialect.unflatten(code, -1 - len(columns), [body.size(n, sizes[n]) for n in rows])
    return code


PAIR_RULES: dict[str, Rule] = {
    "contract": contract_pairs,
    "queries": _queries,
    "keys": _keys,
    "mask": _mask,
    "softmax_keys": _softmax,
}
