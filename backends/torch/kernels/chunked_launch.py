"""The launches of the fused scans of outer products: sizes of tiles, and what is added up over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from kernels.chunked_key_triton import chunked_key_backward_keys, chunked_key_backward_queries, chunked_key_forward
from kernels.chunked_triton import chunked_backward_keys, chunked_backward_queries, chunked_forward
from kernels.operators import arch_of
from torch import Tensor

SMALLEST = 16  # of any side of a matrix product
DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}


def forward(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None, y: Tensor, last: Tensor
) -> None:
    """Fill y [B, T, heads, V] and the last state [B, heads, K, V]; log_a: [B, T, heads] or [B, T, heads, K]."""
    per_key = log_a.dim() == 4
    constants = _constants(k, v, q, pos, start, per_key)
    kernel = chunked_key_forward if per_key else chunked_forward
    with torch.cuda.device_of(v):
        kernel[_grid(v, constants)](
            log_a, k, v, q, pos, start, y, last, *_sizes(k, v, q), **constants,
            num_warps=_warps(constants), num_stages=_stages(constants),
        )  # fmt: skip


def backward(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    last: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> list[Tensor]:
    """The gradients of log_a, k, v, q and of the state that came in."""
    per_key = log_a.dim() == 4
    dv, dstart = torch.empty_like(v), torch.empty_like(last)
    run = _per_key if per_key else _per_head
    dk, dq, shares = run(log_a, k, v, q, pos, start, dy, dlast, dv, dstart)
    dlog = shares.flip(1).cumsum(1).flip(1)
    if dlast is not None:  # the last state is one more query
        dlog = dlog + (dlast * last).sum(-1 if per_key else (-2, -1))[:, None]
    if pos is not None:
        dlog = dlog.masked_fill((pos == 0).reshape(pos.shape + (1,) * (dlog.dim() - 2)), 0)
    return [dlog.to(log_a.dtype), dk, dv, dq, dstart]


def _per_head(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    dy: Tensor,
    dlast: Tensor | None,
    dv: Tensor,
    dstart: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """dk, dq and what each token adds to the gradient of the log decay [B, T, heads]; fills dv and dstart."""
    constants = _constants(k, v, q, pos, start, per_key=False, backward=True)
    grid, options = _grid(v, constants), {"num_warps": 8, "num_stages": _stages(constants)}
    shape = (grid[0], *v.shape[:3])
    dk, dq = k.new_empty(*shape, k.shape[-1]), q.new_empty(*shape, q.shape[-1])
    of_keys, of_queries = dstart.new_empty(shape), dstart.new_empty(shape)
    with torch.cuda.device_of(v):
        chunked_backward_queries[grid](
            log_a, k, v, q, pos, start, dy, dq, of_queries, *_sizes(k, v, q), **constants, **options
        )  # fmt: skip
        constants["CONTINUED"] = dlast is not None
        chunked_backward_keys[grid](
            log_a, k, v, q, pos, dlast, dy, dk, dv, dstart, of_keys, *_sizes(k, v, q), **constants, **options
        )  # fmt: skip
    return _over_programs(dk, k), _over_programs(dq, q), of_keys.sum(0) + of_queries.sum(0)


def _per_key(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    dy: Tensor,
    dlast: Tensor | None,
    dv: Tensor,
    dstart: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_per_head`, with [B, T, heads, K]: for each key what a token adds is `q dq - k dk`."""
    constants = _constants(k, v, q, pos, start, per_key=True)
    grid, options = _grid(v, constants), {"num_warps": _warps(constants), "num_stages": _stages(constants)}
    dk, dq = (dstart.new_empty(grid[0], *v.shape[:3], k.shape[-1]) for _ in range(2))
    with torch.cuda.device_of(v):
        chunked_key_backward_queries[grid](
            log_a, k, v, q, pos, start, dy, dq, *_sizes(k, v, q), **constants, **options
        )  # fmt: skip
        constants["CONTINUED"] = dlast is not None
        chunked_key_backward_keys[grid](
            log_a, k, v, q, pos, dlast, dy, dk, dv, dstart, *_sizes(k, v, q), **constants, **options
        )  # fmt: skip
    dk, dq = dk.sum(0, keepdim=True), dq.sum(0, keepdim=True)
    shares = _over_heads(q, v) * dq[0] - _over_heads(k, v) * dk[0]
    return _over_programs(dk, k), _over_programs(dq, q), shares


def _over_heads(x: Tensor, v: Tensor) -> Tensor:
    """Keys or queries for every head."""
    return x.repeat_interleave(v.shape[2] // x.shape[2], 2)


def _over_programs(x: Tensor, like: Tensor) -> Tensor:
    """Shares [slices, B, T, heads, K] of the programs, added up over slices and over heads with the same keys."""
    whole: Tensor = x.unflatten(3, (like.shape[2], -1)).sum((0, 4))
    return whole.to(like.dtype)


def _sizes(k: Tensor, v: Tensor, q: Tensor) -> tuple[int, ...]:
    """time, heads, K, V, heads of keys, heads of queries."""
    return v.shape[1], v.shape[2], k.shape[3], v.shape[3], k.shape[2], q.shape[2]


def _grid(v: Tensor, constants: dict[str, Any]) -> tuple[int, int, int]:
    return triton.cdiv(v.shape[3], constants["BV"]), v.shape[2], v.shape[0]


def _constants(
    k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None, per_key: bool, backward: bool = False
) -> dict[str, Any]:
    time, _, K, V, *_ = _sizes(k, v, q)
    narrow = _operands(k.dtype, q.dtype, v.dtype)
    if not v.is_cuda:  # the interpreter's product of two bfloat16 is garbage
        narrow = torch.promote_types(narrow, torch.float32)
    chunk, slice_ = _tile(narrow, _side(K), torch.backends.cuda.matmul.allow_tf32)
    least = 64 if arch_of(v) >= 90 else 32
    if backward and K > least and arch_of(v) < 100:  # of longer chunks some would not fit into registers
        chunk = min(chunk, 32)
    constants = {
        "PACKED": pos is not None,
        "CONTINUED": start is not None,
        "Q": SMALLEST if per_key else min(_side(time), chunk),
        "BK": _side(K),
        "BV": min(_side(V), slice_),
        "DOT": DOTS[narrow],
        "ACC": tl.float64 if narrow is torch.float64 else tl.float32,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
    }
    if not per_key:
        constants["LEAST"] = -746.0 if narrow is torch.float64 else -104.0  # of which the exponential is zero
    return constants


def _operands(*given: torch.dtype) -> torch.dtype:
    """The type of the operands of matrix products: half precision if any input has it.

    What gates made of half-precision inputs in single precision is rounded on the way into a product, as any activation
    is; sums and the state are in single precision. Without half precision nothing is rounded.
    """
    halves = [each for each in given if each.itemsize == 2 and torch.float64 not in given]
    found = (halves or list(given))[0]
    for each in halves or given:
        found = torch.promote_types(found, each)
    return found


def _tile(dtype: torch.dtype, keys: int, tf32: bool) -> tuple[int, int]:
    """Tokens of a chunk and values of a slice that fit into registers; exact products hold both factors there."""
    if dtype is torch.float64 or (dtype is torch.float32 and not tf32):
        return 16, 16
    return 32 if dtype is torch.float32 else 64, 64 if keys <= 64 else 32


def _side(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


def _warps(constants: dict[str, Any]) -> int:
    return 4 if constants["BK"] <= 64 else 8


def _stages(constants: dict[str, Any]) -> int:
    return 2 if constants["BK"] <= 128 else 1
