"""What the kernels ask of Triton, by itself: scans of tuples in both directions, and products in half precision."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.gpu.place import Place

ROWS = (2, 8, 64)
WARPS = (1, 4, 8)


@triton.jit
def _after(a1, h1, a2, h2):
    return a1 * a2, a2 * h1 + h2


@triton.jit
def _before_too(a1, h1, x1, y1, a2, h2, x2, y2):
    """The third and fourth field are what lies before: the exclusive prefix."""
    return a1 * a2, a2 * h1 + h2, a1 * x2, x2 * h1 + y2


@triton.jit
def _scans(a, u, forward, reverse, exclusive, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    decays = tl.load(a + places)
    inputs = tl.load(u + places)
    _, there = tl.associative_scan((decays, inputs), 0, _after)
    _, back = tl.associative_scan((decays, inputs), 0, _after, reverse=True)
    ones = tl.full([ROWS, COLUMNS], 1.0, tl.float32)
    zeros = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    _, _, _, late = tl.associative_scan((decays, inputs, ones, zeros), 0, _before_too)
    tl.store(forward + places, there)
    tl.store(reverse + places, back)
    tl.store(exclusive + places, late)


@triton.jit
def _product(x, y, z, SIZE: tl.constexpr, WIDE: tl.constexpr):
    places = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    left = tl.load(x + places)
    right = tl.load(y + places)
    if WIDE:  # the interpreter's product of two bfloat16 is garbage
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    tl.store(z + places, tl.dot(left, right, input_precision="ieee"))


@triton.jit
def exponentials(x, TIMES: tl.constexpr, SIZE: tl.constexpr):
    """The exponential unit at work: powers of two of a tile, one after the other."""
    places = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    value = tl.load(x + places)
    for _ in range(TIMES):
        value = tl.exp2(-value)
    tl.store(x + places, value)


def language(place: Place) -> Iterator[tuple[str, float]]:
    """What was tried, and the largest error in relation to the largest value."""
    for rows in ROWS[:1] if place.dry else ROWS:
        for warps in WARPS[:1] if place.dry else WARPS:
            yield from _tried(place, rows, warps)
    x, y = (torch.randn(32, 32, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(2))
    z = torch.full((32, 32), torch.nan, device=place.device)
    _product[(1,)](x.to(place.device), y.to(place.device), z, SIZE=32, WIDE=place.dry)
    yield "product of bfloat16", _error(z, x.double() @ y.double())


def _tried(place: Place, rows: int, warps: int) -> Iterator[tuple[str, float]]:
    generator = torch.Generator().manual_seed(rows)
    a, u = torch.rand(rows, 32, generator=generator), torch.randn(rows, 32, generator=generator)
    made = [torch.full((rows, 32), torch.nan, device=place.device) for _ in range(3)]
    _scans[(1,)](a.to(place.device), u.to(place.device), *made, ROWS=rows, COLUMNS=32, num_warps=warps)
    there = _loop(a, u)
    back = _loop(a.flip(0), u.flip(0)).flip(0)
    late = torch.cat([torch.zeros(1, 32, dtype=torch.float64), there[:-1]])
    for name, found, wanted in zip(("scan", "reverse scan", "exclusive scan"), made, (there, back, late), strict=True):
        yield f"{name} of {rows} rows, {warps} warps", _error(found, wanted)


def _loop(a: Tensor, u: Tensor) -> Tensor:
    h, states = torch.zeros(u.shape[1], dtype=torch.float64), []
    for row, entering in zip(a.double(), u.double(), strict=True):
        h = row * h + entering
        states.append(h)
    return torch.stack(states)


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.cpu().double() - wanted).abs().max() / wanted.abs().max())
