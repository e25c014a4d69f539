"""The docstrings of generated functions: what they compute, of which scan or convolution, and what they are handed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Literal

from archc.fuse.convs import FusedConv
from archc.fuse.dag import NUMBER
from archc.fuse.fused_scan import FusedScan, Handed
from archc.ops.node import Node

Doc = Literal["gates", "gates grad", "out", "out grad"]


def described(fused: FusedScan, doc: Doc) -> list[str]:
    """The docstring of a generated function, as lines: what it computes, of which scan, and the axes it takes."""
    scan = f"the scan '{fused.scan.label}'" if fused.scan.label else "the scan"
    state = "state before each token" if fused.found.before else "state"
    read = state if fused.kind == "diagonal" else "read-out"
    names = fused.outputs[::2] if fused.is_complex else fused.outputs
    *most, last = fused.outputs
    axes = fused.scan.names if fused.kind == "chunked_key" else fused.tile
    in_parts = ", in parts" if fused.is_complex else ""
    made = {
        "gates": f"{_sentence([GATES[n.removesuffix('_re')] for n in names])} of {scan} [{' '.join(axes)}]{in_parts}.",
        "gates grad": f"Derivatives by x and w, from those by the gates of {scan}, {', '.join(f'd{n}' for n in most)} "
        f"and d{last}.",
        "out": f"What follows the {read} of {scan} [{' '.join(fused.tile)}].",
        "out grad": f"Derivatives by read, x and w, from do, that by what follows the {read} of {scan}{in_parts}.",
    }[doc]
    norm = fused.normaliser if doc.startswith("out") else None
    inputs = fused.inputs if norm is None else (*fused.inputs, norm)
    parts = [f"x: {_listed(inputs)}."] + ([f"w: {_listed(fused.weights)}."] if fused.weights else [])
    numbers = () if fused.gates is None else fused.gates.n
    parts += _numbers(numbers)
    parts += ["first: whether a document starts." if doc.startswith("gates") else f"read: the {read}."]
    return [made, "", *_lines(parts)]


def described_activation(fused: FusedConv, *, derived: bool = False) -> list[str]:
    """The same of what follows a convolution; several convolutions may share what is one op."""
    what = f"the convolution '{str(fused.conv.attrs['state']).rpartition('.')[2]}' [{' '.join(fused.conv.names)}]"
    made = f"`{fused.only}` of a convolution." if fused.only else f"What follows {what}."
    if derived:
        made = f"Derivatives by total, x and w, from do, that by {made[0].lower()}{made[1:]}"
    parts = [f"x: {_listed(fused.inputs)}."] if fused.inputs else []
    parts += [f"w: {_listed(fused.weights)}."] if fused.weights else []
    parts += _numbers(() if fused.activation is None else fused.activation.n)
    total = "total: the sum over taps" + (", bias included." if fused.bias is not None and not fused.only else ".")
    return [made, "", *_lines([*parts, total])]


GLUE = "\xa0"
"""Between words of one line."""
GATES = {
    "a": "the decay", "u": "the input", "dt": "the step dt", "log_a": "the log decay", "k": "keys", "v": "the input v",
    "q": "queries", "b": "the keys of the bonus",
}  # fmt: skip


def _sentence(parts: Sequence[str]) -> str:
    """Things in a row, the first word of which begins a sentence."""
    text = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return text[0].upper() + text[1:]


def _listed(handed: Sequence[Handed]) -> str:
    """Names, with the axes of those up to there."""
    groups = groupby(handed, key=lambda h: h.axes)
    return ", ".join(f"{', '.join(h.name for h in each)}{GLUE}[{GLUE.join(axes)}]" for axes, each in groups)


def _numbers(numbers: Sequence[Node]) -> list[str]:
    return [f"Numbers: {', '.join(n.name.removeprefix(NUMBER) for n in numbers)}."] if numbers else []


def _lines(parts: Sequence[str]) -> list[str]:
    return [line.replace(GLUE, " ") for line in wrap(" ".join(parts), 112)]
