"""From a checked program to its report: every fold asked once, layers of a kind told once."""

from __future__ import annotations

from collections.abc import Iterator

from archc.elaborate import Program
from archc.emit.chunks import call_regions, kernel_loops, kernel_scans, loop_sentence, scan_sentence
from archc.emit.units import group
from archc.ir.graph import Graph, Value
from archc.passes.attention import Attention, attentions
from archc.passes.buckets import Buckets, buckets
from archc.passes.caches import REDUCTIONS, caches
from archc.passes.flops import Cost, flops
from archc.passes.memory import memory
from archc.passes.params import params
from archc.passes.scans import classify
from archc.passes.workload import Workload
from archc.reports import model
from archc.reports.layers import Layers, layers, pattern
from archc.version import VERSION

CONVENTIONS = (
    "parameters: trained elements, tied weights once; non-embedding is without looked-up tables and an untied head",
    "work: a multiply-add is 2; the head is counted, looking up embeddings is not",
    "work: attention counts every pair of a sequence x sequence block (of a sequence x window block under a window),"
    " those of different buckets too",
    "work: matrix, vector and scan operations are kept apart; what a fused scan computes inside is scan work",
    "training: backward costs a matrix product once more for each operand with a gradient, other work twice; no remat",
    "caches: in bf16, running states in fp32; per sequence, with as many tokens as the context",
    "memory: one device, activations left out; training keeps fp32 weights, gradients and AdamW's two moments,"
    " and a bf16 copy of the weights to compute with",
)


def build(program: Program, *, batch: int = 1, seq: int = 2048, context: int = 2048) -> model.Findings:
    """The report of a program for a workload: training on batch x seq tokens, decoding after `context` tokens."""
    graph = program.graph
    kinds = layers(graph)
    training = Workload(batch=batch, time=seq)
    decoding = Workload(batch=batch, context=context, mode="decode")
    return model.Findings(
        name=graph.name,
        size=program.size,
        kind=graph.kind,
        archc=VERSION,
        settings={n: float(v.value) if v.whole is None else v.whole for n, v in program.settings.items()},
        layers=kinds.order,
        pattern=pattern(kinds.order),
        workload=model.Workload(batch=batch, seq=seq, context=context),
        params=_params(graph, kinds),
        flops=_flops(graph, kinds, training, decoding),
        cache=_cache(graph, kinds, context),
        scans=tuple(_scans(program, kinds)),
        attention=tuple(attention_rows(graph, kinds)),
        training=_memory(graph, training),
        decoding=_memory(graph, decoding),
        conventions=CONVENTIONS,
    )


def _params(graph: Graph, kinds: Layers) -> model.Params:
    counted = params(graph)
    by_layer = counted.by_layer()
    counts = {"outside": 1} | kinds.counts
    blocks = [(kind, counts[kind], by_layer.get(prefix, 0)) for kind, prefix in _order(kinds)]
    tensors = [
        model.TensorParams(
            name=t.weight.path,
            block=kinds.labels[t.layer],
            axes=t.weight.type.sizes,
            layers=counts[kinds.labels[t.layer]],
            count=t.count,
        )
        for t in counted.tensors
        if _is_first(t.layer, kinds)
    ]
    return model.Params(
        total=counted.total,
        embedding=counted.embedding,
        head=counted.head,
        non_embedding=counted.non_embedding,
        frozen=sum(t.count for t in counted.frozen),
        blocks=tuple(
            model.BlockParams(block=kind, layers=count, each=each, total=count * each)
            for kind, count, each in blocks
            if each
        ),
        tensors=tuple(tensors),
    )


def _order(kinds: Layers) -> list[tuple[str, str]]:
    """Every kind of layer with the prefix of its first layer; what is outside of stacks first."""
    return [("outside", ""), *((kind, kinds.first[kind]) for kind in kinds.counts)]


def _is_first(prefix: str, kinds: Layers) -> bool:
    return prefix == "" or kinds.first[kinds.labels[prefix]] == prefix


def _work(cost: Cost, divisor: float = 1) -> model.Work:
    return model.Work(matrix=cost.matrix / divisor, vector=cost.vector / divisor, scan=cost.scan / divisor)


def _flops(graph: Graph, kinds: Layers, training: Workload, decoding: Workload) -> model.Flops:
    trained = flops(graph, training)
    counts = {"outside": 1} | kinds.counts
    return model.Flops(
        forward_per_token=_work(trained.forward, training.tokens),
        train_per_token=_work(trained.total, training.tokens),
        decode_per_token=_work(flops(graph, decoding).per_token),
        blocks=tuple(
            model.BlockFlops(
                block=kinds.labels[row.layer],
                layers=counts[kinds.labels[row.layer]],
                forward_per_token=_work(row.forward, training.tokens),
            )
            for row in trained.rows
            if _is_first(row.layer, kinds)
        ),
    )


