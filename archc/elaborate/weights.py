"""Weights: declared once per instance where they are used; contraction with `@`; look-up; initial values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archc.diagnostics import ArchError, Note
from archc.elaborate.attributes import attribute
from archc.elaborate.axes import declared_axes
from archc.elaborate.builder import Builder, WeightDraft
from archc.elaborate.frame import Frame
from archc.ir.graph import Axis, Kind, Operand, Region, Type, Value, Weight
from archc.text import ast

Role = Literal["matrix", "table", "scale", "bias"]


@dataclass(frozen=True)
class Use:
    """How a weight is used where it is first written: its axes in the order of storage, and what `@` does with them."""

    axes: tuple[Axis, ...]
    role: Role
    contracted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def declare(ref: ast.WeightRef, use: Use, frame: Frame) -> Value:
    """The weight of this instance with that name; a second mention must be allowed by `tied`."""
    instance, name = frame.call.instance, ref.name.text
    if name in instance.weights:
        return _mentioned_again(ref, use, frame)
    path = instance.below(attribute(name))
    alike = next((other for other, weight in instance.weights.items() if weight.attrs["path"] == path), None)
    if alike is not None or attribute(name) in instance.children:
        others = "a call below" if alike is None else f"weight '{alike}'"
        message = f"weight '{name}' and {others} have one name in checkpoints"
        frame.fail("E116", message, ref.name, help="rename the weight, or label the call: other_name: f(...)")
    builder = frame.home or frame.builder.outside
    inside = frame.at(builder=builder) if frame.home is not None else frame
    value = inside.add("weight", (), ref, {"path": path, "type": Type(Kind.WEIGHT, use.axes)}, label=name)
    instance.weights[name], instance.first[name] = value, ref
    frozen = name in _named(frame, ast.Frozen)
    builder.weights.append(
        WeightDraft(value, name, frame.call, frame.scope, use.role, frozen, use.contracted, use.kept, ref.span)
    )
    return value


def _mentioned_again(ref: ast.WeightRef, use: Use, frame: Frame) -> Value:
    name = ref.name.text
    known, first = frame.call.instance.weights[name], frame.call.instance.first[name]
    if first is not ref and name not in _named(frame, ast.Tied):
        frame.fail(
            "E401",
            f"weight '{name}' is written twice",
            ref,
            Note("first here", first.span),
            help=f"give one of them another name, or say 'tied {name}' if both are one weight",
        )
    if known.type.sizes != {a.name: a.size for a in use.axes}:
        have, now = (" ".join(map(str, axes)) for axes in (known.type.axes, use.axes))
        message = f"weight '{name}' is [{now}] here and [{have}] where it is first written"
        sizes = known.type.sizes
        apart = [a for a in use.axes if sizes.get(a.name, a.size) != a.size]
        roots = [r for a in apart for size in (a.size, sizes[a.name]) for r in frame.shelf.recall(a.name, size)]
        frame.fail("E402", message, ref, Note("first here", first.span), *roots)
    _make_head(known, use, frame.home or frame.builder.outside)
    return known


def _make_head(table: Value, use: Use, builder: Builder) -> None:
    """Notes that a table is contracted to its rows, too: that makes it a matrix as far as its initial values go."""
    for draft in builder.weights:
        if draft.value is table and draft.role == "table" and table.names[0] not in use.contracted:
            draft.contracted = draft.contracted or use.contracted


def _named(frame: Frame, kind: type[ast.Frozen] | type[ast.Tied]) -> set[str]:
    """The weights that `frozen` or `tied` lists in this definition."""
    return {n.text for s in frame.call.definition.body if isinstance(s, kind) for n in s.names}


def plain_weight(ref: ast.WeightRef, frame: Frame) -> Value:
    """`name[axes]`: a bias, a scale, a table of constants."""
    if ref.made is not None:
        frame.fail("E403", "'->' in a weight stands only to the right of @", ref, help=f"write x @ {ref.span.text}")
    return declare(ref, Use(declared_axes(ref.axes, frame), "bias"), frame)


def lookup(node: ast.Lookup, index: Operand, frame: Frame) -> Value:
    """`E[vocab width](tokens)`."""
    ref = node.weight
    if ref.made is not None or not ref.axes:
        example = f"write {ref.name.text}[vocab width](tokens): rows are looked up along the first axis"
        frame.fail("E403", "a table has axes, and no '->'", ref, help=example)
    table = declare(ref, Use(declared_axes(ref.axes, frame), "table"), frame)
    return frame.add("lookup", (table, index), node)


def contract(node: ast.Contract, x: Value, frame: Frame) -> Value:
    """`x @ W[made]` and `x @ W[contracted -> made]`; an axis on both sides of the arrow is kept."""
    ref = node.weight
    if ref.made is None:
        return _contract_all(node, x, frame)
    left, right = declared_axes(ref.axes, frame, x), declared_axes(ref.made, frame, x)
    _check_left(left, x, node, frame)
    sides = {a.name for a in left}, {a.name for a in right}
    over = tuple(a.name for a in left if a.name not in sides[1])
    if not over:
        frame.fail("E404", "this contracts nothing", ref, help=_instead(ref, left))
    kept = tuple(a for a in left if a.name in sides[1])
    inner = tuple(a for a in left if a.name not in sides[1])
    made = tuple(a for a in right if a.name not in sides[0])
    use = Use((*kept, *inner, *made), "matrix", over, tuple(k.name for k in kept))
    weight = declare(ref, use, frame)
    result = frame.add("contract", (x, weight), node, {"over": over, "made": tuple(a.name for a in right)})
    return _unprimed(result, node, frame)


def _check_left(left: tuple[Axis, ...], x: Value, node: ast.Contract, frame: Frame) -> None:
    """The axes left of the arrow are axes of the value, and of its sizes."""
    for declared, axis in zip(node.weight.axes, left, strict=False):
        if axis.name not in x.names:
            have = " ".join(x.names) or "no axes"
            message = f"'{axis.name}' is not an axis of the value left of @, which has {have}"
            frame.fail("E303", message, declared, Note("the value", node.left.span))
        size = x.type.sizes[axis.name]
        if size != axis.size:
            recall = frame.shelf.recall
            roots = (*recall(axis.name, size), *recall(axis.name, axis.size))
            message = f"axis '{axis.name}' is {size} left of @ and {axis.size} in the weight"
            frame.fail("E301", message, declared, Note("the value", node.left.span), *roots)


def _instead(ref: ast.WeightRef, left: tuple[Axis, ...]) -> str:
    if not left:
        return "name the axes to contract before '->', or leave '->' out to contract all of them"
    axis, name = left[-1].name, ref.name.text.lower()
    return f"write {axis}' on the right for a square matrix, or * {name}[{axis}] to scale"


def _contract_all(node: ast.Contract, x: Value, frame: Frame) -> Value:
    made = declared_axes(node.weight.axes, frame, x)
    if not x.names:
        help = "multiply by a weight instead: * w[...]"
        frame.fail("E404", "the value left of @ has no axes to contract", node.left, help=help)
    stored = tuple(Axis(a.name + "'" if a.name in x.names else a.name, a.size) for a in made)
    weight = declare(node.weight, Use((*x.type.axes, *stored), "matrix", x.names), frame)
    result = frame.add("contract", (x, weight), node, {"over": x.names, "made": tuple(a.name for a in stored)})
    return _unprimed(result, node, frame)


def rename(value: Value, names: dict[str, str], node: ast.Node, frame: Frame) -> Value:
    """The value with some axes called otherwise."""
    names = {old: new for old, new in names.items() if old in value.names and old != new}
    if not names:
        return value
    for old, new in names.items():
        size = value.type.sizes[old]
        frame.shelf.remember(new, size, frame.shelf.recall(old, size))
    return frame.add("rename", (value,), node, {"names": names}, label=value.label)


def _unprimed(value: Value, node: ast.Node, frame: Frame) -> Value:
    """A prime drops after the contraction where the plain name is free."""
    bare = {n: n.rstrip("'") for n in value.names if n.endswith("'") and n.rstrip("'") not in value.names}
    return rename(value, bare, node, frame)


# --- initial values ----------------------------------------------------------------------------------


def finish_weights(builder: Builder, region: Region, frame: Frame) -> None:
    """Turns the drafts of a region into weights, with their initial values."""
    done: list[Weight] = []
    for draft in builder.weights:
        role, contracted = _role(draft, frame)
        try:
            init = _initial(draft, role, frame)
        except ArchError as failed:
            frame.shelf.report(failed)
            init = None
        path: str = draft.value.attrs["path"]
        weight = Weight(path, draft.value.type, draft.frozen, role, init, contracted, draft.kept, draft.value.origin)
        draft.call.weights[draft.name] = weight
        done.append(weight)
    frame.shelf.weights[region] = tuple(done)


def _role(draft: WeightDraft, frame: Frame) -> tuple[Role, tuple[str, ...]]:
    """What a weight is for, and the axes it contracts: a plain one may be a filter, a factor or a summand."""
    if draft.role != "bias":
        return draft.role, draft.contracted
    if draft.value in frame.shelf.filters:
        return "matrix", frame.shelf.filters[draft.value]
    return ("scale" if draft.value in frame.shelf.factors else "bias"), ()


def _initial(draft: WeightDraft, role: Role, frame: Frame) -> Region | None:
    """The initial value as a region of weight values, from `init name = ...` or the model's `init default`."""
    own = [s for s in draft.call.definition.body if isinstance(s, ast.Init) and s.name.text == draft.name]
    builder = Builder("init", frame.shelf.ids)
    inner = frame.at(builder=builder, scope=draft.scope, call=draft.call, target=draft.name)
    inner = inner.at(sites=draft.value.origin.calls)
    if own:
        node = own[0].value
        draft.call.inits[draft.name] = node
    elif frame.shelf.default_init is not None and role in ("matrix", "table"):
        node, where = frame.shelf.default_init
        inner = where.at(builder=builder, block=frame.block)
    else:
        return None
    builder.params.append(draft.value)  # the weight itself: `random` reads its axes there
    bound = frame.walker.evaluate(node, inner)
    result = inner.operand(bound, node, f"the initial value of '{draft.name}'")
    if not isinstance(result, Value):
        attrs = {"how": "constant", "params": (result,), "type": Type(Kind.WEIGHT, (), "real", True)}
        result = inner.add("random", (), node, attrs)
    if result.kind is not Kind.WEIGHT:
        inner.fail("E405", "an initial value cannot depend on tokens", node)
    for axis in result.type.axes:
        if draft.value.type.sizes.get(axis.name) != axis.size:
            have = " ".join(map(str, draft.value.type.axes))
            message = f"this has axis '{axis}', but weight '{draft.name}' is [{have}]"
            inner.fail("E405", message, node, Note("the weight", draft.span))
    return Region("init", (), tuple(builder.values), (result,))
