"""The launches of the fused selective scan: how many channels a program takes, and what it fills."""
# mypy: disable-error-code="no-untyped-call"

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from kernels.gated_operator import Given, Result
from kernels.selective_back_triton import selective_backward
from kernels.selective_tokens_triton import identity_gates, identity_gates_grad
from kernels.selective_triton import selective_forward
from torch import Tensor

CHUNK = 32  # tokens between the states that the forward pass keeps for the backward pass
BLOCK = 4  # tokens whose states are in registers at once
GROUP = 4  # states at a time in the backward pass
MANY = 1 << 16  # sequences times channels from which on 64 channels a program leave programs enough


def forward(gates: Any, given: Given, result: Result) -> None:
    """Fill y [B, T, C], the last state [B, C, N] and, unless it is empty, every CHUNK-th [B, ceil(T / CHUNK), N, C]."""
    A, B, C = given.outer
    batch, time, channels = given.x[0].shape
    size = _channels(batch, *A.shape)
    with torch.cuda.device_of(result.y):
        selective_forward[(triton.cdiv(channels, size), batch)](
            tuple(given.x), tuple(given.w), A, B, C, given.pos, given.start, *result, time, channels,
            CONTINUED=given.start is not None, KEEP=result.kept.numel() > 0, SIZE=size,
            **_constants(gates, given, result.y), OUT=gates.read and gates.read.device, num_warps=1,
        )  # fmt: skip


def backward(gates: Any, given: Given, result: Result, dlast: Tensor | None) -> list[Tensor]:
    """The gradients of x, w, A, B, C and of the state that came in; `result.y` is that of y."""
    A, B, C = given.outer
    dy, carries = result.y, result.kept
    batch, time, channels = dy.shape
    size = _channels(batch, *A.shape)
    blocks = triton.cdiv(channels, size)
    constants = _constants(gates, given, dy)
    dxs, dws = [torch.empty_like(x) for x in given.x], [A.new_empty(batch, channels) for _ in given.w]
    dA = A.new_zeros(batch, A.shape[1], channels)
    dstate = (
        torch.zeros_like(dA) if dlast is None else dlast.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    )
    dB, dC = (A.new_empty(blocks, *z.shape) for z in (B, C))
    notes = A.new_empty(blocks * batch, CHUNK // constants["BLOCK"] + 1, A.shape[1], size)
    reads = A.new_empty(blocks * batch, CHUNK, size) if gates.read else None
    with torch.cuda.device_of(dy):
        selective_backward[(blocks, batch)](
            tuple(given.x), tuple(given.w), A.t().contiguous(), B, C, given.pos, carries, dy, tuple(dxs), tuple(dws),
            dA, dB, dC, dstate, notes, reads, time, channels, GROUP=gcd(A.shape[1], GROUP), SIZE=size, **constants,
            GATES_GRAD=gates.grad or identity_gates_grad, OUT_GRAD=gates.read and gates.read.grad, num_warps=1,
        )  # fmt: skip
    shares = [*(dw.sum(0) for dw in dws), dA.sum(0).t().contiguous()]
    return [*dxs, *shares, dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype), dstate.transpose(1, 2).contiguous()]


def _channels(batch: int, channels: int, states: int) -> int:
    """How many channels a program takes: two for each thread where registers and the number of programs allow it."""
    return 64 if batch * channels >= MANY and states <= 16 else 32


def _constants(gates: Any, given: Given, y: Tensor) -> dict[str, Any]:
    A = given.outer[0]
    single = A.dtype is torch.float32
    return {
        "GATES": gates.device or identity_gates,
        "NUMBERS": tuple(given.numbers),
        "STATES": A.shape[1],
        "PACKED": given.pos is not None,
        "CHUNK": CHUNK,
        "BLOCK": BLOCK if y.shape[1] > 1 else 1,
        "ACC": tl.float32 if single else tl.float64,
        "FAST": single and y.is_cuda and torch.version.hip is None,
    }
