"""Passes of a gated scan on a GPU as launches of its kernels."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from kernels.gated_pieces_triton import scan_carries, scan_pieces
from kernels.gated_tiles import SPAN, Tile, piece_length, tile_of
from kernels.gated_triton import scan_backward, scan_forward
from kernels.operators import arch_of
from torch import Tensor


def forward(
    gates: Any,
    xs: list[Tensor],
    ws: list[Tensor],
    numbers: list[float],
    pos: Tensor | None,
    start: Tensor | None,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Results y [B, T, C], the last state [B, C] and every SPAN-th [B, ceil(T / SPAN), C] from inputs [B, T, C]."""
    batch, time, channels = xs[0].shape
    length = piece_length(batch, time, channels, arch_of(xs[0]))
    y = torch.empty_like(xs[0])
    last = y.new_empty((batch, channels), dtype=wide)
    carries = y.new_empty((batch, triton.cdiv(time, SPAN), channels), dtype=wide)
    with torch.cuda.device_of(y):
        starts = start
        if length < time:
            starts = _enter(gates, xs, ws, numbers, pos, None, None, start, length, wide)
        _states(gates, xs, ws, numbers, pos, starts, (y, carries, last), length, gates.read and gates.read.device)
    return y, last, carries


def _states(
    gates: Any,
    xs: list[Tensor],
    ws: list[Tensor],
    numbers: list[float],
    pos: Tensor | None,
    starts: Tensor | None,
    outputs: tuple[Tensor, Tensor, Tensor],
    length: int,
    out: Any,
) -> None:
    """Fill results, every SPAN-th state and the last one, from the states that enter each piece of time."""
    batch, time, channels = xs[0].shape
    many = batch * triton.cdiv(channels, 64)
    tile = tile_of("forward" if time > 1 else "one token", arch_of(xs[0]), many)
    scan_forward[(batch * triton.cdiv(channels, tile.channels), triton.cdiv(time, length))](
        tuple(xs), tuple(ws), pos, starts, *outputs, time, channels, length,
        G=gates.device, OUT=out, N=tuple(numbers), SPAN=SPAN, **_constants(tile, outputs[2].dtype),
    )  # fmt: skip


def backward(
    gates: Any,
    xs: list[Tensor],
    ws: list[Tensor],
    numbers: list[float],
    pos: Tensor | None,
    carries: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of the inputs, of the weights [C] and of the state that came in [B, C]."""
    batch, time, channels = xs[0].shape
    wide = carries.dtype
    arch, many = arch_of(xs[0]), batch * triton.cdiv(channels, 64)
    length = piece_length(batch, time, channels, arch)
    pieces = triton.cdiv(time, length)
    dxs = [torch.empty_like(x) for x in xs]
    dws = [carries.new_empty((batch, pieces, channels)) for _ in ws]
    leaving = carries.new_empty((batch, pieces, channels))
    with torch.cuda.device_of(dy):
        ends = dlast
        if pieces > 1:
            states = None
            if gates.read is not None and not gates.read.linear:
                states, starts = carries.new_empty(dy.shape), carries[:, :: length // SPAN].contiguous()
                kept = torch.empty_like(carries), carries.new_empty((batch, channels))
                _states(gates, xs, ws, numbers, pos, starts, (states, *kept), length, None)
            ends = _enter(gates, xs, ws, numbers, pos, dy, states, dlast, length, wide)
        tile = tile_of("backward", arch, many)
        scan_backward[(batch * triton.cdiv(channels, tile.channels), pieces)](
            tuple(xs), tuple(ws), pos, carries, dy, ends, tuple(dxs), tuple(dws), leaving, time, channels, length,
            G=gates.device, D=gates.grad, OUT_GRAD=gates.read and gates.read.grad, N=tuple(numbers), SPAN=SPAN,
            **_constants(tile, wide),
        )  # fmt: skip
    return dxs, [dw.sum((0, 1)).to(w.dtype) for dw, w in zip(dws, ws, strict=True)], leaving[:, 0].contiguous()


def _enter(
    gates: Any,
    xs: list[Tensor],
    ws: list[Tensor],
    numbers: list[float],
    pos: Tensor | None,
    dy: Tensor | None,
    states: Tensor | None,
    first: Tensor | None,
    length: int,
    wide: torch.dtype,
) -> Tensor:
    """The state (with dy, the adjoint) that enters each piece of time [B, pieces, C], given the first (the last)."""
    batch, time, channels = xs[0].shape
    pieces = triton.cdiv(time, length)
    tile = tile_of("pieces", arch_of(xs[0]), 0)
    decays, ends, entering = (xs[0].new_empty((batch, pieces, channels), dtype=wide) for _ in range(3))
    scan_pieces[(batch * triton.cdiv(channels, tile.channels), pieces)](
        tuple(xs), tuple(ws), pos, dy, states, decays, ends, time, channels, length,
        G=gates.device, OUT_GRAD=gates.read and gates.read.grad, N=tuple(numbers), **_constants(tile, wide),
    )  # fmt: skip
    scan_carries[(batch * triton.cdiv(channels, 128),)](
        decays, ends, first, entering, channels, pieces,
        REVERSE=dy is not None, BC=128, ACC=_accumulated(wide), num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return entering


def _constants(tile: Tile, wide: torch.dtype) -> dict[str, Any]:
    return {**tile.sizes, "num_warps": tile.warps, "enable_fp_fusion": True, "ACC": _accumulated(wide)}


def _accumulated(wide: torch.dtype) -> Any:
    return tl.float64 if wide == torch.float64 else tl.float32
