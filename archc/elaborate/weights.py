"""Weights: declared once per instance where they are used; contraction with `@`; look-up; initial values."""

from __future__ import annotations

from archc.diagnostics import ArchError, Note
from archc.elaborate.axes import declared_axes
from archc.elaborate.frame import Builder, Frame, WeightDraft
from archc.ir.graph import Axis, Kind, Operand, Region, Type, Value, Weight
from archc.text import ast

KEYWORDS = frozenset({"lambda", "if", "in", "is", "as", "or", "and", "not", "for", "def", "del", "try", "from", "with"})


def safe_name(name: str) -> str:
    """The name as an attribute in Python, and so in checkpoints: `lambda` becomes `lambda_`."""
    return name + "_" if name in KEYWORDS else name


def declare(ref: ast.WeightRef, axes: tuple[Axis, ...], role: str, frame: Frame, **how: tuple[str, ...]) -> Value:
    """The weight of this instance with that name; a second mention must be allowed by `tied`."""
    instance, name = frame.call.instance, ref.name.text
    known = instance.weights.get(name)
    if known is not None:
        first = instance.first[name]
        if first is not ref and name not in tied_names(frame):
            frame.fail(
                "E401",
                f"weight '{name}' is written twice",
                ref,
                Note("first here", first.span),
                help=f"say 'tied {name}' if both are meant to be one weight",
            )
        if known.type.sizes != {a.name: a.size for a in axes}:
            have = " ".join(map(str, known.type.axes))
            frame.fail("E402", f"weight '{name}' has axes [{have}] at its first mention", ref, Note("here", first.span))
        return known
    builder = layer_builder(frame.builder)
    path = instance.below(safe_name(name))
    value = frame.add("weight", (), ref, {"path": path, "type": Type(Kind.WEIGHT, axes)}, label=name)
    instance.weights[name], instance.first[name] = value, ref
    frozen = name in {n.text for s in frame.call.definition.body if isinstance(s, ast.Frozen) for n in s.names}
    builder.weights.append(
        WeightDraft(
            value,
            name,
            frame.call,
            frame.scope,
            role,
            frozen,
            how.get("contracted", ()),
            how.get("kept", ()),
            ref.span,
        )
    )
    return value


def layer_builder(builder: Builder) -> Builder:
    """The region that weights belong to: the layer or the model, not a loop inside of it."""
    while builder.name == "loop" and builder.parent is not None:
        builder = builder.parent
    return builder


def tied_names(frame: Frame) -> set[str]:
    """The weights that this definition ties."""
    return {n.text for s in frame.call.definition.body if isinstance(s, ast.Tied) for n in s.names}


def plain_weight(ref: ast.WeightRef, frame: Frame) -> Value:
    """`name[axes]`: a bias, a scale, a table of constants."""
    if ref.made is not None:
        frame.fail("E403", "'->' in a weight stands only to the right of @", ref)
    return declare(ref, declared_axes(ref.axes, frame), "bias", frame)


def lookup(node: ast.Lookup, index: Operand, frame: Frame) -> Value:
    """`E[vocab width](tokens)`."""
    table = declare(node.weight, declared_axes(node.weight.axes, frame), "table", frame)
    return frame.add("lookup", (table, index), node)


def contract(node: ast.Contract, x: Value, frame: Frame) -> Value:
    """`x @ W[made]` and `x @ W[contracted -> made]`; an axis on both sides of the arrow is kept."""
    ref = node.weight
    if ref.made is None:
        return _contract_all(node, x, frame)
    left, right = declared_axes(ref.axes, frame, x), declared_axes(ref.made, frame, x)
    for axis in left:
        if axis.name not in x.names:
            frame.fail("E303", f"'{axis.name}' is not an axis of the value left of @", ref, help=f"it is a {x.type}")
        if x.type.sizes[axis.name] != axis.size:
            frame.fail(
                "E301", f"axis '{axis.name}' is {x.type.sizes[axis.name]} left of @ and {axis.size} in the weight", ref
            )
    names = {a.name for a in right}
    over = tuple(a.name for a in left if a.name not in names)
    if not over:
        last = left[-1].name
        frame.fail(
            "E404",
            "nothing is contracted",
            ref,
            help=f"write {last}' for a fresh copy of the axis (a square matrix), or * {ref.name.text.lower()}[{last}] to scale",
        )
    kept = tuple(a for a in left if a.name in names)
    inner = tuple(a for a in left if a.name not in names)
    made = tuple(a for a in right if a.name not in {k.name for k in kept})
    weight = declare(ref, (*kept, *inner, *made), "matrix", frame, contracted=over, kept=tuple(k.name for k in kept))
    result = frame.add("contract", (x, weight), node, {"over": over, "made": tuple(a.name for a in right)})
    return _unprimed(result, node, frame)


