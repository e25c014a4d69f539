"""Every scan of a program as one fused kernel would run it: gate equations, their inputs, and what is read out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from archc.fuse.dag import READ_OUT, SPECIAL, Equations, gradient, new_nodes
from archc.fuse.regions import (
    Builder,
    Kernel,
    Placed,
    behind,
    border,
    fuses,
    leaf_names,
    placed,
)
from archc.fuse.traffic import Traffic, traffic
from archc.ir.graph import Graph, Kind, Region, Value
from archc.ops.node import Node
from archc.ops.table import OPS
from archc.passes.matrix_scans import runs_fused, split_decay
from archc.passes.placed import is_placed
from archc.passes.scans import ScanClass, ScanKind, classify
from archc.passes.scans import inside as held


@dataclass(frozen=True, eq=False)
class Handed:
    """A value that a fused kernel is handed: `axes` are its own, in its order, as the scan calls them; `missing` those
    of the kernel's tile that it lacks (it is broadcast over them); `name` the name of its leaf."""

    value: Value
    axes: tuple[str, ...]
    missing: tuple[str, ...]
    name: str

    @property
    def is_broadcast(self) -> bool:
        """Whether a kernel that reads a value per token and element of its tile must repeat it."""
        return bool(self.missing) or self.value.kind is not Kind.TOKEN or is_placed(self.value)


@dataclass(frozen=True, eq=False)
class FusedScan:
    """A scan and the element-wise equations that run in its kernel.

    Diagonal: `gates` has the outputs decay and input, over the axes of the scan, `result` is the scan itself.
    Selective: `gates` has the outputs dt and v over the channels (`tile`), decay exp(dt rate), input v key; `out` has
    one output, from the leaf `given[0]` that stands for the read-out, and `result` is the value that it computes (the
    read-out itself if `out` is None). `gates` is None for a scan that is not run this way. `inputs` (varying with the
    token) and `weights` (hoisted: computed once, outside) are in the order of `gates.x`, `gates.w`, `out.x`, `out.w`.
    `computed` are the values that no line of code computes any more. `reason`: why not more is fused, a sentence.
    """

    scan: Value
    found: ScanClass
    tile: tuple[str, ...]
    inputs: tuple[Handed, ...]
    weights: tuple[Handed, ...]
    gates: Equations | None
    out: Equations | None
    result: Value
    computed: frozenset[Value]
    traffic: Traffic | None
    reason: str

    @property
    def kind(self) -> ScanKind:
        """The class of the scan."""
        return self.found.kind

    @property
    def outputs(self) -> tuple[str, str]:
        """What the two outputs of the gates are called."""
        return ("a", "u") if self.kind == "diagonal" else ("dt", "v")

    @property
    def gates_grad(self) -> Equations | None:
        """The derivatives of `gates` by x and then w; `given` are the two incoming derivatives."""
        return None if self.gates is None else _gradient(self.gates, tuple(f"d{n}" for n in self.outputs))

    @property
    def out_grad(self) -> Equations | None:
        """The derivatives of `out` by the read-out, x and then w; `given` are the read-out and what comes in."""
        return None if self.out is None else _gradient(self.out, ("do",))


def _gradient(equations: Equations, seeds: Sequence[str]) -> Equations:
    home = equations.outputs[0].home
    wanted = (*equations.given, *equations.x, *equations.w)
    return gradient(equations, [home.leaf(SPECIAL + s) for s in seeds], wanted)


def fused_scans(graph: Graph) -> dict[Value, FusedScan]:
    """Every live scan with what one kernel can run of it."""
    home = {v: region for region, _ in graph.regions() for v in region.values}
    return {scan: _fused(found, home[scan]) for scan, found in classify(graph).items()}


def _fused(found: ScanClass, region: Region) -> FusedScan:
    problem = _problem(found)
    if problem:
        return FusedScan(
            found.scan, found, found.scan.names, (), (), None, None, found.scan, frozenset(), None, problem
        )
    return _diagonal(found, region) if found.kind == "diagonal" else _selective(found, region)


def _unfused(found: ScanClass, reason: str) -> FusedScan:
    nothing = frozenset[Value]()
    return FusedScan(found.scan, found, found.scan.names, (), (), None, None, found.scan, nothing, None, reason)


def _problem(found: ScanClass) -> str:
    """Why no equations are generated for a scan."""
    if found.scan.type.dtype == "complex":
        return "its numbers are complex"
    if found.kind in ("chunked", "chunked_key"):
        return "the matrix form takes log decay, keys, values and queries as they are"
    if found.kind == "long_convolution":
        return "the decay is the same for every token"
    if found.kind == "selective" and not runs_fused(found):
        return "its decay is no product of a factor per channel and weights, or its state is not read once, as it is"
    return ""


Product = tuple[tuple[Placed | float, int], ...]


def _diagonal(found: ScanClass, region: Region) -> FusedScan:
    decay, entering = map(placed, found.scan.args)
    return _assembled(_Plan(found, region, found.scan.names, {"a": ((decay, 1),), "u": ((entering, 1),)}, found.scan))


