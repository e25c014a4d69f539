"""The launches of the fused selective scan: how many channels a program takes, and what it fills."""
# mypy: disable-error-code="no-untyped-call"

from math import gcd, prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from kernels.gated_operator import Given, Result
from kernels.selective_back_triton import selective_backward
from kernels.selective_groups import shared_run
from kernels.selective_tokens_triton import identity_gates, identity_gates_grad
from kernels.selective_triton import selective_forward
from torch import Tensor

CHUNK = 32  # tokens between the states that the forward pass keeps for the backward pass
BLOCK = 4  # tokens whose states are in registers at once
GROUP = 4  # states at a time in the backward pass, half of them where a program has several groups of channels
MANY = 1 << 16  # sequences times channels from which on 64 channels a program leave programs enough


def forward(gates: Any, given: Given, result: Result) -> None:
    """Fill y like x[0], the last state [B, *axes, N] and, unless it is empty, every CHUNK-th [B, T / CHUNK, N, C]."""
    A, B, C = given.outer
    batch, time = result.y.shape[:2]
    lanes = _lanes(batch, A, B)
    with torch.cuda.device_of(result.y):
        selective_forward[(lanes.programs, batch)](
            tuple(given.x), tuple(given.w), A, B, C, given.pos, given.start, *result, time, lanes.channels, lanes.each,
            CONTINUED=given.start is not None, KEEP=result.kept.numel() > 0, **_constants(gates, given, result.y),
            WIDTH=lanes.width, SIZE=lanes.size, OUT=gates.read and gates.read.device, num_warps=1,
        )  # fmt: skip


def backward(gates: Any, given: Given, result: Result, dlast: Tensor | None) -> list[Tensor]:
    """The gradients of x, w, A, B, C and of the state that came in; `result.y` is that of y."""
    A, B, C = given.outer
    dy, carries = result.y, result.kept
    batch, time = dy.shape[:2]
    lanes, states = _lanes(batch, A, B, back=True), A.shape[-1]
    constants = _constants(gates, given, dy)
    dxs, dws = [torch.empty_like(x) for x in given.x], [A.new_empty(batch, *w.shape) for w in given.w]
    dA = A.new_zeros(batch, states, lanes.channels)
    dstate = torch.zeros_like(dA)
    if dlast is not None:
        dstate.copy_(dlast.reshape(batch, -1, states).mT)
    dB, dC = (_shares(lanes.parts, A, rows) for rows in (B, C))
    notes = A.new_empty(lanes.programs * batch, CHUNK // constants["BLOCK"] + 1, states, lanes.size)
    reads = A.new_empty(lanes.programs * batch, CHUNK, lanes.size) if gates.read else None
    with torch.cuda.device_of(dy):
        selective_backward[(lanes.programs, batch)](
            tuple(given.x), tuple(given.w), A.view(-1, states).t().contiguous(), B, C, given.pos, carries, dy,
            tuple(dxs), tuple(dws), dA, dB, dC, dstate, notes, reads, time, lanes.channels, lanes.each, **constants,
            GROUP=gcd(states, GROUP if lanes.width == lanes.size else GROUP // 2), WIDTH=lanes.width, SIZE=lanes.size,
            GATES_GRAD=gates.grad or identity_gates_grad, OUT_GRAD=gates.read and gates.read.grad, num_warps=1,
        )  # fmt: skip
    shares = [*(dw.sum(0) for dw in dws), dA.sum(0).t().contiguous().view(A.shape)]
    leaving = dstate.mT.contiguous().view(batch, *A.shape)
    return [*dxs, *shares, _added(dB, B), _added(dC, C), leaving]


class _Lanes(NamedTuple):
    """How channels in groups of `each` fill programs of `size` lanes: `width` are of one group, `parts` the programs of
    a group of more than one program.
    """

    channels: int
    each: int
    size: int
    width: int
    parts: int
    programs: int


def _lanes(batch: int, A: Tensor, B: Tensor, back: bool = False) -> _Lanes:
    """Two channels for each thread where registers and the number of programs allow it.

    Going back they do not where a program has keys and queries of several groups.
    """
    channels, groups = A.shape[:-1].numel(), A.shape[: B.dim() - 3].numel()
    each = channels // groups
    several = groups > 1 and each <= 32
    size = 64 if batch * channels >= MANY and A.shape[-1] <= 16 and not (back and several) else 32
    width = size if groups == 1 else min(size, triton.next_power_of_2(each))
    parts = triton.cdiv(each, width)
    return _Lanes(channels, each, size, width, parts, triton.cdiv(groups * parts, size // width))


def _shares(parts: int, A: Tensor, rows: Tensor) -> Tensor:
    """Gradients of keys or queries [parts, B, T, *groups, N], empty; what is not added up is stored as it leaves."""
    shape = (parts, *rows.shape[:2], *A.shape[: rows.dim() - 3], A.shape[-1])
    return rows.new_empty(shape, dtype=rows.dtype if prod(shape) == rows.numel() else A.dtype)


def _added(shares: Tensor, rows: Tensor) -> Tensor:
    """Gradients [parts, B, T, *groups, N] summed over the programs and the groups that share keys or queries."""
    if shares.numel() == rows.numel():
        return shares.view(rows.shape)
    lacking = [i + 1 for i, size in enumerate(rows.shape) if size < shares.shape[i + 1]]
    return shares.sum([0, *lacking], keepdim=True)[0].to(rows.dtype)


def _rows(groups: torch.Size, rows: Tensor) -> tuple[int, int, int]:
    """How many rows of keys or queries a token has, and which groups share them."""
    run = shared_run(groups, rows.shape[2:-1])
    assert run is not None, "of_groups has repeated what is shared in several places"
    return rows.shape[2:-1].numel(), *run


def _constants(gates: Any, given: Given, y: Tensor) -> dict[str, Any]:
    A, B, C = given.outer
    single, groups = A.dtype is torch.float32, A.shape[: B.dim() - 3]
    return {
        "GATES": gates.device or identity_gates,
        "NUMBERS": tuple(given.numbers),
        "STATES": A.shape[-1],
        "GROUPS": groups.numel(),
        "KEYS": _rows(groups, B),
        "QUERIES": _rows(groups, C),
        "PACKED": given.pos is not None,
        "CHUNK": CHUNK,
        "BLOCK": BLOCK if y.shape[1] > 1 else 1,
        "ACC": tl.float32 if single else tl.float64,
        "FAST": single and y.is_cuda and torch.version.hip is None,
    }
