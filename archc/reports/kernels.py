"""Which kernel runs each scan, convolution and attention, what it moves, and where what is fused ends."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from archc.backends.flax.kernels.chunk_sizes import MOST, ON_TPU, tokens_on_gpu, values_of_program
from archc.backends.torch.kernels.chunk_sizes import key_parts
from archc.elaborate.call import Program
from archc.emit.chunks import call_regions, kernel_loops, kernel_scans, loop_sentence, scan_sentence
from archc.emit.fused import Fused, find
from archc.emit.kernels import ATTENTION, BOTH_WAYS, COMPOSED, CONV, PROGRAM, SCANS, SORTED, kernel_of
from archc.emit.units import group
from archc.fuse.composed import SUMS, Composition
from archc.fuse.convs import FusedConv
from archc.fuse.fused_scan import OUTER, FusedScan
from archc.fuse.reasons import conv_ending
from archc.fuse.scans import fused_scans
from archc.fuse.traffic import HALF, SINGLE, PairTraffic, Traffic, outer_traffic, pair_traffic
from archc.ir.graph import Value
from archc.ops.table import OPS
from archc.passes.scan_class import ScanClass, inside
from archc.passes.scans import classify
from archc.reports.build import attention_rows, places
from archc.reports.layers import layers


def explanation(program: Program) -> str:
    """A paragraph for each scan, each convolution and each sum over keys.

    Bytes are of bfloat16, per token and element of the tile of a scan or of a convolution, or per query, head and
    channel of an attention (see `archc.fuse.traffic`): as the kernel moves them, at best, and with every operation by
    itself. What stands around a kernel moves bytes of its own.
    """
    graph = program.graph
    kinds = layers(graph)
    units, regions = group(program), call_regions(program)
    found, fused, classes = find(program, units), fused_scans(graph), classify(graph)
    runs, rules = kernel_scans(program, units, regions), kernel_loops(program, units, regions)
    lines = ["Scans"]
    for value, kind, count in places(graph, kinds):
        if value in classes:
            lines.append(f"  {kind}{_times(count)}: {value.attrs['state']}")
            lines += [
                f"      {line}"
                for line in _scan(classes[value], fused[value], found, scan_sentence(classes[value], runs))
            ]
        if value.op == "loop":
            lines.append(f"  {kind}{_times(count)}: {', '.join(value.attrs['states'])}")
            lines += [f"      {line}" for line in _loop(value, loop_sentence(value, rules), found)]
    lines += ["  none"] if len(lines) == 1 else []
    lines += ["", "Convolutions", *_convs(program, found)]
    lines += ["", "Sums over keys"]
    sums = [value for value, _, _ in places(graph, kinds) if value.op in SUMS]
    for value, row in zip(sums, attention_rows(graph, kinds), strict=True):
        lines.append(f"  {row.block}{_times(row.layers)}: {row.name}")
        lines += [f"      {line}" for line in _sum(value, row.sentence, found)]
    lines += ["  none"] if not sums else []
    return "\n".join(lines)


def _times(count: int) -> str:
    return f", each of {count}" if count > 1 else ""


def _scan(found: ScanClass, fused: FusedScan, emitted: Fused, sentence: str) -> Iterator[str]:
    yield sentence
    if found.normalises is not None and found.reads[0].value in emitted.reads:
        yield f"kernel of '{found.normalises.label}': sums of the rows of its scores, as if one more value were one"
        return
    if fused.result in emitted.gated:
        yield f"kernel {kernel_of(found, gated=True)}: the equations around it run inside"
        if found.kind == "chunked_key":
            yield from _parts(found, "values read once a part")
        if fused.traffic is not None:
            yield _bytes(fused.traffic)
        if found.kind in OUTER:
            yield f"so in PyTorch; {_in_flax(found, fused.needs_read)}"
        yield f"not more, since {fused.reason}"
        return
    if any(read.value in emitted.reads for read in found.reads):
        yield f"kernel {kernel_of(found, gated=False)}: scan and read-out are one"
        if found.kind in OUTER:
            yield from _outer(found)
            yield f"so in PyTorch; {_in_flax(found, needs_read=False)}"
    else:
        yield f"kernel {SCANS['diagonal']}: every state is stored, the equations around it are operations of their own"
    if fused.gates is None:
        yield f"its equations are not fused, since {fused.reason}"
    elif fused.traffic is not None:
        why = emitted.plain[fused.result]
        yield f"its equations are operations of their own, since {why}; fused: {_bytes(fused.traffic)}"


def _loop(loop: Value, sentence: str, emitted: Fused) -> Iterator[str]:
    yield sentence
    if loop in emitted.absorbed:
        yield f"kernel {SCANS['delta']}: corrections, scan and read-out are one, as operations on tensors of chunks"
    else:
        equations = "the equations of its body are operations of their own, for every token"
        yield f"kernel loop: {equations}, since it is no delta rule"


def _convs(program: Program, emitted: Fused) -> Iterator[str]:
    """What runs in the kernel of each convolution."""
    graph = program.graph
    home = {v: region for region, _ in graph.regions() for v in region.values}
    taken = emitted.absorbed | emitted.gated.keys() | emitted.convs.keys()
    found = {each.conv: each for each in emitted.convs.values()}
    for value, kind, count in places(graph, layers(graph)):
        if value in found:
            each = found[value]
            yield f"  {kind}{_times(count)}: {value.attrs['state']}"
            yield f"      {value.operands[1].type.sizes[value.attrs['taps']]} taps over [{' '.join(value.names)}]"
            yield f"      kernel {CONV}: {_inside(each)}"
            yield f"      {_bytes(each.traffic)}"
            yield f"      not more, since {conv_ending(each.result, home[value], taken)}"
    if not found:
        yield "  none"


def _inside(found: FusedConv) -> str:
    """What runs there besides the sum over taps."""
    ops = [] if found.activation is None else [n.op for n in found.activation.nodes if n.args]
    does = [*([] if found.bias is None else ["the bias"]), *dict.fromkeys(op for op in ops if OPS[op].flow != "alias")]
    if not does:
        return "nothing follows the sum over taps there"
    read = [f"'{h.name}'" for h in (*found.inputs, *found.weights)]
    verb = "run" if len(does) > 1 else "runs"
    return f"{', '.join(does)} {verb} inside" + (f", with {', '.join(read)}" if read else "")


def _in_flax(found: ScanClass, needs_read: bool) -> str:
    """What is different there: the state before every chunk is in memory, and on a GPU the way back is two kernels, of
    which the first leaves to the second gradients of log decays and of queries that equations make, a share of each
    slice of the values, and, if derivatives need it, what it has read again.
    """
    keys, values = (prod(found.scan.type.sizes[n] for n in names) for names in (found.key, found.value))
    per_key, normalised = found.kind == "chunked_key", found.normaliser is not None
    state = SINGLE * keys * (values + normalised) / values
    tpu, gpu = (state / tokens for tokens in (ON_TPU, tokens_on_gpu(per_key)))
    none = "neither read-out nor normaliser" if normalised else "no read-out"
    kept = f"Flax keeps {none} but the state before every chunk, {tpu:.3g} bytes an element on a TPU"
    if keys > MOST:
        return f"{kept}, each way, and runs array code on a GPU"
    slices = -(-values // values_of_program(keys, per_key))
    shares = SINGLE * slices * (2 * keys if per_key else 1) / values
    again = HALF + SINGLE * normalised / values if needs_read else 0
    left = f"{2 * (shares + again):.3g} more, left by one kernel to the next"  # written and read
    return f"{kept}, {gpu:.3g} on a GPU, each way, where going back takes {left}"


def _outer(found: ScanClass) -> Iterator[str]:
    """What a scan of outer products moves; how many keys run at once is a matter of PyTorch's kernels."""
    yield from _parts(found, "values copied" if found.kind == "chunked" else "values read once a part")
    values = {*inside(found), found.scan, *(r.value for r in found.reads)}
    yield _bytes(outer_traffic(found, values, key_parts(_keys(found))[0]))