def _cache(graph: Graph, kinds: Layers, context: int) -> model.Cache:
    found = caches(graph)
    counts = {"outside": 1} | kinds.counts
    by_kind: dict[str, int] = {}
    states: list[model.State] = []
    for cache in found:
        size = int(cache.bytes(context))
        by_kind[cache.what] = by_kind.get(cache.what, 0) + size
        prefix, name = _split(cache.name, kinds)
        if _is_first(prefix, kinds):
            states.append(
                model.State(
                    name=name,
                    block=kinds.labels[prefix],
                    layers=counts[kinds.labels[prefix]],
                    what=cache.what,
                    axes={axis.name: axis.size for axis in cache.axes},
                    tokens=int(cache.kept(context)),
                    limit=cache.tokens,
                    stored=cache.stored,
                    bytes=size,
                    why=cache.why,
                )
            )
    return model.Cache(bytes_per_sequence=sum(by_kind.values()), by_kind=by_kind, states=tuple(states))


def _split(name: str, kinds: Layers) -> tuple[str, str]:
    """The prefix of the layer and the rest of a full name."""
    prefix = max((p for p in kinds.labels if p and name.startswith(f"{p}.")), key=len, default="")
    return prefix, name.removeprefix(f"{prefix}.") if prefix else name


def places(graph: Graph, kinds: Layers) -> Iterator[tuple[Value, str, int]]:
    """Every live value with the kind of layer it is in and how many such layers there are."""
    counts = {"outside": 1} | kinds.counts
    for region, prefixes in graph.regions():
        kind = kinds.labels[prefixes[0]]
        for value in region.values:
            if value in region.live and value not in region.params:
                yield value, kind, counts[kind]


def _scans(program: Program, kinds: Layers) -> Iterator[model.Scan]:
    graph, units, regions = program.graph, group(program), call_regions(program)
    classes, runs = classify(graph), kernel_scans(program, units, regions)
    rules = kernel_loops(program, units, regions)
    for value, kind, count in places(graph, kinds):
        if value in classes:
            found = classes[value]
            sentence = scan_sentence(found, runs)
            yield model.Scan(
                name=value.attrs["state"],
                block=kind,
                layers=count,
                kind=found.kind,
                fits=found.fits and sentence == found.sentence,
                sentence=sentence,
            )
        if value.op == "loop":
            yield model.Scan(
                name=", ".join(value.attrs["states"]),
                block=kind,
                layers=count,
                kind="delta" if value in rules else "loop",
                fits=True,
                sentence=loop_sentence(value, rules),
            )


def attention_rows(graph: Graph, kinds: Layers) -> Iterator[model.Pairs]:
    """Every sum over keys, and how it runs."""
    plain, sorted_ = attentions(graph), buckets(graph)
    for value, kind, count in places(graph, kinds):
        if value.op in REDUCTIONS:
            yield model.Pairs(
                name=_text(value),
                block=kind,
                layers=count,
                fused=value in plain,
                sentence=_sentence(plain[value]) if value in plain else _of_pairs(sorted_.get(value)),
            )


def _of_pairs(found: Buckets | str | None) -> str:
    return found.sentence if isinstance(found, Buckets) else "composed of pairs, in blocks of queries"


def _text(value: Value) -> str:
    """The expression as it was written, on one line."""
    span = value.origin.span
    return " ".join(span.text.split()) if span is not None else value.label or value.op


def _sentence(found: Attention) -> str:
    """Heads, their width and what a query sees."""
    key, query = found.key.type.sizes, found.query.type.sizes
    groups, members = (_product(sizes, names) for sizes, names in ((key, found.groups), (query, found.members)))
    seen = f"the last {found.window} keys" if found.window is not None else "all keys"
    seen = f"{seen} up to the token itself" if found.causal else f"{seen}, later ones too"
    width = _product(key, found.over)
    return f"fused attention: {groups * members} query heads on {groups} key heads of {width}, each sees {seen}"


def _product(sizes: dict[str, int], names: tuple[str, ...]) -> int:
    product = 1
    for name in names:
        product *= sizes[name]
    return product


def _memory(graph: Graph, workload: Workload) -> model.Memory:
    found = memory(graph, workload)
    return model.Memory(
        weights=int(found.weights),
        gradients=int(found.gradients),
        optimizer=int(found.optimizer),
        caches=int(found.caches),
        total=int(found.total),
    )
