"""Diagonal scans on a GPU: which tiles, how many pieces of time, and the launches that make up a pass."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from kernels.gated_triton import scan_backward, scan_carries, scan_forward, scan_pieces
from torch import Tensor

SPAN = 32  # tokens between the states that the forward pass keeps for the backward pass
ENOUGH = 400  # programs that keep a GPU busy; below, time is cut
WANTED = 600  # programs aimed at when it is
SHORTEST = 256  # tokens of a piece at least
OFFSETS = 1 << 30  # elements of a piece at most: offsets inside of it are 32 bits


class Tile(NamedTuple):
    """Tokens in a row that a thread holds, such segments side by side, channels, warps."""

    steps: int
    segments: int
    channels: int
    warps: int

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return self.steps * self.segments


Pass = Literal["one token", "forward", "backward", "pieces"]
ONE_TOKEN = Tile(1, 1, 64, 1)
WIDE = Tile(8, 2, 64, 1)  # fewest instructions an element
TALL = Tile(8, 8, 32, 4)  # most loads under way
LOW = Tile(8, 4, 32, 4)  # room for what the gradient needs, three programs a multiprocessor
SMALL = Tile(4, 8, 16, 1)  # the interpreter: one operation of its own for each step

# By compute capability, the passes with few programs and, from `MANY` up, with many.
MANY = 1500
TILES: dict[int, dict[Pass, tuple[Tile, Tile]]] = {
    0: {"forward": (SMALL, SMALL), "backward": (SMALL, SMALL), "pieces": (SMALL, SMALL)},
    80: {"forward": (TALL, WIDE), "backward": (LOW, LOW), "pieces": (TALL, TALL)},
    90: {"forward": (TALL, WIDE), "backward": (LOW, LOW), "pieces": (TALL, TALL)},
    100: {"forward": (TALL, WIDE), "backward": (LOW, LOW), "pieces": (TALL, TALL)},
}


def tile_of(kind: Pass, arch: int, programs: int) -> Tile:
    """The tile of a pass for a compute capability (90: Hopper) and a number of programs of 64 channels."""
    if kind == "one token":
        return ONE_TOKEN
    known = max(each for each in TILES if each <= arch)
    return TILES[known][kind][programs >= MANY]


def piece_length(batch: int, time: int, channels: int, arch: int) -> int:
    """Tokens of a piece of time: all of them if batch and channels make programs enough or offsets allow no less.

    One pass reads an element once, pieces read it twice (14 bytes instead of 8 for three inputs in half precision).
    """
    programs = batch * triton.cdiv(channels, TALL.channels)
    pieces = 1 if programs >= ENOUGH else min(triton.cdiv(WANTED, programs), time // SHORTEST)
    pieces = max(pieces, triton.cdiv(time * channels, OFFSETS), 1)
    unit = max(SPAN, tile_of("pieces", arch, programs).tokens)
    return triton.cdiv(triton.cdiv(time, pieces), unit) * unit if pieces > 1 else time


def forward(
    device: Any, xs: list[Tensor], ws: list[Tensor], pos: Tensor | None, start: Tensor | None, wide: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """States y [B, T, C], the last one [B, C] and every SPAN-th [B, ceil(T / SPAN), C] from inputs [B, T, C]."""
    batch, time, channels = xs[0].shape
    arch, many = _arch(xs[0]), batch * triton.cdiv(channels, 64)
    length = piece_length(batch, time, channels, arch)
    pieces = triton.cdiv(time, length)
    y = torch.empty_like(xs[0])
    last = y.new_empty((batch, channels), dtype=wide)
    carries = y.new_empty((batch, triton.cdiv(time, SPAN), channels), dtype=wide)
    with torch.cuda.device_of(y):
        starts = start
        if pieces > 1:
            starts = _enter(device, xs, ws, pos, None, start, length, wide)
        tile = tile_of("forward" if time > 1 else "one token", arch, many)
        scan_forward[(batch * triton.cdiv(channels, tile.channels), pieces)](
            tuple(xs), tuple(ws), pos, starts, y, carries, last, time, channels, length,
            G=device, SPAN=SPAN, **_constants(tile, wide),
        )  # fmt: skip
    return y, last, carries


def backward(
    device: Any,
    grad: Any,
    xs: list[Tensor],
    ws: list[Tensor],
    pos: Tensor | None,
    carries: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of the inputs, of the weights [C] and of the state that came in [B, C]."""
    batch, time, channels = xs[0].shape
    wide = carries.dtype
    arch, many = _arch(xs[0]), batch * triton.cdiv(channels, 64)
    length = piece_length(batch, time, channels, arch)
    pieces = triton.cdiv(time, length)
    dxs = [torch.empty_like(x) for x in xs]
    dws = [carries.new_empty((batch, pieces, channels)) for _ in ws]
    leaving = carries.new_empty((batch, pieces, channels))
    with torch.cuda.device_of(dy):
        ends = dlast
        if pieces > 1:
            ends = _enter(device, xs, ws, pos, dy, dlast, length, wide)
        tile = tile_of("backward", arch, many)
        scan_backward[(batch * triton.cdiv(channels, tile.channels), pieces)](
            tuple(xs), tuple(ws), pos, carries, dy, ends, tuple(dxs), tuple(dws), leaving, time, channels, length,
            G=device, D=grad, SPAN=SPAN, **_constants(tile, wide),
        )  # fmt: skip
    return dxs, [dw.sum((0, 1)).to(w.dtype) for dw, w in zip(dws, ws, strict=True)], leaving[:, 0].contiguous()


def _enter(
    device: Any,
    xs: list[Tensor],
    ws: list[Tensor],
    pos: Tensor | None,
    dy: Tensor | None,
    first: Tensor | None,
    length: int,
    wide: torch.dtype,
) -> Tensor:
    """The state (with dy, the adjoint) that enters each piece of time [B, pieces, C], given the first (the last)."""
    batch, time, channels = xs[0].shape
    pieces = triton.cdiv(time, length)
    tile = tile_of("pieces", _arch(xs[0]), 0)
    decays, ends, entering = (xs[0].new_empty((batch, pieces, channels), dtype=wide) for _ in range(3))
    scan_pieces[(batch * triton.cdiv(channels, tile.channels), pieces)](
        tuple(xs), tuple(ws), pos, dy, decays, ends, time, channels, length, G=device, **_constants(tile, wide)
    )
    scan_carries[(batch * triton.cdiv(channels, 128),)](
        decays, ends, first, entering, channels, pieces,
        REVERSE=dy is not None, BC=128, ACC=_accumulated(wide), num_warps=1,
    )  # fmt: skip
    return entering


def _constants(tile: Tile, wide: torch.dtype) -> dict[str, Any]:
    sizes = {"K": tile.steps, "S": tile.segments, "BC": tile.channels, "num_warps": tile.warps}
    return {**sizes, "ACC": _accumulated(wide)}


def _accumulated(wide: torch.dtype) -> Any:
    return tl.float64 if wide == torch.float64 else tl.float32


def _arch(x: Tensor) -> int:
    """The compute capability of a tensor's device, ten times the major and the minor number; 0 for the interpreter."""
    if not x.is_cuda:
        return 0
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor
