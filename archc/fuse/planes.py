"""Pieces of pair values as a kernel holds them: along what each varies, sums along that, and their derivatives.

A plane is a node over [heads, queries, keys], or over values or states, with size 1 where it does not vary; a matrix
[heads, heads'] mixes heads.
A value with more axes, such as a rank, is several planes. The ops of the table broadcast; what sums is stated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from archc.fuse.dag import Equations, gradient
from archc.ops.node import Node, Nodes, Operand
from archc.ops.table import OPS

HEADS, QUERIES, KEYS, MIXED, VALUES, STATES = "heads", "queries", "keys", "heads'", "values", "states"
PLACES = {HEADS: 0, QUERIES: 1, KEYS: 2, VALUES: 1, STATES: 1}
"""The axes of a tile; one of tokens has rows, which nothing here sums over, and as columns the values or the keys of a
scan of outer products, each of which has a state."""
Room = frozenset[str]
"""The axes along which something varies."""
PAIR: Room = frozenset((HEADS, QUERIES, KEYS))
MATRIX: Room = frozenset((HEADS, MIXED))


def sum_along(axis: str) -> str:
    """The op that sums a plane along an axis of its tile, which then has size 1."""
    return f"sum_{axis}"


SUMS = {sum_along(axis): axis for axis in PLACES}
MIX, UNMIX, MATRIX_OF_MIX, ZEROS = "mix_heads", "unmix_heads", "mix_heads_matrix", "zeros_like"
"""mix_heads(a, W)[g]: the sum over h of W[h, g] a[h]. unmix_heads(d, W)[h]: the sum over g of W[h, g] d[g].
mix_heads_matrix(a, W, d)[h, g]: the sum over queries and keys of a[h] d[g]. zeros_like(x) has the axes of x."""
ROOMS: dict[str, Callable[[Room], Room]] = {
    **{op: lambda room, axis=axis: room - {axis} for op, axis in SUMS.items()},  # type: ignore[misc]
    MIX: lambda room: room | {HEADS},
    UNMIX: lambda room: room | {HEADS},
    MATRIX_OF_MIX: lambda room: MATRIX,
}
"""From the room of the first operand to that of the result."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Where planes are made; `leaves` says along what each leaf varies."""

    nodes: Nodes
    leaves: dict[Node, Room] = field(default_factory=dict)
    known: dict[Node, Room] = field(default_factory=dict, repr=False)

    def leaf(self, name: str, room: Room) -> Node:
        """A plane that is handed in."""
        node = self.nodes.leaf(name)
        self.leaves[node] = room
        return node

    def room(self, node: Node) -> Room:
        """The axes along which a node varies."""
        if node not in self.known:
            if node in self.leaves:
                self.known[node] = self.leaves[node]
            elif node.op in ROOMS:
                self.known[node] = ROOMS[node.op](self.room(node.args[0]))
            else:
                self.known[node] = frozenset[str]().union(*map(self.room, node.args))
        return self.known[node]

    def summed(self, node: Node, axis: str) -> Node:
        """The sum along an axis; factors that do not vary along it are taken out."""
        assert axis in self.room(node), f"{node} does not vary along {axis}: its sum depends on the size of the tile"
        match node.op, node.args:
            case "neg", (inner,):
                return -self.summed(inner, axis)
            case "mul", (left, right) if axis not in self.room(left):
                return left * self.summed(right, axis)
            case "mul", (left, right) if axis not in self.room(right):
                return right * self.summed(left, axis)
            case "div", (left, right) if axis not in self.room(right):
                return self.summed(left, axis) / right
            case "mul", (left, Node(op="div", args=(right, by))) | (Node(op="div", args=(right, by)), left) if (
                axis not in self.room(by)
            ):
                return self.summed(left * right, axis) / by
        return self.nodes.apply(sum_along(axis), node)

    def mixed(self, node: Node, matrix: Node) -> Node:
        """The heads of a plane mixed by a matrix."""
        return self.nodes.apply(MIX, node, matrix)

    def slopes(self, d: Node, y: Node) -> Sequence[Operand]:
        """The derivatives by the operands of y, from the derivative d by y."""
        if y.op in SUMS:
            return (d,)
        if y.op == MIX:
            a, matrix = y.args
            return self.nodes.apply(UNMIX, d, matrix), self.nodes.apply(MATRIX_OF_MIX, a, matrix, d)
        return OPS[y.op].slopes(d, y, y.args)

    def fitted(self, slope: Node, operand: Node) -> Node:
        """A derivative by an operand that was broadcast: summed along what the operand does not vary along."""
        for axis in (KEYS, QUERIES, HEADS, VALUES, STATES):
            if axis in self.room(slope) and axis not in self.room(operand):
                slope = self.summed(slope, axis)
        return slope

    def gradient(self, equations: Equations, seeds: Sequence[Node], wanted: Sequence[Node]) -> Equations:
        """The derivatives of `sum(seed * output)` by the wanted leaves, each with all axes of its leaf."""
        found = gradient(equations, seeds, wanted, self.slopes, self.fitted)
        pairs = zip(found.outputs, wanted, strict=True)
        return replace(found, outputs=tuple(self._spread(output, leaf) for output, leaf in pairs))

    def _spread(self, node: Node, leaf: Node) -> Node:
        """The node with all axes of the leaf."""
        if self.leaves[leaf] <= self.room(node):
            return node
        return node + self.nodes.apply(ZEROS, leaf)