def _parts(found: ScanClass, how: str) -> Iterator[str]:
    parts, size = key_parts(_keys(found))
    if parts > 1:
        yield f"its {_keys(found)} keys run in {parts} parts of {size} in PyTorch, {how} and results added up outside"


def _keys(found: ScanClass) -> int:
    return prod(found.scan.type.sizes[n] for n in found.key)


def _sum(value: Value, sentence: str, emitted: Fused) -> Iterator[str]:
    found = emitted.composed.get(value)
    if found is not None:
        yield composed_sentence(found)
        yield f"kernel {COMPOSED}: what mixes the heads runs inside, on tiles of the pairs of all heads"
        moved = pair_traffic(found)
        yield _pair_bytes(moved)
        yield f"a single token: {moved.token:.3g} bytes an element of every key, each key read once"
        return
    if value in emitted.attention:
        kernel = ATTENTION if emitted.attention[value].causal else BOTH_WAYS
        yield from (sentence, f"kernel {kernel}: the framework's own where it has one")
        return
    if value in emitted.buckets:
        yield sentence
        yield f"kernel {SORTED}: tiles of sorted queries against all tiles of sorted keys that their buckets reach"
        yield "a short sequence, and what continues a state, runs in blocks of queries against all keys"
        return
    yield sentence.removeprefix("fused ")
    reason = emitted.plain.get(value, "the kernel of plain attention is over one axis, and of one fn")
    yield f"kernel {PROGRAM}: operations of their own on blocks of queries, not fused, since {reason}"


def composed_sentence(found: Composition) -> str:
    """Heads, their width, where they are composed and what a query sees."""
    sizes = found.query.type.sizes | found.key.type.sizes | found.value.type.sizes
    heads, width = (prod(sizes[n] for n in names) for names in (found.heads, found.over))
    where = [name for name, mixing in (("before", found.before), ("after", found.after)) if mixing is not None]
    seen = "all keys" if found.window is None else f"the last {found.window} keys"
    return (
        f"attention with composed heads: {heads} heads of {width}, mixed {' and '.join(where)} the softmax, each sees "
        f"{seen} up to the token itself"
    )


def _pair_bytes(moved: PairTraffic) -> str:
    return (
        f"{moved.forward:.3g} bytes an element forward (at best {moved.ideal_forward:.3g}), {moved.backward:.3g} "
        f"backward (at best {moved.ideal_backward:.3g}); {moved.separate:.3g} for every key if nothing were fused"
    )


def _bytes(moved: Traffic) -> str:
    return (
        f"{moved.forward:.3g} bytes an element forward (at best {moved.ideal_forward:.3g}), {moved.backward:.3g} "
        f"backward (at best {moved.ideal_backward:.3g}); {moved.separate:.3g} forward if nothing were fused"
    )
