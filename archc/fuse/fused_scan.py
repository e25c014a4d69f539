"""A scan and what one kernel computes with it: equations, what they are handed, and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.fuse.builder import Given
from archc.fuse.dag import SPECIAL, Equations, gradient, ordered, written
from archc.fuse.on_axes import Group
from archc.fuse.parts import PARTS, is_complex
from archc.fuse.planes import STATES, VALUES, Planes, Room
from archc.fuse.products import BONUS, OUTPUTS
from archc.fuse.traffic import Traffic
from archc.ir.graph import Kind, Value
from archc.ops.node import Node
from archc.passes.placed import is_placed
from archc.passes.scan_class import ScanClass, ScanKind

PER_HEAD: Room = frozenset()
PER_VALUE: Room = frozenset({VALUES})
PER_KEY: Room = frozenset({STATES})
"""Of a scan of outer products: a number for a head, or one for each of its values, or of its keys."""
OUTER = ("chunked", "chunked_key")
"""The classes of outer products."""


@dataclass(frozen=True, eq=False)
class Handed:
    """A value that a fused kernel is handed: `groups` are the axes of the scan that each of its own is made of, in its
    order; `missing` those of the kernel's tile that it lacks (it is broadcast over them); `name` the name of its leaf;
    `part` which of the parts of a complex value it is.
    """

    value: Value
    groups: tuple[Group, ...]
    missing: tuple[str, ...]
    name: str
    part: str = ""

    @property
    def is_real(self) -> bool:
        """Whether it is of real numbers."""
        return self.value.type.dtype == "real" or bool(self.part)

    @property
    def axes(self) -> tuple[str, ...]:
        """All these axes in a row, as the scan calls them."""
        return tuple(a.name for group in self.groups for a in group)

    @property
    def is_broadcast(self) -> bool:
        """Whether a kernel that reads a value per token and element of its tile must repeat it."""
        return bool(self.missing) or self.value.kind is not Kind.TOKEN or is_placed(self.value)


@dataclass(frozen=True, eq=False)
class FusedScan:
    """A scan and the element-wise equations that run in its kernel.

    Diagonal: `gates` has the outputs decay and input, over the axes of the scan; of a complex state, the real and the
    imaginary part of either, and likewise `out`, of what it reads and of its result if that is complex. Selective:
    `gates` has the outputs dt and v over the channels (`tile`), decay exp(dt rate), input v key. Chunked: log_a, of a
    head, and v, over heads and values (`tile`), input v key; derivatives by what varies by head alone are sums over
    values. With a decay per key: log_a, k and q over heads and keys, v over heads and values (`tile`), input k v, read
    by q, and perhaps b, over heads and keys, whose product with v is added before.

    `normaliser`: what its normaliser is handed to `out` as, behind the inputs, if it has one; nothing else reads it.

    `start` is the state, that before each token, or what is read out of it. `out` has one output, from the leaf
    `given[0]` that stands for it, and `result` is the value that it computes (`start` itself if `out` is None),
    `groups` the axes of the tile that each of its axes is made of. `gates` is None for a scan that is not run this way.
    `inputs` (varying with the token), `weights` (hoisted: computed once, outside) and `numbers` are in the order of
    `gates.x`, `gates.w` and `gates.n`, and likewise of `out`. `computed` are the values that no line of code computes
    any more. `reason`: why not more is fused, a sentence.
    """

    scan: Value
    found: ScanClass
    start: Value
    tile: tuple[str, ...]
    inputs: tuple[Handed, ...]
    weights: tuple[Handed, ...]
    numbers: tuple[Given, ...]
    gates: Equations | None
    out: Equations | None
    result: Value
    groups: tuple[Group, ...]
    computed: frozenset[Value]
    traffic: Traffic | None
    reason: str
    normaliser: Handed | None = None

    @property
    def kind(self) -> ScanKind:
        """The class of the scan."""
        return self.found.kind

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the outputs of the gates are called."""
        names = OUTPUTS[self.kind] + ((BONUS,) if self.found.bonus else ())
        return tuple(f"{name}_{part}" for name in names for part in PARTS) if self.is_complex else names

    @property
    def is_complex(self) -> bool:
        """Whether its state is of complex numbers, of which a kernel has the parts."""
        return is_complex(self.scan)

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for two scans that one kernel runs with the same numbers in it."""
        both = (self.gates, self.out)
        return tuple(e and (written(e.outputs, (*e.x, *e.w, *e.n)), len(e.x), len(e.w), len(e.n)) for e in both)

    @property
    def gates_grad(self) -> Equations | None:
        """The derivatives of `gates` by x and then w; `given` are the derivatives of what it gives."""
        return None if self.gates is None else self._gradient(self.gates, tuple(f"d{n}" for n in self.outputs))

    @property
    def out_grad(self) -> Equations | None:
        """The derivatives of `out` by what it reads, x and then w; `given` are what it reads and what comes in."""
        return None if self.out is None else self._gradient(self.out, self.do)

    @property
    def read(self) -> tuple[str, ...]:
        """What `out` calls what it reads."""
        return () if self.out is None else tuple(leaf.name.removeprefix(SPECIAL) for leaf in self.out.given)

    @property
    def do(self) -> tuple[str, ...]:
        """What the derivatives by what follows the scan are called."""
        return tuple(f"do_{part}" for part in PARTS) if is_complex(self.result) else ("do",)

    @property
    def reads_linearly(self) -> bool:
        """Whether the derivative of `out` by what it reads is the same whatever that is."""
        derived = self.out_grad
        if self.out is None or derived is None:
            return False
        read = self.out.given
        return set(read).isdisjoint(ordered(derived.outputs[: len(read)]))

    @property
    def needs_read(self) -> bool:
        """Whether any derivative of `out` depends on what it reads."""
        derived = self.out_grad
        if self.out is None or derived is None:
            return False
        return not set(self.out.given).isdisjoint(ordered(derived.outputs))

    def room(self, handed: Handed) -> Room:
        """Along what something varies that a scan of outer products is handed: its values, its keys or neither."""
        if set(self.found.value) & set(handed.axes):
            return PER_VALUE
        return PER_KEY if set(self.found.key) & set(handed.axes) else PER_HEAD

    def _gradient(self, equations: Equations, names: Sequence[str]) -> Equations:
        home = equations.outputs[0].home
        seeds = [home.leaf(SPECIAL + name) for name in names]
        wanted = (*equations.given, *equations.x, *equations.w)
        if self.kind not in OUTER:
            return gradient(equations, seeds, wanted)
        planes = Planes(home)
        for handed in (*self.inputs, *self.weights):
            planes.leaf(handed.name, self.room(handed))
        if self.normaliser is not None:
            planes.leaf(self.normaliser.name, PER_HEAD)
        for leaf in (*equations.given, *seeds):
            planes.leaf(leaf.name, self._room_of(leaf))
        return planes.gradient(equations, seeds, wanted)

    def _room_of(self, leaf: Node) -> Room:
        """Along what a derivative that comes in, or what is read out, varies."""
        if leaf.name.removeprefix(SPECIAL) in {f"d{name}" for name in self.outputs if name != "v"}:
            return PER_KEY if self.kind == "chunked_key" else PER_HEAD
        return PER_VALUE
