"""Compositions of heads as functions of tiles, in the words of a backend: what becomes of pairs, and the derivatives.

A function takes the pairs `a` [heads, queries, keys] and the planes of what it reads: `qs` of queries [heads or 1,
queries, 1], `ks` of keys [heads or 1, 1, keys], `ws` of weights [heads or 1, 1, 1] or matrices [heads, heads]. The
kernels of a backend may have their own order of queries and keys, and read a plane where it is needed (`Tiles`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from operator import add
from textwrap import wrap
from typing import Literal

from archc.emit.code import call
from archc.emit.docstrings import GLUE
from archc.emit.equations import Say, function, row, statements, unpacked
from archc.fuse.dag import Equations, depends, written
from archc.fuse.mixing import Handed, Mixing
from archc.fuse.planes import SUMS
from archc.ir.graph import Kind
from archc.ops.node import Node
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

    @property
    def order(self) -> tuple[Handed, ...]:
        """Of all planes, as the arguments hold them."""
        return tuple(h for name in GROUPS for h in self.group(name))

    @property
    def linear(self) -> bool:
        """Whether the derivative by the pairs is the same for all pairs."""
        by_pairs = self.mixing.gradient(self.order).outputs[0]
        return by_pairs not in depends([by_pairs], [self.mixing.source])

    @property
    def body(self) -> tuple[object, ...]:
        """Equal for two compositions whose functions read the same."""
        axes = tuple((h.name, h.side, h.value.names, len(h.indices)) for h in self.order)
        return written([self.mixing.result]), axes, self.mixing.heads


@dataclass(frozen=True)
class Tiles:
    """How the functions of a backend are handed their tiles.

    decorator: the line above each. axes: of the derivatives further parameters, along which queries and keys lie. load:
    what reads a plane of tokens, of what `qs` or `ks` have of it and of the pairs; empty where they have planes.
    """

    decorator: str = ""
    axes: tuple[str, ...] = ()
    load: str = ""


@dataclass(frozen=True, eq=False)
class Mixes:
    """The compositions of one program, None where heads stay as they are."""

    before: Mix | None
    after: Mix | None

    @property
    def found(self) -> tuple[Mix, ...]:
        """Those there are."""
        return tuple(m for m in (self.before, self.after) if m is not None)

    @property
    def are_one(self) -> bool:
        """Whether both are there, and the same function of planes of the same names."""
        return len(self.found) == 2 and len({m.body for m in self.found}) == 1

    @property
    def different(self) -> dict[str, Mix]:
        """Each function once, by the end of its name."""
        return {"mix": self.found[0]} if self.are_one else {m.place: m for m in self.found}

    def function(self, stem: str, mix: Mix) -> str:
        """What the function of a composition is called."""
        return f"{stem}_mix" if self.are_one else f"{stem}_{mix.place}"


def work(mixing: Mixing) -> int:
    """The matrix operations of a composition for a pair, as the report counts them, a multiply-add being two."""
    return sum(OPS[v.op].flops(v).matrix for v in mixing.values if v.kind is Kind.PAIR)


def mix_functions(stem: str, mixes: Mixes, say: Say, reserved: Sequence[str], tiles: Tiles = Tiles()) -> str:
    """`<stem>_before(a, qs, ks, ws) -> a` and `<stem>_before_grad(a, qs, ks, ws, d) -> (da, dqs, dks, dws)`, and the
    same of what comes after the softmax, or `<stem>_mix` for both; gradients have the shapes of planes."""
    texts = []
    for end, mix in mixes.different.items():
        name, params = f"{stem}_{end}", ["a", *GROUPS]
        forward, backward = mix.mixing.equations(mix.order), mix.mixing.gradient(mix.order)
        if mixes.are_one:  # what the spec calls the result of the first of them is not what it calls the other's
            forward = replace(
                forward, names={n: called for n, called in forward.names.items() if n not in forward.outputs}
            )
        lines, results = _written(mix, forward, say, (*reserved, *params), tiles.load)
        pairs = " and ".join(PLACES.values()) if mixes.are_one else PLACES[mix.place]
        made = f"The {pairs} [{' '.join(a.name for a in mix.mixing.heads)}] with their heads composed."
        texts.append(function(name, params, [made, "", *_read(mix)], lines, results[0], tiles.decorator))
        if tiles.load:
            backward = _pairs_last(backward)
        lines, results = _written(mix, backward, say, (*reserved, *params, "d"), tiles.load)
        own, *rest = (results[-1], *results[:-1]) if tiles.load else results
        groups = iter(rest)
        parts = [row([next(groups) for _ in _indices(mix, group)]) for group in GROUPS]
        doc = [f"The derivatives of {name} by a, qs, ks and ws, from d, those by what it gives."]
        result = ", ".join([own, *parts])
        texts.append(function(f"{name}_grad", [*params, "d", *tiles.axes], doc, lines, result, tiles.decorator))
    return "\n\n".join(texts)


def function_names(stem: str, mixes: Mixes) -> list[str]:
    """What `mix_functions` writes."""
    return [f"{stem}_{end}{grad}" for end in mixes.different for grad in ("", "_grad")]


def _pairs_last(equations: Equations) -> Equations:
    """Derivatives with the first, that by the pairs, behind the others, which take fewer registers.

    If it is a sum of sums, one addend comes after the other, those made of whole pairs first: the registers of these
    are free then, before sums over heads are spread over heads.
    """
    output, *others = equations.outputs
    uses = Counter(arg for node in equations.nodes for arg in node.args)

    def addends(node: Node) -> list[Node]:
        if node.op != "add" or (node is not output and (uses[node] > 1 or node in equations.names)):
            return [node]
        return [each for arg in node.args for each in addends(arg)]

    def is_whole(node: Node) -> bool:
        return node in equations.given or (node.op not in SUMS and any(map(is_whole, node.args)))

    total = reduce(add, sorted(addends(output), key=lambda node: not is_whole(node)))
    names = {total: equations.names[output]} if output in equations.names else {}
    return replace(equations, outputs=(*others, total), names={**equations.names, **names})


def _written(
    mix: Mix, equations: Equations, say: Say, reserved: Sequence[str], load: str
) -> tuple[list[str], tuple[str, ...]]:
    """The lines of a function and its outputs."""
    leaves, groups = iter(equations.x), []
    loads: dict[Node, str] = {}
    for group, side in GROUPS.items():
        own = [next(leaves) for _ in _indices(mix, group)]
        if load and side:
            loads |= {leaf: f"{load}({group}[{i}], a)" for i, leaf in enumerate(own)}
        else:
            groups.append((group, own))
    said = statements(equations, say, lambda x: call("zeros_like", x), reserved, loads=loads)
    called = dict(zip(equations.x, said.x, strict=True))
    lines = [line for group, own in groups for line in unpacked(group, [called[leaf] for leaf in own])]
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
