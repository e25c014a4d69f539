"""Passes of a complex gated scan on a GPU as launches of its kernels."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
from kernels.gated_complex_pieces_triton import complex_carries, complex_pieces
from kernels.gated_complex_triton import complex_backward, complex_forward
from kernels.gated_launch import accumulated, constants
from kernels.gated_operator import Given, Result
from kernels.gated_tiles import SPAN, piece_length, tile_of
from kernels.operators import arch_of
from torch import Tensor

Tensors = tuple[Tensor, ...]


def forward(gates: Any, given: Given, result: Any) -> None:
    """Fill the parts of y [B, T, C], the last state [B, 2, C] and every SPAN-th [B, ceil(T / SPAN), 2, C] from inputs
    [B, T, C]."""
    y, wide = result.y, result.last.dtype
    length = piece_length(*y.shape, arch_of(y))
    with torch.cuda.device_of(y):
        starts = given.start
        if length < y.shape[1]:
            starts = _enter(gates, given, (), (), starts, length, wide)
        ys = (y,) if gates.real else (y, result.imag)
        _states(gates, given, starts, ys, result, length, gates.read and gates.read.device)


def _states(gates: Any, given: Given, starts: Tensor | None, ys: Tensors, result: Any, length: int, out: Any) -> None:
    """Fill the result, its parts being ys, from the states that enter each piece of time."""
    batch, time, channels = given.x[0].shape
    many = batch * triton.cdiv(channels, 64)
    tile = tile_of("complex" if time > 1 else "one token", arch_of(given.x[0]), many)
    complex_forward[(batch * triton.cdiv(channels, tile.channels), triton.cdiv(time, length))](
        tuple(given.x), tuple(given.w), given.pos, starts, ys, result.kept, result.last, time, channels, length,
        G=gates.device, OUT=out, N=tuple(given.numbers), BEFORE=gates.before, SPAN=SPAN,
        **constants(tile, result.last.dtype),
    )  # fmt: skip


def backward(gates: Any, given: Given, result: Any, dlast: Tensor | None, dimag: Tensor | None) -> list[Tensor]:
    """Gradients of the inputs, of the weights [C] and of the state that came in [B, 2, C]; `result.y` is that of the
    real part of y, dimag that of the other.
    """
    dy, carries = result.y, result.kept
    batch, time, channels = dy.shape
    wide, arch, many = carries.dtype, arch_of(dy), batch * triton.cdiv(channels, 64)
    length = piece_length(batch, time, channels, arch)
    pieces = triton.cdiv(time, length)
    dys = (dy,) if gates.real else (dy, torch.zeros_like(dy) if dimag is None else dimag)
    dxs = [torch.empty_like(x) for x in given.x]
    dws = [carries.new_empty((batch, pieces, channels)) for _ in given.w]
    leaving = carries.new_empty((batch, pieces, 2, channels))
    with torch.cuda.device_of(dy):
        ends = dlast
        if pieces > 1:
            states: Tensors = ()
            if gates.read is not None and not gates.read.linear:
                starts = carries[:, :: length // SPAN].contiguous()
                states = (carries.new_empty(dy.shape), carries.new_empty(dy.shape))
                again = Result(dy, *map(torch.empty_like, (result.last, carries)))
                _states(gates, given, starts, states, again, length, None)
            ends = _enter(gates, given, dys, states, dlast, length, wide)
        tile = tile_of("complex backward", arch, many)
        complex_backward[(batch * triton.cdiv(channels, tile.channels), pieces)](
            tuple(given.x), tuple(given.w), given.pos, carries, dys, ends, tuple(dxs), tuple(dws), leaving,
            time, channels, length, G=gates.device, D=gates.grad, OUT_GRAD=gates.read and gates.read.grad,
            N=tuple(given.numbers), BEFORE=gates.before, SPAN=SPAN, **constants(tile, wide),
        )  # fmt: skip
    return [*dxs, *(dw.sum((0, 1)).to(w.dtype) for dw, w in zip(dws, given.w, strict=True)), leaving[:, 0].contiguous()]


def _enter(
    gates: Any, given: Given, dys: Tensors, states: Tensors, first: Tensor | None, length: int, wide: torch.dtype
) -> Tensor:
    """The state (with dys, the adjoint) that enters each piece of time [B, pieces, 2, C], given the first, or last."""
    batch, time, channels = given.x[0].shape
    pieces = triton.cdiv(time, length)
    tile = tile_of("complex", arch_of(given.x[0]), 0)
    shape = (batch, pieces, 2, channels)
    decays, ends, entering = (given.x[0].new_empty(shape, dtype=wide) for _ in range(3))
    complex_pieces[(batch * triton.cdiv(channels, tile.channels), pieces)](
        tuple(given.x), tuple(given.w), given.pos, dys, states, decays, ends, time, channels, length,
        G=gates.device, OUT_GRAD=gates.read and gates.read.grad, N=tuple(given.numbers), BEFORE=gates.before,
        **constants(tile, wide),
    )  # fmt: skip
    complex_carries[(batch * triton.cdiv(channels, 128),)](
        decays, ends, first, entering, channels, pieces,
        REVERSE=len(dys) > 0, BC=128, ACC=accumulated(wide), num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return entering
