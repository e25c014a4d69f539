"""The kernels of a model as compilers saw them, as a table and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from archc.reports.units import in_bytes


@dataclass(frozen=True)
class OfGpu:
    """A kernel in the machine code of a GPU: see `archc.backends.torch.machine_code.Resources`.

    use: "training", "prefill" or "one token"; unit: the part of the model that starts it first; arguments: what its
    code was made for; grid: programs of one start.
    """

    use: str
    unit: str
    kernel: str
    backward: bool
    arguments: str
    grid: int
    registers: int
    stack: int
    spills: int
    warps: int
    shared: int
    instructions: int
    loop: int
    per_element: float | None
    programs: int
    limit: str


@dataclass(frozen=True)
class OfPallas:
    """A Pallas kernel: whether it lowers, and where a compiler of its machine is installed whether that takes it.

    refused: what was said if not. shapes: of what it is given and of what it gives back. bundles: instructions of a
    TPU, a word of which does several things at once; memory: bytes of its vector memory.
    """

    use: str
    kernel: str
    shapes: str
    lowers: bool
    compiles: bool | None
    bundles: int | None
    memory: int | None
    refused: str


Row = OfGpu | OfPallas


@dataclass(frozen=True)
class Compiled:
    """The kernels of a model for a target, at `batch` sequences of `seq` tokens, computing in `dtype`."""

    model: str
    target: str
    dtype: str
    batch: int
    seq: int
    kernels: tuple[Row, ...]

    @property
    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def table(found: Compiled) -> str:
    """A heading and a line for each kernel."""
    heading = f"{found.model} for {found.target}, {found.batch} x {found.seq:,} tokens in {found.dtype}"
    on_gpu = [row for row in found.kernels if isinstance(row, OfGpu)]
    pallas = [row for row in found.kernels if isinstance(row, OfPallas)]
    return "\n".join([heading, *_blocks(on_gpu), *([""] if pallas else []), *_lowered(pallas), "", *_legend(on_gpu)])


GPU = ("kernel", "regs", "spills", "shared", "warps", "instr", "per elem", "resident", "limited by", "grid")


def _blocks(rows: Sequence[OfGpu]) -> list[str]:
    """The kernels of a GPU, by use and unit."""
    cells = [[row.kernel, *_numbers(row)] for row in rows]
    lines = _aligned([list(GPU), *cells])
    out: list[str] = []
    place = ("", "")
    for row, line in zip(rows, lines[1:], strict=True):
        if (row.use, row.unit) != place:
            place = row.use, row.unit
            out += ["", f"{row.use}: {row.unit or 'the model itself'}", f"    {lines[0]}"]
        out += [f"    {line}", f"        {row.arguments}"]
    return out


def _numbers(row: OfGpu) -> list[str]:
    per_element = "-" if row.per_element is None else f"{row.per_element:.1f}"
    return [
        str(row.registers),
        f"{row.spills}" if row.spills or not row.stack else f"0 ({row.stack} B)",
        in_bytes(row.shared),
        str(row.warps),
        f"{row.instructions:,}",
        per_element,
        str(row.programs),
        row.limit,
        f"{row.grid:,}",
    ]


def _lowered(rows: Sequence[OfPallas]) -> list[str]:
    """The Pallas kernels: what became of each, its arrays below, and what was said of one that a compiler refuses."""
    cells = [[row.use, row.kernel, _verdict(row), *_tpu(row)] for row in rows]
    lines = _aligned([["use", "kernel", "", "bundles", "memory"], *cells]) if rows else []
    return lines[:1] + [
        part
        for row, line in zip(rows, lines[1:], strict=True)
        for part in (line, f"    {row.shapes}", *(f"    {said}" for said in row.refused.splitlines()))
    ]


def _verdict(row: OfPallas) -> str:
    if not row.lowers:
        return "does not lower"
    if row.compiles is None:
        return "lowers"
    return "compiles" if row.compiles else "lowers, does not compile"


def _tpu(row: OfPallas) -> list[str]:
    bundles = "-" if row.bundles is None else f"{row.bundles:,}"
    return [bundles, "-" if row.memory is None else in_bytes(row.memory)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, the first to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = [all(cell[:1].isdigit() or cell == "-" for cell in column[1:]) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]


def _legend(rows: Sequence[OfGpu]) -> list[str]:
    if not rows:
        return []
    return [
        "regs: registers of a thread, 255 at most. spills: loads and stores of its loop for want of registers (in",
        "brackets: bytes of stack that only code around the loop uses). shared: memory of a program. per elem:",
        "instructions of the loop by results of a round. resident: programs that a multiprocessor holds, and what",
        "allows no more. grid: programs of one start.",
    ]
