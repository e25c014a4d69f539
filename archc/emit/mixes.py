"""Compositions of heads as functions of tiles, in the words of a backend: what becomes of pairs, and the derivatives.

A function takes the pairs `a` [heads, queries, keys] and the planes of what it reads: `qs` of queries [heads or 1,
queries, 1], `ks` of keys [heads or 1, 1, keys], `ws` of weights [heads or 1, 1, 1] or matrices [heads, heads].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap
from typing import Literal

from archc.emit.code import call
from archc.emit.equations import GLUE, Say, function, row, statements, unpacked
from archc.fuse.dag import Equations
from archc.fuse.mixing import Handed, Mixing
from archc.ir.graph import Kind
from archc.ops.table import OPS

GROUPS = {"qs": "queries", "ks": "keys", "ws": ""}
"""The arguments of a function, and the side of the tokens that they are planes of."""
PLACES = {"before": "scores", "after": "weights"}


@dataclass(frozen=True, eq=False)
class Mix:
    """One composition as it is called: `handed` are tokens, then weights, in the order in which they are handed over;
    `work` the matrix operations for a pair."""

    place: Literal["before", "after"]
    mixing: Mixing
    handed: tuple[Handed, ...]
    work: int

    @property
    def sides(self) -> str:
        """A letter for each token: q or k."""
        return "".join(h.side[0] for h in self.handed if h.side)

    @property
    def shapes(self) -> str:
        """A letter for each weight: m for a matrix between heads, p for planes."""
        return "".join("m" if h.made else "p" for h in self.handed if not h.side)

    def group(self, name: str) -> tuple[Handed, ...]:
        """What an argument holds the planes of."""
        return tuple(h for h in self.handed if h.side == GROUPS[name])


@dataclass(frozen=True, eq=False)
class Mixes:
    """The compositions of one program, None where heads stay as they are."""

    before: Mix | None
    after: Mix | None

    @property
    def found(self) -> tuple[Mix, ...]:
        """Those there are."""
        return tuple(m for m in (self.before, self.after) if m is not None)


def work(mixing: Mixing) -> int:
    """The matrix operations of a composition for a pair, as the report counts them, a multiply-add being two."""
    return sum(OPS[v.op].flops(v).matrix for v in mixing.values if v.kind is Kind.PAIR)


def mix_functions(stem: str, mixes: Mixes, say: Say, reserved: Sequence[str], decorator: str = "") -> str:
    """`<stem>_before(a, qs, ks, ws) -> a` and `<stem>_before_grad(a, qs, ks, ws, d) -> (da, dqs, dks, dws)`, and the
    same of what comes after the softmax; gradients have the shapes of what is handed in."""
    texts = []
    for mix in mixes.found:
        name, params = f"{stem}_{mix.place}", ["a", *GROUPS]
        order = tuple(h for group in GROUPS for h in mix.group(group))
        forward, backward = mix.mixing.equations(order), mix.mixing.gradient(order)
        lines, results = _written(mix, forward, say, (*reserved, *params))
        made = f"The {PLACES[mix.place]} [{' '.join(a.name for a in mix.mixing.heads)}] with their heads composed."
        texts.append(function(name, params, [made, "", *_read(mix)], lines, results[0], decorator))
        lines, (own, *rest) = _written(mix, backward, say, (*reserved, *params, "d"))
        groups = iter(rest)
        parts = [row([next(groups) for _ in _indices(mix, group)]) for group in GROUPS]
        doc = [f"The derivatives of {name} by a, qs, ks and ws, from d, those by what it gives."]
        texts.append(function(f"{name}_grad", [*params, "d"], doc, lines, ", ".join([own, *parts]), decorator))
    return "\n\n".join(texts)


def function_names(stem: str, mixes: Mixes) -> list[str]:
    """What `mix_functions` writes."""
    return [f"{stem}_{mix.place}{grad}" for mix in mixes.found for grad in ("", "_grad")]


def _written(mix: Mix, equations: Equations, say: Say, reserved: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The lines of a function and its outputs."""
    said = statements(equations, say, lambda x: call("zeros_like", x), reserved)
    names = iter(said.x)
    lines = [line for group in GROUPS for line in unpacked(group, [next(names) for _ in _indices(mix, group)])]
    return [*lines, *said.lines], said.outputs


def _indices(mix: Mix, group: str) -> Iterator[object]:
    """The planes of an argument."""
    return (index for handed in mix.group(group) for index in handed.indices)


def _read(mix: Mix) -> list[str]:
    """What the arguments hold, as lines of a docstring."""
    parts = ["a: pairs."]
    for name in GROUPS:
        groups = groupby(mix.group(name), key=lambda h: h.value.names)
        listed = ", ".join(f"{', '.join(h.name for h in each)}{GLUE}[{GLUE.join(axes)}]" for axes, each in groups)
        parts += [f"{name}: {listed}."] if listed else []
    return [line.replace(GLUE, " ") for line in wrap(" ".join(parts), 112)]
