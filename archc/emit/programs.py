"""Sums over keys: plain attention goes to its kernel, every other one is a program that runs in blocks of queries.

A program begins where tokens are lifted and ends in a sum over keys. Its text is a function of `rows`, one block of
queries against the keys that they can see. Attention with composed heads has a kernel besides, and takes the program
where that cannot run.
"""

from __future__ import annotations

from functools import reduce
from math import inf

from archc.emit.attend import attention
from archc.emit.body import Body, Rule
from archc.emit.buckets import bucket_program, name_tokens, over_buckets
from archc.emit.bundles import bundles
from archc.emit.code import Code, call
from archc.emit.composed import composed_attention, read_of_queries
from archc.emit.kernels import PROGRAM
from archc.emit.lifted import in_all_calls, name_queries, pair_values, program_state, remember
from archc.emit.pairs import sum_over_keys
from archc.emit.statements import let_pairs
from archc.emit.units import is_number_mask
from archc.ir.graph import Value
from archc.ops.support import Support
from archc.text import ast


def end_of_pairs(body: Body, value: Value) -> Code:
    """A sum over keys: plain attention, the end of a program that is being written, or a whole program."""
    found = body.fused.attention.get(value)
    if found is not None:
        return attention(body, value, found)
    if body.in_rows:
        return sum_over_keys(body, value)
    return _program(body, value)


def _program(body: Body, end: Value) -> Code:
    """`def program(rows)` and its run."""
    pairs = pair_values(body, end)
    composed = body.fused.composed.get(end)
    if composed is not None:
        name_queries(body, pairs, read_of_queries(composed))
    in_buckets = body.fused.buckets.get(end)
    if in_buckets is not None:
        name_tokens(body, pairs, in_buckets)
    keys = remember(body, pairs, program_state(body, end))
    body.lifted.update(keys)
    body.bundles.update(bundles(body, pairs))
    saved, body.lines = body.lines, []
    names = dict(body.names)
    parameters, written = ["rows"], set(pairs)
    if in_buckets is not None:
        handed = bucket_program(body, pairs, keys, in_buckets)
        parameters, written = handed.parameters, set(in_buckets.pairs)
        body.bind(in_buckets.same, handed.same)
    body.in_rows = True
    statement = body.statement
    for each in body.call.definition.body:
        if isinstance(each, ast.Let) and body.call.facts.get(each.value) in written:
            body.statement = each
            let_pairs(body, each)
    result = body.render(end)
    body.statement = statement
    inner, body.lines = body.lines, saved
    body.names = names
    body.in_rows = False
    programs = sum(line.startswith("def program") for line in saved)
    name = f"program_{programs + 1}" if programs else "program"
    body.lines += ["", f"def {name}({', '.join(parameters)}):"]
    body.lines += [f"    {line}" for line in inner]
    body.lines += [f"    return {result.text}", ""]
    reach = _reach(body, end, pairs)
    if composed is not None:
        return composed_attention(body, end, composed, name, pairs, reach)
    if in_buckets is not None:
        return over_buckets(body, end, in_buckets, name, handed, reach)
    text = call(body.kernel(PROGRAM), name, "keys", **reach)
    return body.named(end, text.text, "y")


def _reach(body: Body, end: Value, pairs: list[Value]) -> dict[str, Code]:
    """How far behind and ahead of a query its keys can lie."""
    spans = body.fused.spans
    seen = [next(spans[o] for o in each.operands if o in spans) for each in in_all_calls(body, end)]
    span = reduce(Support.join, seen)
    masks = {v for v in pairs if v.op == "mask"}
    out: dict[str, Code] = {}
    if span.back != inf:
        out["before"] = Code(str(int(span.back) - 1))
    for mask in masks:
        for key, bound in body.call.arguments.items():
            if bound is mask and is_number_mask(mask):
                number = body.numbers.symbol(key, "forward").text
                out["before"] = Code(f"{number} and {number} - 1" if len(masks) == 1 else "None")
        node = body.call.nodes.get(mask)
        if span.back != inf and len(masks) == 1 and mask.attrs["name"] == "window" and isinstance(node, ast.Call):
            (arg,) = node.args
            assert isinstance(arg.value, ast.Expr)
            out["before"] = Code(f"{body.numbers.text(arg.value, 'forward').at(70)} - 1")
    if span.ahead != 0:
        out["after"] = Code("None" if span.ahead == inf else str(int(span.ahead)))
    return out


PROGRAM_RULES: dict[str, Rule] = {"reduce_keys": end_of_pairs, "contract_keys": end_of_pairs}
