"""Passes of a gated scan on a GPU as launches of its kernels."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from kernels.gated_operator import Given, Result
from kernels.gated_pieces_triton import scan_carries, scan_pieces
from kernels.gated_tiles import SPAN, Tile, piece_length, tile_of
from kernels.gated_triton import scan_backward, scan_forward
from kernels.operators import arch_of
from torch import Tensor


def forward(gates: Any, given: Given, result: Result) -> None:
    """Fill y [B, T, C], the last state [B, C] and every SPAN-th [B, ceil(T / SPAN), C] from inputs [B, T, C]."""
    y, wide = result.y, result.last.dtype
    length = piece_length(*y.shape, arch_of(y))
    with torch.cuda.device_of(y):
        starts = given.start
        if length < y.shape[1]:
            starts = _enter(gates, given, None, None, starts, length, wide)
        _states(gates, given, starts, result, length, gates.read and gates.read.device)


def _states(gates: Any, given: Given, starts: Tensor | None, result: Result, length: int, out: Any) -> None:
    """Fill the result, from the states that enter each piece of time."""
    batch, time, channels = given.x[0].shape
    many = batch * triton.cdiv(channels, 64)
    tile = tile_of("forward" if time > 1 else "one token", arch_of(given.x[0]), many)
    scan_forward[(batch * triton.cdiv(channels, tile.channels), triton.cdiv(time, length))](
        tuple(given.x), tuple(given.w), given.pos, starts, result.y, result.kept, result.last, time, channels, length,
        G=gates.device, OUT=out, N=tuple(given.numbers), BEFORE=gates.before, SPAN=SPAN,
        **constants(tile, result.last.dtype),
    )  # fmt: skip


def backward(gates: Any, given: Given, result: Result, dlast: Tensor | None) -> list[Tensor]:
    """Gradients of the inputs, of the weights [C] and of the state that came in [B, C]; `result.y` is that of y."""
    dy, carries = result.y, result.kept
    batch, time, channels = dy.shape
    wide, arch, many = carries.dtype, arch_of(dy), batch * triton.cdiv(channels, 64)
    length = piece_length(batch, time, channels, arch)
    pieces = triton.cdiv(time, length)
    dxs = [torch.empty_like(x) for x in given.x]
    dws = [carries.new_empty((batch, pieces, channels)) for _ in given.w]
    leaving = carries.new_empty((batch, pieces, channels))
    with torch.cuda.device_of(dy):
        ends = dlast
        if pieces > 1:
            states = None
            if gates.read is not None and not gates.read.linear:
                starts = carries[:, :: length // SPAN].contiguous()
                again = Result(carries.new_empty(dy.shape), *map(torch.empty_like, (result.last, carries)))
                _states(gates, given, starts, again, length, None)
                states = again.y
            ends = _enter(gates, given, dy, states, dlast, length, wide)
        tile = tile_of("backward", arch, many)
        scan_backward[(batch * triton.cdiv(channels, tile.channels), pieces)](
            tuple(given.x), tuple(given.w), given.pos, carries, dy, ends, tuple(dxs), tuple(dws), leaving,
            time, channels, length, G=gates.device, D=gates.grad, OUT_GRAD=gates.read and gates.read.grad,
            N=tuple(given.numbers), BEFORE=gates.before, SPAN=SPAN, **constants(tile, wide),
        )  # fmt: skip
    return [*dxs, *(dw.sum((0, 1)).to(w.dtype) for dw, w in zip(dws, given.w, strict=True)), leaving[:, 0].contiguous()]


def _enter(
    gates: Any,
    given: Given,
    dy: Tensor | None,
    states: Tensor | None,
    first: Tensor | None,
    length: int,
    wide: torch.dtype,
) -> Tensor:
    """The state (with dy, the adjoint) that enters each piece of time [B, pieces, C], given the first (the last)."""
    batch, time, channels = given.x[0].shape
    pieces = triton.cdiv(time, length)
    tile = tile_of("pieces", arch_of(given.x[0]), 0)
    decays, ends, entering = (given.x[0].new_empty((batch, pieces, channels), dtype=wide) for _ in range(3))
    scan_pieces[(batch * triton.cdiv(channels, tile.channels), pieces)](
        tuple(given.x), tuple(given.w), given.pos, dy, states, decays, ends, time, channels, length,
        G=gates.device, OUT_GRAD=gates.read and gates.read.grad, N=tuple(given.numbers), BEFORE=gates.before,
        **constants(tile, wide),
    )  # fmt: skip
    scan_carries[(batch * triton.cdiv(channels, 128),)](
        decays, ends, first, entering, channels, pieces,
        REVERSE=dy is not None, BC=128, ACC=accumulated(wide), num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return entering


def constants(tile: Tile, wide: torch.dtype) -> dict[str, Any]:
    """What every launch of a pass has besides its gates."""
    return {**tile.sizes, "num_warps": tile.warps, "enable_fp_fusion": True, "ACC": accumulated(wide)}


def accumulated(wide: torch.dtype) -> Any:
    """The type of the sums as Triton has it."""
    return tl.float64 if wide == torch.float64 else tl.float32
