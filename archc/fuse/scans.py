"""Every scan of a program as one fused kernel would run it: gate equations, their inputs, and what is read out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from archc.fuse.behind import End, behind
from archc.fuse.builder import Builder, Numbers, leaf_names
from archc.fuse.convs import fused_convs
from archc.fuse.dag import READ_OUT, Equations, makes_numbers, new_nodes, ordered
from archc.fuse.fused_scan import OUTER, FusedScan, Handed
from archc.fuse.on_axes import Placed, placed
from archc.fuse.parts import PARTS, Parts, is_complex
from archc.fuse.products import PRODUCTS, Product, decay_chain, log_of
from archc.fuse.reasons import ending, in_parts, parts_of, problem
from archc.fuse.regions import Kernel, border
from archc.fuse.traffic import traffic
from archc.ir.graph import Graph, Kind, Region, Value
from archc.ops.aliases import bare
from archc.ops.node import Node
from archc.ops.table import OPS
from archc.passes.placed import is_placed
from archc.passes.readout import leaves, read_before
from archc.passes.scan_class import ScanClass
from archc.passes.scan_class import inside as held
from archc.passes.scans import classify


def fused_scans(graph: Graph, numbers: Numbers | None = None) -> dict[Value, FusedScan]:
    """Every live scan with what one kernel can run of it, to which `numbers` are handed.

    A kernel of matrix products leaves what follows a convolution to the kernel of that: its registers are full.
    """
    home = {v: region for region, _ in graph.regions() for v in region.values}
    found = classify(graph)
    ends: dict[Value, End] = {}
    for scan in reversed(found):  # what two states meet in runs with the later one
        if not problem(found[scan]):
            ends[scan] = behind(placed(_start(found[scan], home[scan])), home[scan], _others(ends, scan))
    before = fused_convs(graph, frozenset(p.value for end in ends.values() for p in end.cone))
    convs = frozenset(v for conv in before.values() for v in (conv.result, *conv.computed))
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


def _start(found: ScanClass, region: Region) -> Value:
    """What follows a scan in its kernel: its state, that before each token if no one reads another, or its read-out."""
    if found.kind == "diagonal":
        return read_before(found.scan, region) or found.scan
    return found.reads[0].value


def _others(ends: Mapping[Value, End], scan: Value) -> frozenset[Value]:
    """What the kernels of other scans compute behind them."""
    return frozenset(p.value for each, end in ends.items() if each is not scan for p in end.cone)


def _fused(found: ScanClass, region: Region, end: End, taken: frozenset[Value], numbers: Numbers) -> FusedScan:
    tile, products = PRODUCTS[found.kind](found, numbers)
    plan = _Plan(found, region, tile, products, end, taken, numbers)
    fused = _assembled(plan)
    if fused.out is not None and (in_parts(found) or not _takes_all(fused, fused.out) or not _fits(fused)):
        return _assembled(replace(plan, end=End(end.start, end.start, frozenset())))
    return fused


def _takes_all(fused: FusedScan, out: Equations) -> bool:
    """Whether a kernel can end so: with real tokens of a batch, without documents' starts, which only gates know."""
    real = all(h.is_real and not is_placed(h.value) for h in (*fused.inputs, *fused.weights))
    return real and out.first not in out.nodes


def _fits(fused: FusedScan) -> bool:
    """Whether a kernel can store its result: of complex numbers only as the state is."""
    return not is_complex(fused.result) or fused.groups == placed(fused.scan).groups


def _unfused(found: ScanClass, reason: str) -> FusedScan:
    scan, nothing = found.scan, frozenset[Value]()
    return FusedScan(
        scan, found, scan, scan.names, (), (), (), None, None, scan, placed(scan).groups, nothing, None, reason
    )


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
        reads = (v for c in scans for v in (c.scan, *(v for r in c.reads for v in r.path)))
        own = {self.end.start.value, *cone, *reads}
        between: set[Value] = held(self.found)
        stops = {p.value for p in self.tops}
        keys = {f.operand for f in self.found.factors["key"]}
        todo = [self.found.scan]
        while todo:
            value = todo.pop()
            between.add(value)
            todo += [v for v in value.operands if v not in stops and _is_product(v) and bare(v) not in keys]
        if self.found.kind in OUTER:
            between |= decay_chain(self.found)
        axes = {*self.tile, *(self.found.key if self.found.kind == "chunked_key" else ())}
        calls = self.found.scan.origin.calls
        return Kernel(self.region, calls, frozenset(axes), frozenset(own), frozenset(between - own), self.taken)


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
    gates = tuple(build.product(p) for p in plan.products.values() if not is_complex(plan.found.scan))
    if is_complex(plan.found.scan):
        gates = tuple(node for ((factor, _),) in plan.products.values() for node in build.parts(factor))
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
    for name, node in zip(_outputs(plan), gates, strict=True):
        if node.args and name not in {*build.names.values(), *(h.name for h in handed)}:
            build.names.setdefault(node, name)
    read = x if norm is None else (*x, norm)
    values = {p.value for p in fused} | kernel.between
    ideal = [p.value for p in border(tops, kernel.grown(tops, frozenset()) | end.cone) if p.value not in kernel.own]
    made = FusedScan(
        scan=plan.found.scan,
        found=plan.found,
        start=end.start.value,
        tile=plan.tile,
        inputs=inputs,
        weights=weights,
        numbers=tuple(build.handed.values()),
        gates=Equations(gates, x, w, (), build.names, n),
        out=Equations(out, read, w, _read(build, end), build.names, n) if out else None,
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
    own, handed_in = values | kernel.own, [*dict.fromkeys(h.value for h in inputs)]
    parts, results = parts_of(plan.found), 1 + is_complex(made.result)
    moved = traffic(plan.found, plan.tile, handed_in, ideal, own, kept=kept, parts=parts, results=results)
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
    if is_complex(end.start.value):
        build.pairs[end.start] = Parts(*_read(build, end))
    else:
        (build.known[end.start],) = _read(build, end)
    return tuple(build.parts(end.result)) if is_complex(end.result.value) else (build.node(end.result),)


def _read(build: Builder, end: End) -> tuple[Node, ...]:
    """The leaves that stand for what the equations behind a scan read."""
    names = [f"{READ_OUT}_{part}" for part in PARTS] if is_complex(end.start.value) else [READ_OUT]
    return tuple(map(build.nodes.leaf, names))


def _outputs(plan: _Plan) -> list[str]:
    """What the gates are called."""
    both = [f"{name}_{part}" for name in plan.products for part in PARTS]
    return both if is_complex(plan.found.scan) else [*plan.products]


def _handed(build: Builder, tile: tuple[str, ...]) -> list[Handed]:
    """The border in the order of the text, real values of the whole tile first: results are stored like the first.

    So those in the compute type come before those in single precision.
    """
    found = sorted(build.border.items(), key=lambda each: (each[0][0].value.id, each[0][0].axes))
    handed = [
        Handed(p.value, p.groups, tuple(a for a in tile if a not in p.axes), leaf.name, part)
        for (p, part), leaf in found
    ]
    return sorted(handed, key=lambda h: (h.is_broadcast or not h.is_real, h.value.type.wide))
