"""Drawn heads in groups, of which each has keys, read-outs or values that its heads share."""

from __future__ import annotations

from tests.parity.random_bodies import Axes, Writer
from tests.parity.random_pairs import pairs
from tests.parity.random_scans import delta, matrix, selective


def grouped(w: Writer) -> None:
    """Two axes of heads, and a mixer in which some tensors have only one of them; their product is an axis, too."""
    rng = w.rng
    groups = w.declare(f"groups{w.count}", rng.randint(1, 3))
    members = w.declare(f"members{w.count}", rng.randint(1, 3))
    many = w.declare(f"many{w.count}", w.size(groups) * w.size(members))
    heads = w.shuffled((groups, members))
    if rng.random() < 0.5:
        _shared(w, groups, members)
    if rng.random() < 0.5:
        _apart(w, many, (groups, members))
    rng.choice((selective, selective, matrix, matrix, pairs, delta))(w, heads)
    name = list(w.scope)[-1]
    axes = w.scope[name]
    if {groups, members} <= set(axes) and rng.random() < 0.5:
        rest = tuple(a for a in axes if a not in heads)
        w.let(f"merge({w.read(name)}, {' '.join(w.shuffled(heads))} -> {many})", (many, *rest))
    if not any(many in line for line in w.lines):
        w.axes.pop(many)


def _apart(w: Writer, many: str, heads: Axes) -> None:
    """Heads that are projected in a row and then cut into groups."""
    beside = (w.axis(),) if w.rng.random() < 0.5 else ()
    name = w.read(w.named(w.shuffled((many, *beside))))
    axes = tuple(part for axis in w.scope[name] for part in (heads if axis == many else (axis,)))
    w.let(f"split({name}, {many} -> {' '.join(heads)})", axes)


def _shared(w: Writer, groups: str, members: str) -> None:
    """What a group has, once for each of its members."""
    beside = (w.axis(),) if w.rng.random() < 0.5 else ()
    name = w.read(w.named((groups, *beside)))
    w.let(f"0 * index({members}) + {name}", (groups, *beside, members))
