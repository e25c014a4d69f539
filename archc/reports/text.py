"""A report as plain, aligned text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from archc.reports.model import Findings, Memory, TensorParams, Work
from archc.reports.units import in_bytes, large

Cells = Sequence[str]


def tables(report: Findings) -> str:
    """All of it, one section after another; sections that have nothing to say are left out."""
    sections = [
        [heading(report)],
        _section("Parameters", _params(report)),
        _section("Tensors", _tensors(report)),
        _section(f"FLOPs per token ({_asked(report)})", _flops(report)),
        _section("Scans", _sentences((s.block, s.name, s.sentence) for s in report.scans)),
        _section("Attention", _sentences((a.block, a.name, a.sentence) for a in report.attention)),
        _section(f"State of a decoder, per sequence after {report.workload.context:,} tokens", _cache(report)),
        _section("Memory of the model", _memory(report)),
        _section("Conventions", [f"  {line}" for line in report.conventions]),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def heading(report: Findings) -> str:
    """`griffin:tiny, 6 layers: (recurrent, recurrent, local) x 2`."""
    name = f"{report.name}:{report.size}" if report.size else report.name
    return f"{name}, {len(report.layers)} layers: {report.pattern}" if report.layers else name


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *lines] if lines else []


def aligned(rows: Iterable[Cells], numbers: Sequence[int] = ()) -> list[str]:
    """Columns side by side, two spaces apart; those in `numbers` are set to the right."""
    table = [list(row) for row in rows]
    if not table:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  " + "  ".join(_padded(row, widths, numbers)).rstrip() for row in table]


def _padded(row: Cells, widths: Sequence[int], numbers: Sequence[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield f"{cell:>{width}}" if column in numbers else f"{cell:<{width}}"


def _params(report: Findings) -> list[str]:
    found = report.params
    rows = [("total", f"{found.total:,}", ""), ("embedding", f"{found.embedding:,}", "")]
    rows += [("head", f"{found.head:,}", "")] if found.head else []
    rows += [("non-embedding", f"{found.non_embedding:,}", "")]
    rows += [("frozen, not counted", f"{found.frozen:,}", "")] if found.frozen else []
    for block in found.blocks:
        times = f"{block.layers} x {block.each:,}" if block.layers > 1 else ""
        rows.append((block.block, f"{block.total:,}", times))
    return aligned(rows, numbers=(1,))


def _tensors(report: Findings) -> list[str]:
    """One line a tensor; kinds of layers with equal tensors are told once."""
    by_block: dict[str, list[TensorParams]] = {}
    for tensor in report.params.tensors:
        by_block.setdefault(tensor.block, []).append(tensor)
    alike: dict[tuple[tuple[str, str, int], ...], list[str]] = {}
    for block, tensors in by_block.items():
        alike.setdefault(tuple((t.name, _axes(t.axes), t.count) for t in tensors), []).append(block)
    layers = {tensor.block: tensor.layers for tensor in report.params.tensors}
    rows = []
    for tensors_of, blocks in alike.items():
        times = sum(layers[block] for block in blocks)
        for name, axes, count in tensors_of:
            rows.append((", ".join(blocks), name, axes, f"{count:,}", f"x {times}" if times > 1 else ""))
    return aligned(rows, numbers=(3,))


def _axes(axes: dict[str, int]) -> str:
    return f"[{' '.join(f'{name}={size}' for name, size in axes.items())}]"


def _asked(report: Findings) -> str:
    asked = report.workload
    return f"training on {asked.batch} x {asked.seq:,} tokens, decoding after {asked.context:,}"


def _flops(report: Findings) -> list[str]:
    found = report.flops
    rows: list[Cells] = [("", "matrix", "vector", "scan")]
    rows += [
        _work("forward", found.forward_per_token),
        _work("train", found.train_per_token),
        _work("decode", found.decode_per_token),
    ]
    for block in found.blocks:
        times = f", each of {block.layers}" if block.layers > 1 else ""
        rows.append(_work(f"forward: {block.block}{times}", block.forward_per_token))
    return aligned(rows, numbers=(1, 2, 3))


def _work(name: str, work: Work) -> Cells:
    return name, large(work.matrix), large(work.vector), large(work.scan)


def _sentences(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    lines: list[str] = []
    for block, name, sentence in rows:
        lines += [f"  {block}: {name}", f"      {sentence}"]
    return lines


def _cache(report: Findings) -> list[str]:
    found = report.cache
    kinds = ", ".join(f"{what} {in_bytes(size)}" for what, size in found.by_kind.items())
    lines = [f"  {found.bytes_per_sequence:,} bytes: {kinds}" if found.states else "  none: nothing crosses time"]
    for state in found.states:
        times = f", in each of {state.layers} layers" if state.layers > 1 else ""
        many = f"{state.tokens:,} x " if state.tokens != 1 else ""
        lines.append(f"  {state.block}: {state.name}  {many}{_axes(state.axes)} in {_stored(state.stored)}")
        lines.append(f"      {state.bytes:,} bytes{times}; {state.why}")
    return lines


def _stored(how: str) -> str:
    return {"compute": "bf16", "complex": "complex64"}.get(how, how)


def _memory(report: Findings) -> list[str]:
    def row(name: str, memory: Memory) -> Cells:
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.caches, memory.total)
        return name, *(in_bytes(part) if part else "-" for part in parts)

    batch = report.workload.batch
    rows = [
        ("", "weights", "gradients", "AdamW", "caches", "total"),
        row("training", report.training),
        row(f"decoding, batch {batch}", report.decoding),
    ]
    return aligned(rows, numbers=(1, 2, 3, 4, 5))
