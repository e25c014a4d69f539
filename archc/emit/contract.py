"""Rules of sums of products: as `x @ W` where that is what they are, else in letters."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code, infix
from archc.emit.layout import letters, transposed
from archc.emit.pairs import PAIR_RULES
from archc.emit.recurrent import read_out
from archc.ir.graph import Axis, Kind, Type, Value


def contract(body: Body, value: Value) -> Code:
    """A sum of products over axes of a token, a weight or a pair; that of a state is in the kernel of its scan."""
    left, right = value.operands
    if value in body.fused.reads:
        return read_out(body, value, body.fused.reads[value])
    if right.op == "weight" and left.kind is not Kind.PAIR and body.fused.is_matrix(right):
        return _matrix(body, value, left, right)
    if value.kind is Kind.PAIR:
        return PAIR_RULES["contract"](body, value)
    return _einsum(body, value, left, right)


def _matrix(body: Body, value: Value, left: Value, weight: Value) -> Code:
    """`x @ W`, with the axes of x flattened before and those of the result split after."""
    stored = weight.names
    over = [n for n in stored if n in value.attrs["over"]]
    made: tuple[str, ...] = value.attrs.get("made", ())
    kept = [n for n in made if n in left.names and n not in over]
    new = [n for n in stored if n in made and n not in kept]
    code = body.matched(body.render(left), left, value)
    if kept:
        return _einsum(body, value, left, weight, code)
    straight = list(stored) == [*over, *new]
    turned = list(stored) == [*new, *over]
    if not (straight or turned):
        return _einsum(body, value, left, weight, code)
    order = [*(n for n in left.names if n not in over), *over]
    if list(left.names) != order:
        code = transposed(code, left, order, body.dialect)
    if len(over) > 1:
        code = body.dialect.flatten(code, len(over))
    matrix = body.matched(body.render(weight), weight, value)
    product = infix("@", code, matrix if straight else Code(f"{matrix.atom}.T"))
    if len(new) == 1:
        return product
    if not new:
        return body.dialect.squeeze(product, -1)
    sizes = weight.type.sizes
    product = body.dialect.unflatten(product, -1, [body.size(n, sizes[n]) for n in new])
    return _in_order(body, product, (*order[: len(order) - len(over)], *new), value)


def _in_order(body: Body, code: Code, names: tuple[str, ...], value: Value) -> Code:
    """An array whose feature axes lie as in `names`, with those of the value."""
    if names == value.names:
        return code
    sizes = value.type.sizes
    have = Value(-1, "param", (), Type(value.kind, tuple(Axis(n, sizes[n]) for n in names)))
    return transposed(code, have, list(value.names), body.dialect)


def _einsum(body: Body, value: Value, left: Value, right: Value, code: Code | None = None) -> Code:
    """A contraction written in letters; tokens keep their leading axes by `...`."""
    letter = letters(dict.fromkeys((*left.names, *right.names)))

    mixed = Kind.SEQ in (left.kind, right.kind) and Kind.TOKEN in (left.kind, right.kind)
    token, sequence = ("bt", "b") if mixed else ("...", "...")
    lead = {Kind.WEIGHT: "", Kind.SEQ: sequence, Kind.TOKEN: token, Kind.PAIR: "..."}

    def spell(names: tuple[str, ...], kind: Kind) -> str:
        return lead[kind] + "".join(letter[n] for n in names)

    spec = f"{spell(left.names, left.kind)},{spell(right.names, right.kind)}->{spell(value.names, value.kind)}"
    first = code if code is not None else body.matched(body.render(left), left, value)
    return body.dialect.einsum(spec, first, body.matched(body.render(right), right, value))
