"""Every scan of a program as one fused kernel would run it: gate equations, their inputs, and what is read out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from archc.fuse.behind import End, behind
from archc.fuse.convs import fused_convs
from archc.fuse.dag import READ_OUT, SPECIAL, Equations, gradient, makes_numbers, new_nodes, ordered, written
from archc.fuse.planes import STATES, VALUES, Planes, Room
from archc.fuse.products import BONUS, OUTPUTS, PRODUCTS, Product, decay_chain, log_of
from archc.fuse.reasons import ending, in_parts, parts_of, problem
from archc.fuse.regions import Builder, Given, Group, Kernel, Numbers, Placed, border, leaf_names, placed
from archc.fuse.traffic import Traffic, traffic
from archc.ir.graph import Graph, Kind, Region, Value
from archc.ops.node import Node
from archc.ops.table import OPS
from archc.passes.placed import is_placed
from archc.passes.readout import leaves
from archc.passes.scans import ScanClass, ScanKind, classify
from archc.passes.scans import inside as held

PER_HEAD: Room = frozenset()
PER_VALUE: Room = frozenset({VALUES})
PER_KEY: Room = frozenset({STATES})
"""Of a scan of outer products: a number for a head, or one for each of its values, or of its keys."""
OUTER = ("chunked", "chunked_key")
"""The classes of outer products."""


@dataclass(frozen=True, eq=False)
class Handed:
    """A value that a fused kernel is handed: `groups` are the axes of the scan that each of its own is made of, in its
    order; `missing` those of the kernel's tile that it lacks (it is broadcast over them); `name` the name of its leaf.
    """

    value: Value
    groups: tuple[Group, ...]
    missing: tuple[str, ...]
    name: str

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

    Diagonal: `gates` has the outputs decay and input, over the axes of the scan. Selective: `gates` has the outputs dt
    and v over the channels (`tile`), decay exp(dt rate), input v key. Chunked: log_a, of a head, and v, over heads and
    values (`tile`), input v key; derivatives by what varies by head alone are sums over values. With a decay per key:
    log_a, k and q over heads and keys, v over heads and values (`tile`), input k v, read by q, and perhaps b, over
    heads and keys, whose product with v is added before.

    `normaliser`: what its normaliser is handed to `out` as, behind the inputs, if it has one; nothing else reads it.

    `out` has one output, from the leaf `given[0]` that stands for the state or what is read out of it, and `result` is
    the value that it computes (state or read-out itself if `out` is None), `groups` the axes of the tile that each of
    its axes is made of. `gates` is None for a scan that is not run this way. `inputs` (varying with the token),
    `weights` (hoisted: computed once, outside) and `numbers` are in the order of `gates.x`, `gates.w` and `gates.n`,
    and likewise of `out`. `computed` are the values that no line of code computes any more. `reason`: why not more is
    fused, a sentence.
    """

    scan: Value
    found: ScanClass
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
        return OUTPUTS[self.kind] + ((BONUS,) if self.found.bonus else ())

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
        return None if self.out is None else self._gradient(self.out, ("do",))

    @property
    def reads_linearly(self) -> bool:
        """Whether the derivative of `out` by what it reads is the same whatever that is."""
        derived = self.out_grad
        return derived is not None and derived.given[0] not in ordered(derived.outputs[:1])

    @property
    def needs_read(self) -> bool:
        """Whether any derivative of `out` depends on what it reads."""
        derived = self.out_grad
        return derived is not None and derived.given[0] in ordered(derived.outputs)

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


def fused_scans(graph: Graph, numbers: Numbers | None = None) -> dict[Value, FusedScan]:
    """Every live scan with what one kernel can run of it, to which `numbers` are handed.

    A kernel of matrix products leaves the bias and the activation of a convolution to the kernel of that: its registers
    are full.
    """
    home = {v: region for region, _ in graph.regions() for v in region.values}
    found = classify(graph)
    ends: dict[Value, End] = {}
    convs = frozenset(v for conv in fused_convs(graph).values() for v in (conv.result, *conv.computed))
    for scan in reversed(found):  # what two states meet in runs with the later one
        if not problem(found[scan]):
            start = scan if found[scan].kind == "diagonal" else found[scan].reads[0].value
            ends[scan] = behind(placed(start), home[scan], _others(ends, scan))
    return {
        scan: _fused(
            each,
            home[scan],
            ends[scan],
            _others(ends, scan) | (convs if each.kind in OUTER else frozenset()),
            numbers or {},
        )
        if scan in ends
        else _unfused(each, problem(each))
        for scan, each in found.items()
    }