def _selective(found: ScanClass, region: Region) -> FusedScan:
    split = split_decay(found)
    assert split is not None
    (read,) = found.reads
    result, cone = behind(read.value, frozenset(found.heads), region)
    steps = tuple((placed(v), 1) for v, _ in split[0])
    values = tuple((placed(f.operand), f.power) for f in (*found.factors["head"], *found.factors["value"]))
    return _assembled(_Plan(found, region, found.heads, {"dt": steps, "v": values}, result, cone - {read.value}))


@dataclass(frozen=True, eq=False)
class _Plan:
    """The outputs of the gates as products, by name; the last value, and the values between the read-out and it."""

    found: ScanClass
    region: Region
    tile: tuple[str, ...]
    products: Mapping[str, Product]
    result: Value
    cone: frozenset[Value] = frozenset()

    @property
    def tops(self) -> dict[Placed, str]:
        """Where the regions end: factors of the outputs, and what meets the read-out behind the scan."""
        own = {*self.cone, *(r.value for r in self.found.reads)}
        side = {Placed(v, v.names): "out" for u in self.cone for v in u.operands if v not in own}
        return side | {f: n for n, p in reversed([*self.products.items()]) for f, _ in p if isinstance(f, Placed)}

    @property
    def kernel(self) -> Kernel:
        """What is computed besides the equations."""
        own = {self.found.scan, *self.cone, *(v for r in self.found.reads for v in r.path)}
        between: set[Value] = held(self.found)
        stops = {p.value for p in self.tops}
        keys = {f.operand for f in self.found.factors["key"]}
        todo = [self.found.scan]
        while todo:
            value = todo.pop()
            between.add(value)
            todo += [v for v in value.operands if v not in stops and _is_product(v) and _bare(v) not in keys]
        calls = self.found.scan.origin.calls
        return Kernel(self.region, calls, frozenset(self.tile), frozenset(own), frozenset(between - own))


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
    behind_it = frozenset(Placed(v, v.names) for v in plan.cone)
    fused = kernel.inside(tops) | behind_it
    last = Placed(plan.result, plan.result.names)
    build = Builder(fused, new_nodes(), leaf_names(fused, {**tops, last: "out"}))
    gates = tuple(build.product(p) for p in plan.products.values())
    out = _behind(build, plan.found.reads[0].value, last) if plan.cone else ()
    handed = _handed(build, plan.tile)
    inputs = tuple(h for h in handed if h.value.kind is not Kind.WEIGHT)
    weights = tuple(h for h in handed if h.value.kind is Kind.WEIGHT)
    x, w = (tuple(build.nodes.leaf(h.name) for h in each) for each in (inputs, weights))
    if not inputs:
        return _unfused(plan.found, "nothing in its gates varies with the token")
    for name, node in zip(plan.products, gates, strict=True):
        if node.args and name not in {*build.names.values(), *(h.name for h in handed)}:
            build.names.setdefault(node, name)
    values = {p.value for p in fused} | kernel.between
    ideal = [p.value for p in border(tops, kernel.grown(tops, frozenset()) | behind_it) if p.value not in kernel.own]
    return FusedScan(
        scan=plan.found.scan,
        found=plan.found,
        tile=plan.tile,
        inputs=inputs,
        weights=weights,
        gates=Equations(gates, x, w, (), build.names),
        out=Equations(out, x, w, (build.nodes.leaf(READ_OUT),), build.names) if out else None,
        result=plan.result,
        computed=frozenset(values - kernel.read_elsewhere(values) - {plan.found.scan, plan.result}),
        traffic=traffic(plan.found, plan.tile, [h.value for h in inputs], ideal, values | kernel.own),
        reason=_reason(inputs),
    )


def _behind(build: Builder, read_out: Value, last: Placed) -> tuple[Node, ...]:
    """The equations from the read-out to the last value."""
    build.known[Placed(read_out, read_out.names)] = build.nodes.leaf(READ_OUT)
    return (build.node(last),)


def _handed(build: Builder, tile: tuple[str, ...]) -> list[Handed]:
    """The border in the order of the text, real values of the whole tile first: results are stored like the first."""
    found = sorted(build.border.items(), key=lambda each: (each[0].value.id, each[0].axes))
    handed = [Handed(p.value, p.axes, tuple(a for a in tile if a not in p.axes), leaf.name) for p, leaf in found]
    return sorted(handed, key=lambda h: h.is_broadcast or h.value.type.dtype != "real")


SOURCES = {
    "contract": "a projection",
    "conv": "a convolution",
    "lookup": "a look-up",
    "param": "the stream of the block",
    "pos": "the position",
    **dict.fromkeys(("split", "merge", "slice", "concat", "stack_axis", "pick"), "elements in other places"),
    **dict.fromkeys(("scan", "maxscan", "prev", "loop_out", "contract_keys"), "other tokens"),
}


def _reason(inputs: Iterable[Handed]) -> str:
    """Where the equations end: what makes each input."""
    ends: dict[str, list[str]] = {}
    for each in inputs:
        if fuses(each.value):
            why = "values that are read elsewhere too or belong to another function"
        else:
            why = SOURCES.get(each.value.op, "values of other elements")
        ends.setdefault(why, []).append(f"'{each.name}'")
    return "the equations end at " + ", ".join(f"{why} ({', '.join(names)})" for why, names in ends.items())