def _contract_all(node: ast.Contract, x: Value, frame: Frame) -> Value:
    made = declared_axes(node.weight.axes, frame, x)
    if not x.names:
        frame.fail("E404", "the value left of @ has no axes to contract", node)
    stored = tuple(Axis(a.name + "'" if a.name in x.names else a.name, a.size) for a in made)
    weight = declare(node.weight, (*x.type.axes, *stored), "matrix", frame, contracted=x.names)
    result = frame.add("contract", (x, weight), node, {"over": x.names, "made": tuple(a.name for a in stored)})
    return rename(result, {s.name: m.name for s, m in zip(stored, made, strict=True) if s.name != m.name}, node, frame)


def rename(value: Value, names: dict[str, str], node: ast.Node, frame: Frame) -> Value:
    """The value with some axes called otherwise."""
    names = {old: new for old, new in names.items() if old in value.names and old != new}
    return frame.add("rename", (value,), node, {"names": names}, label=value.label) if names else value


def _unprimed(value: Value, node: ast.Node, frame: Frame) -> Value:
    """A prime drops after the contraction where the plain name is free."""
    bare = {n: n.rstrip("'") for n in value.names if n.endswith("'") and n.rstrip("'") not in value.names}
    return rename(value, bare, node, frame)


def finish_weights(builder: Builder, region: Region, frame: Frame) -> None:
    """Turns the drafts of a region into weights, with their initial values."""
    done: list[Weight] = []
    for draft in builder.weights:
        try:
            init = _initial(draft, frame)
        except ArchError as failed:
            frame.shelf.report(failed)
            init = None
        role = draft.role
        assert role in ("matrix", "table", "scale", "bias")
        weight = Weight(
            draft.value.attrs["path"],
            draft.value.type,
            draft.frozen,
            role,  # type: ignore[arg-type]
            init,
            draft.contracted,
            draft.kept,
            draft.value.origin,
        )
        draft.call.weights[draft.name] = weight
        done.append(weight)
    frame.shelf.weights[region] = tuple(done)


def _initial(draft: WeightDraft, frame: Frame) -> Region | None:
    """The initial value as a region of weight values, from `init name = ...` or the model's `init default`."""
    own = [s for s in draft.call.definition.body if isinstance(s, ast.Init) and s.name.text == draft.name]
    builder = Builder("init", frame.shelf.ids)
    inner = frame.at(builder=builder, scope=draft.scope, call=draft.call, target=draft.name)
    if own:
        node = own[0].value
        draft.call.inits[draft.name] = node
    elif frame.shelf.default_init is not None and draft.role in ("matrix", "table"):
        node, where = frame.shelf.default_init
        inner = where.at(builder=builder)
    else:
        return None
    inner = inner.at(builder=builder)
    builder.params.append(draft.value)  # the weight itself: `random` reads its axes there
    bound = frame.walker.evaluate(node, inner)
    result = inner.operand(bound, node, f"the initial value of '{draft.name}'")
    if not isinstance(result, Value):
        attrs = {"how": "constant", "params": (result,), "type": Type(Kind.WEIGHT, (), "real", True)}
        result = inner.add("random", (), node, attrs)
    for axis in result.type.axes:
        if draft.value.type.sizes.get(axis.name) != axis.size:
            have = " ".join(map(str, draft.value.type.axes))
            inner.fail("E405", f"the initial value has axis '{axis}', the weight is [{have}]", node)
    if result.kind is not Kind.WEIGHT:
        inner.fail("E405", "an initial value cannot depend on tokens", node)
    return Region("init", (), tuple(builder.values), (result,))