def _others(ends: Mapping[Value, End], scan: Value) -> frozenset[Value]:
    """What the kernels of other scans compute behind them."""
    return frozenset(p.value for each, end in ends.items() if each is not scan for p in end.cone)


def _fused(found: ScanClass, region: Region, end: End, taken: frozenset[Value], numbers: Numbers) -> FusedScan:
    tile, products = PRODUCTS[found.kind](found, numbers)
    plan = _Plan(found, region, tile, products, end, taken, numbers)
    fused = _assembled(plan)
    if fused.out is not None and (in_parts(found) or not _takes_all(fused, fused.out)):
        return _assembled(replace(plan, end=End(end.start, end.start, frozenset())))
    return fused


def _takes_all(fused: FusedScan, out: Equations) -> bool:
    """Whether a kernel can end so: with real tokens of a batch, without documents' starts, which only gates know."""
    real = all(h.value.type.dtype == "real" and not is_placed(h.value) for h in (*fused.inputs, *fused.weights))
    return real and out.first not in out.nodes


def _unfused(found: ScanClass, reason: str) -> FusedScan:
    scan, nothing = found.scan, frozenset[Value]()
    return FusedScan(scan, found, scan.names, (), (), (), None, None, scan, placed(scan).groups, nothing, None, reason)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The outputs of the gates as products, by name, and how the kernel ends; `taken`: what other kernels compute;
    `numbers`: what is handed in.
    """

    found: ScanClass
    region: Region
    tile: tuple[str, ...]
    products: Mapping[str, Product]
    end: End
    taken: frozenset[Value]
    numbers: Numbers

    @property
    def norm(self) -> Value | None:
        """The normaliser, if the scan has one."""
        return None if self.found.normaliser is None else self.found.normaliser.reads[0].value

    @property
    def tops(self) -> dict[Placed, str]:
        """Where the regions end: factors of the outputs, and what meets the state or the read-out behind the scan."""
        own = {self.end.start.value, *(p.value for p in self.end.cone), self.norm}
        operands = (a for p in self.end.cone for a in p.operands() if isinstance(a, Placed))
        side = {a: "out" for a in operands if a.value not in own}
        return side | {f: n for n, p in reversed([*self.products.items()]) for f, _ in p if isinstance(f, Placed)}

    @property
    def kernel(self) -> Kernel:
        """What is computed besides the equations."""
        cone = (p.value for p in self.end.cone)
        scans = [c for c in (self.found, self.found.normaliser) if c is not None]
        own = {*cone, *(v for c in scans for v in (c.scan, *(v for r in c.reads for v in r.path)))}
        between: set[Value] = held(self.found)
        stops = {p.value for p in self.tops}
        keys = {f.operand for f in self.found.factors["key"]}
        todo = [self.found.scan]
        while todo:
            value = todo.pop()
            between.add(value)
            todo += [v for v in value.operands if v not in stops and _is_product(v) and _bare(v) not in keys]
        if self.found.kind in OUTER:
            between |= decay_chain(self.found)
        axes = {*self.tile, *(self.found.key if self.found.kind == "chunked_key" else ())}
        calls = self.found.scan.origin.calls
        return Kernel(self.region, calls, frozenset(axes), frozenset(own), frozenset(between - own), self.taken)


def _bare(value: Value) -> Value:
    """What is cast or named."""
    while OPS[value.op].flow == "alias":
        value = value.operands[0]
    return value


def _is_product(value: Value) -> bool:
    """Whether a token takes part in a product of decays or of inputs."""
    return value.kind is Kind.TOKEN and (value.op in ("exp", "mul", "div", "neg") or OPS[value.op].flow == "alias")


def _assembled(plan: _Plan) -> FusedScan:
    kernel, tops = plan.kernel, plan.tops
    end = plan.end
    fused = kernel.inside(tops) | end.cone
    known = {} if plan.norm is None else {placed(plan.norm): "norm"}
    build = Builder(fused, new_nodes(), leaf_names(fused, {**tops, end.result: "out"}, known), plan.numbers)
    norm = next(map(build.leaf, known), None)
    gates = tuple(build.product(p) for p in plan.products.values())
    if plan.found.kind in OUTER:
        gates = (log_of(gates[0], plan.found.log_decay), *gates[1:])
    out = _behind(build, end) if end.cone else ()
    handed = _handed(build, plan.tile)
    inputs = tuple(h for h in handed if h.value.kind is not Kind.WEIGHT)
    weights = tuple(h for h in handed if h.value.kind is Kind.WEIGHT)
    x, w = (tuple(build.nodes.leaf(h.name) for h in each) for each in (inputs, weights))
    n = tuple(build.handed)
    if not inputs:
        return _unfused(plan.found, "nothing in its gates varies with the token")
    if plan.found.kind in OUTER and (reason := _idle(inputs, gates, out)):
        return _unfused(plan.found, reason)
    if norm is not None and not _alone_reads(plan, norm, out, {p.value for p in fused}, handed):
        return _unfused(plan.found, "its normaliser is read outside of its kernel")
    for name, node in zip(plan.products, gates, strict=True):
        if node.args and name not in {*build.names.values(), *(h.name for h in handed)}:
            build.names.setdefault(node, name)
    read = x if norm is None else (*x, norm)
    values = {p.value for p in fused} | kernel.between
    ideal = [p.value for p in border(tops, kernel.grown(tops, frozenset()) | end.cone) if p.value not in kernel.own]
    made = FusedScan(
        scan=plan.found.scan,
        found=plan.found,
        tile=plan.tile,
        inputs=inputs,
        weights=weights,
        numbers=tuple(build.handed.values()),
        gates=Equations(gates, x, w, (), build.names, n),
        out=Equations(out, read, w, (build.nodes.leaf(READ_OUT),), build.names, n) if out else None,
        result=end.result.value,
        groups=end.result.groups,
        computed=frozenset(
            (values - kernel.read_elsewhere(values) | (kernel.own - {p.value for p in end.cone})) - {end.result.value}
        ),
        traffic=None,
        reason=ending(inputs, plan.taken, end.result.value, plan.region),
        normaliser=_of_a_head(plan.norm, norm),
    )
    kept = made.kind in OUTER and made.needs_read
    own = values | kernel.own
    moved = traffic(plan.found, plan.tile, [h.value for h in inputs], ideal, own, kept=kept, parts=parts_of(plan.found))
    return replace(made, traffic=moved)


def _of_a_head(value: Value | None, leaf: Node | None) -> Handed | None:
    """What a kernel of outer products computes of each head and hands to its equations."""
    return None if value is None or leaf is None else Handed(value, placed(value).groups, (), leaf.name)


def _alone_reads(plan: _Plan, norm: Node, out: tuple[Node, ...], fused: set[Value], handed: Sequence[Handed]) -> bool:
    """Whether the equations behind a scan of outer products take its normaliser, and nothing else does."""
    assert plan.norm is not None
    elsewhere = leaves(plan.norm, plan.region) or any(h.value is plan.norm for h in handed)
    inside = fused - plan.kernel.read_elsewhere(fused)
    return not elsewhere and norm in ordered(out) and inside.issuperset(plan.region.users[plan.norm])


def _idle(inputs: Sequence[Handed], gates: tuple[Node, ...], out: tuple[Node, ...]) -> str:
    """Why there are no gates around a scan of outer products though they could be computed."""
    if makes_numbers([*gates, *out]):
        return "its equations make numbers of a condition or of an exponent alone"
    if inputs[0].is_broadcast:
        return "its values are no product of a token that has all their axes"
    if not out and not any(set(n.home.leaf(h.name) for h in inputs) & set(n.args) for n in ordered(gates)):
        return "there are no equations around it"
    return ""


def _behind(build: Builder, end: End) -> tuple[Node, ...]:
    """The equations from the state or the read-out to the last value."""
    build.known[end.start] = build.nodes.leaf(READ_OUT)
    return (build.node(end.result),)


def _handed(build: Builder, tile: tuple[str, ...]) -> list[Handed]:
    """The border in the order of the text, real values of the whole tile first: results are stored like the first.

    So those in the compute type come before those in single precision.
    """
    found = sorted(build.border.items(), key=lambda each: (each[0].value.id, each[0].axes))
    handed = [Handed(p.value, p.groups, tuple(a for a in tile if a not in p.axes), leaf.name) for p, leaf in found]
    return sorted(handed, key=lambda h: (h.is_broadcast or h.value.type.dtype != "real", h.value.type.wide))
