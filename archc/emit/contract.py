"""Rules of sums of products: as `x @ W`, with a bias where one is added at once, else in letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.emit.body import Body
from archc.emit.code import Code, infix
from archc.emit.layout import letters, transposed
from archc.emit.pairs import PAIR_RULES
from archc.emit.recurrent import read_out
from archc.ir.graph import Axis, Kind, Type, Value


@dataclass(frozen=True)
class _Matrix:
    """How a contraction is a product with a matrix, or, `turned`, with its transpose.

    `over`: the axes that are summed, `rest`: those of the left side that stay, `new`: those that the matrix makes.
    """

    over: tuple[str, ...]
    rest: tuple[str, ...]
    new: tuple[str, ...]
    turned: bool


def contract(body: Body, value: Value) -> Code:
    """A sum of products over axes of a token, a weight or a pair; that of a state is in the kernel of its scan."""
    left, right = value.operands
    if value in body.fused.reads:
        return read_out(body, value, body.fused.reads[value])
    found = _matrix(body, value)
    if found is not None:
        x, matrix = _sides(body, value, found)
        return _split(body, value, found, infix("@", x, Code(f"{matrix.atom}.T") if found.turned else matrix))
    if value.kind is Kind.PAIR:
        return PAIR_RULES["contract"](body, value)
    return _einsum(body, value, left, right)


def affine(body: Body, value: Value) -> Code | None:
    """A sum as `x @ W + b` in one call, where the framework has one: the bias costs no pass over the result then.

    None for every other sum: of a product that has a name or is computed elsewhere, of a bias with other axes than the
    matrix makes, or in single precision.
    """
    if not body.dialect.own_affine or value.type.wide or value.kind is not Kind.TOKEN or len(value.operands) != 2:
        return None
    for made, bias in (value.operands, value.operands[::-1]):
        if made.op != "contract" or bias.op != "weight":
            continue
        if body.precision.is_wide_weight(bias) or _elsewhere(body, made):
            continue
        found = _matrix(body, made)
        if found is None or bias.names != found.new or value.names != (*found.rest, *found.new):
            continue
        x, matrix = _sides(body, made, found)
        shift = body.render(bias)
        shift = shift if len(found.new) == 1 else Code(f"{shift.atom}.flatten()")
        if not found.turned:
            body.kernel("affine")
        return _split(body, made, found, body.dialect.affine(x, matrix, found.turned, shift))
    return None


def _elsewhere(body: Body, value: Value) -> bool:
    """Whether a value is not an expression of this very line."""
    fused = body.fused
    return (
        value.type.wide
        or value in body.names
        or value in body.results
        or value not in body.call.nodes
        or any(value in each for each in (fused.reads, fused.gated, fused.convs))
    )


def _matrix(body: Body, value: Value) -> _Matrix | None:
    """The matrix in a contraction; None where its weight is none."""
    left, weight = value.operands
    if weight.op != "weight" or left.kind is Kind.PAIR or not body.fused.is_matrix(weight):
        return None
    made: tuple[str, ...] = value.attrs.get("made", ())
    over = tuple(n for n in weight.names if n in value.attrs["over"])
    new = tuple(n for n in weight.names if n in made)
    if any(n in left.names and n not in over for n in made) or weight.names not in ((*over, *new), (*new, *over)):
        return None
    rest = tuple(n for n in left.names if n not in over)
    return _Matrix(over, rest, new, weight.names != (*over, *new))


def _sides(body: Body, value: Value, found: _Matrix) -> tuple[Code, Code]:
    """The left side, its summed axes last and as one, and the matrix as it is stored."""
    left, weight = value.operands
    code = body.matched(body.render(left), left, value)
    order = [*found.rest, *found.over]
    if list(left.names) != order:
        code = transposed(code, left, order, body.dialect)
    if len(found.over) > 1:
        code = body.dialect.flatten(code, len(found.over))
    return code, body.matched(body.render(weight), weight, value)


def _split(body: Body, value: Value, found: _Matrix, code: Code) -> Code:
    """What a matrix product gave, with the axes of the value."""
    if not found.new:
        return body.dialect.squeeze(code, -1)
    if len(found.new) > 1:
        sizes = value.operands[1].type.sizes
        code = body.dialect.unflatten(code, -1, [body.size(n, sizes[n]) for n in found.new])
    return _in_order(body, code, (*found.rest, *found.new), value)


def _in_order(body: Body, code: Code, names: Sequence[str], value: Value) -> Code:
    """An array whose feature axes lie as in `names`, with those of the value."""
    if tuple(names) == value.names:
        return code
    sizes = value.type.sizes
    have = Value(-1, "param", (), Type(value.kind, tuple(Axis(n, sizes[n]) for n in names)))
    return transposed(code, have, list(value.names), body.dialect)


def _einsum(body: Body, value: Value, left: Value, right: Value) -> Code:
    """A contraction written in letters; tokens keep their leading axes by `...`."""
    letter = letters(dict.fromkeys((*left.names, *right.names)))

    mixed = Kind.SEQ in (left.kind, right.kind) and Kind.TOKEN in (left.kind, right.kind)
    token, sequence = ("bt", "b") if mixed else ("...", "...")
    lead = {Kind.WEIGHT: "", Kind.SEQ: sequence, Kind.TOKEN: token, Kind.PAIR: "..."}

    def spell(names: tuple[str, ...], kind: Kind) -> str:
        return lead[kind] + "".join(letter[n] for n in names)

    spec = f"{spell(left.names, left.kind)},{spell(right.names, right.kind)}->{spell(value.names, value.kind)}"
    first = body.matched(body.render(left), left, value)
    return body.dialect.einsum(spec, first, body.matched(body.render(right), right, value))
