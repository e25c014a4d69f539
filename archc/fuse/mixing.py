"""What becomes of the pairs of all heads on one side of a softmax: a function of planes, and its derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from archc.fuse.builder import own_name
from archc.fuse.dag import SPECIAL, Equations, written
from archc.fuse.planes import HEADS, KEYS, MATRIX, PAIR, QUERIES, Planes, Room
from archc.ir.graph import Axis, Value
from archc.ops.node import Node

SOURCE, SEED = SPECIAL + "a", SPECIAL + "d"
"""The pairs that come in, and the derivative by those that go out."""
PART_OF = {"queries": QUERIES, "keys": KEYS}
"""Along what a lifted token varies."""
Index = tuple[int, ...]


class Outside(Exception):
    """Why a program is not of the class, as the end of a sentence."""


@dataclass(frozen=True)
class Handed:
    """A token, or a weight, that a kernel of composed heads is handed.

    `side`: the op by which a token is lifted, `queries` or `keys`; empty for a weight. `planes` are its axes that are
    unrolled, in its own order; `heads` what it calls the axes of the heads, each with its place among them; a matrix
    has `made` as well, the heads that it makes.
    """

    value: Value
    side: str
    planes: tuple[str, ...]
    heads: tuple[tuple[str, int], ...]
    made: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """What it is called in the spec."""
        return own_name(self.value) or {"queries": "query", "keys": "key"}.get(self.side, "weight")

    @property
    def indices(self) -> tuple[Index, ...]:
        """Of every plane, in order."""
        sizes = self.value.type.sizes
        return tuple(product(*(range(sizes[n]) for n in self.planes)))

    @property
    def room(self) -> Room:
        """Along what its planes vary."""
        if self.made:
            return MATRIX
        return frozenset({HEADS} if self.heads else ()) | frozenset({PART_OF[self.side]} if self.side else ())


@dataclass(frozen=True, eq=False)
class Mixing:
    """What happens to pairs before or after the softmax: `result` as a function of `source`, of the planes of tokens
    and of those of weights. `heads` are the axes of the source, `names` what the spec calls nodes, `values` those of
    the graph that are computed on the way."""

    planes: Planes
    source: Node
    result: Node
    leaves: Mapping[tuple[Handed, Index], Node]
    names: Mapping[Node, str]
    heads: tuple[Axis, ...]
    values: frozenset[Value]

    @property
    def handed(self) -> tuple[Handed, ...]:
        """The tokens and weights that it reads, each once."""
        return tuple(dict.fromkeys(each for each, _ in self.leaves))

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for two mixings that are the same functions of the same planes, whatever these are."""
        nodes = written([self.result], self.leaves.values())
        return nodes, tuple(a.size for a in self.heads), tuple((h.side, h.room, len(h.indices)) for h in self.handed)

    def equations(self, handed: Sequence[Handed]) -> Equations:
        """The result, from the planes of these tokens and weights that it reads."""
        x = tuple(self.leaves[h, i] for h in handed for i in h.indices)
        return Equations((self.result,), x, (), (self.source,), dict(self.names))

    def gradient(self, handed: Sequence[Handed]) -> Equations:
        """Its derivatives by the pairs that come in and by those planes."""
        forward = self.equations(handed)
        seed = self.planes.leaf(SEED, PAIR)
        return self.planes.gradient(forward, (seed,), (self.source, *forward.x))
