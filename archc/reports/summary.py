"""What `archc check` says of a spec that is right: one screen."""

from __future__ import annotations

from archc.elaborate import Program
from archc.passes.caches import caches
from archc.passes.params import params
from archc.reports.layers import layers, pattern
from archc.reports.units import in_bytes

SHORT, LONG = 2**20, 2**21
"""Two contexts longer than any window, to see what grows."""


def summary(program: Program) -> str:
    """`OK griffin:tiny`, parameters, layers, what a decoder remembers."""
    graph = program.graph
    counted = params(graph)
    order = layers(graph).order
    name = f"{graph.name}:{program.size}" if program.size else graph.name
    lines = [f"OK {name}", f"  {counted.total:,} parameters, {counted.non_embedding:,} of them no embeddings"]
    if order:
        lines.append(f"  {len(order)} layers: {pattern(order)}")
    lines.append(f"  {_state(program)}")
    if program.size is None and program.sizes:
        lines.append(f"  sizes: {', '.join(program.sizes)}")
    return "\n".join(lines)


def _state(program: Program) -> str:
    """Bytes of the decode state, apart what grows with the context."""
    if program.graph.kind == "encoder":
        return "an encoder: it looks ahead, so there is nothing to decode"
    found = caches(program.graph)
    short, long = (sum(int(c.bytes(context)) for c in found) for context in (SHORT, LONG))
    each = (long - short) // (LONG - SHORT)
    fixed = short - each * SHORT
    parts = [f"{in_bytes(fixed)} at most, however long the text"] if fixed or not each else []
    parts += [f"{in_bytes(each)} for every token"] if each else []
    return f"decode state per sequence in bf16: {', and '.join(parts)}"
