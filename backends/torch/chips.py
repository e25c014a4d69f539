"""What a GPU offers to programs, by compute capability, and how many of a kind it holds at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WARP = 32
"""Threads of a warp."""
REGISTERS = 65536
"""Of a multiprocessor, on every chip below."""
MOST_REGISTERS = 255
"""Of a thread; what needs more spills to memory."""
ALLOCATED = 256
"""Registers come to a warp in such pieces."""
RESERVED = 1024
"""Bytes of shared memory that each program costs beside its own."""

Limit = Literal["registers", "shared memory", "warps", "programs"]


@dataclass(frozen=True)
class Chip:
    """One by which it is known. Bytes of shared memory for a program and for a multiprocessor; warps and programs of a
    multiprocessor.
    """

    known: str
    shared: int
    shared_all: int
    warps: int
    programs: int


# CUDA C++ Programming Guide 13.0, table of technical specifications per compute capability.
CHIPS = {
    80: Chip("A100", 166912, 167936, 64, 32),
    86: Chip("A10", 101376, 102400, 48, 16),
    89: Chip("L4", 101376, 102400, 48, 24),
    90: Chip("H100", 232448, 233472, 64, 32),
    100: Chip("B200", 232448, 233472, 64, 32),
}


def resident(arch: int, registers: int, shared: int, warps: int) -> tuple[int, Limit]:
    """Programs that a multiprocessor holds at a time, 0 if one does not fit, and what there is too little of for more.

    Of a thread `registers`, of a program `shared` bytes and `warps`.

    >>> resident(90, 168, 2048, 4), resident(80, 32, 0, 1)
    ((3, 'registers'), (32, 'programs'))
    """
    chip = CHIPS[arch]
    of_warp = -(-registers * WARP // ALLOCATED) * ALLOCATED
    by: dict[Limit, int] = {
        "programs": chip.programs,
        "warps": chip.warps // warps,
        "registers": REGISTERS // of_warp // warps,
        "shared memory": chip.shared_all // (shared + RESERVED) if shared <= chip.shared else 0,
    }
    least = min(by, key=lambda limit: by[limit])
    return by[least], least
