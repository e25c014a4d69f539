"""The builtins that rearrange axes: split, merge, cut, join, pick, index, axes."""

from __future__ import annotations

from math import prod

from archc.elaborate.axes import axis_size
from archc.elaborate.bound import Axes, Bound
from archc.elaborate.given import Given
from archc.ir.graph import Axis, Value
from archc.text import ast


def _one_apart(given: Given) -> tuple[str, tuple[str, ...]]:
    """`axis -> a b`: the axis that comes apart and its parts."""
    left, right = given.sides(repeats=given.name == "cut")
    if len(left) != 1:
        given.misused(f"'{given.name}' takes one axis apart, not {len(left)}")
    return left[0], right


def _parts(given: Given, value: Value, axis: str, names: tuple[str, ...], sign: str) -> tuple[Axis, ...]:
    """The parts with their sizes, which make up the axis."""
    assert given.arrow is not None
    least = 1 if sign == "*" else 0
    nodes = given.arrow.right if len(given.arrow.right) == len(names) else [given.arrow] * len(names)
    parts = [Axis(n, axis_size(n, node, given.frame, least=least)) for n, node in zip(names, nodes, strict=True)]
    have = value.type.sizes.get(axis)
    total = prod(p.size for p in parts) if sign == "*" else sum(p.size for p in parts)
    if have is not None and have != total:
        text = f" {sign} ".join(f"{p.name}={p.size}" for p in parts)
        recall = given.frame.shelf.recall
        roots = (*recall(axis, have), *(r for p in parts for r in recall(p.name, p.size)))
        message = f"'{axis}' is {have}, but its parts make {total}: {text}"
        given.frame.fail("E223", message, given.arrow, *roots)
    return tuple(parts)


def split(given: Given) -> Value:
    """`split(u, rnn -> gates side)`."""
    value = given.value()
    axis, names = _one_apart(given)
    return given.add("split", value, axis=axis, into=_parts(given, value, axis, names, "*"))


def merge(given: Given) -> Value:
    """`merge(u, gates side -> rnn)`."""
    value = given.value()
    left, right = given.sides()
    if len(right) != 1 or not left:
        given.misused("'merge' makes one axis of several")
    merged = given.add("merge", value, axes=left, into=right[0])
    given.frame.shelf.remember(right[0], merged.type.sizes[right[0]], given.frame.history(value, axes=left))
    return merged


def cut(given: Given) -> tuple[Bound, ...]:
    """`a, b = cut(x, dim -> half half)`."""
    value = given.value()
    axis, names = _one_apart(given)
    out: list[Bound] = []
    start = 0
    for piece in _parts(given, value, axis, names, "+"):
        out.append(given.add("slice", value, axis=axis, start=start, size=piece.size, into=piece.name))
        start += piece.size
    return tuple(out)


def join(given: Given) -> Value:
    """`join(a, b, half half -> dim)` side by side, `join(a, b, -> pair)` along a new axis."""
    values = [given.value(i) for i in range(len(given.positional))]
    assert given.arrow is not None
    left, right = given.sides(repeats=True)
    if len(right) != 1:
        given.misused("'join' makes one axis")
    if given.arrow.left is None:
        return given.add("stack_axis", *values, into=right[0])
    if len(left) != len(values):
        given.frame.fail("E223", f"{len(values)} values are joined along as many axes, not {len(left)}", given.arrow)
    return given.add("concat", *values, pieces=left, into=right[0])


def pick(given: Given) -> Value:
    """`pick(x, pair = 0)`."""
    value = given.value()
    if len(given.named) != 1:
        given.misused("'pick' takes one axis and an index")
    ((axis, node),) = given.named.items()
    return given.add("pick", value, axis=axis, at=given.whole(node, "the index"))


def index(given: Given) -> Value:
    """`index(axis)`: 0, 1, 2, ... along an axis."""
    node = given.positional[0]
    if not isinstance(node, ast.Name):
        given.frame.fail("E220", "'index' takes the name of an axis", node)
    return given.add("index", axis=node.text, size=axis_size(node.text, node, given.frame))


def axes(given: Given) -> Axes:
    """`axes(x)`: the names of the axes of a value."""
    return Axes(given.value().names)
