"""The launches of the scan of outer products with a decay per head: tiles, and sums over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from kernels.chunked_back_triton import chunked_backward_keys, chunked_backward_queries
from kernels.chunked_triton import chunked_forward
from kernels.operators import arch_of
from torch import Tensor

SMALLEST = 16  # of any side of a matrix product
DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}


def forward(
    gates: Any,
    x: list[Tensor],
    w: list[Tensor],
    numbers: list[float],
    k: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    sums: Tensor | None,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Fill y [B, T, heads, V], the last state [B, heads, K, V] and, unless they are empty, what is read, like y, the
    normaliser [B, T, heads] and the sums of the keys that it is read of [B, heads, K].

    x: [B, T, heads, V] or [B, T, heads]. w: [heads, V] or [heads].
    """
    y, last, read, norm, last_sums = outputs
    constants = head_constants(gates, x, numbers, k, q, pos, start)
    with torch.cuda.device_of(y):
        chunked_forward[grid_of(y, constants)](
            tuple(x), tuple(w), k, q, pos, start, sums, y, last, *map(_filled, (last_sums, read, norm)),
            *sizes_of(k, y, q), OUT=gates.read and gates.read.device, **constants,
            num_warps=warps_of(constants), num_stages=stages_of(constants),
        )  # fmt: skip


def backward(
    gates: Any,
    x: list[Tensor],
    w: list[Tensor],
    numbers: list[float],
    k: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    sums: Tensor | None,
    made: tuple[Tensor, Tensor, Tensor, Tensor],
    incoming: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
) -> list[Tensor]:
    """The gradients of x, w, k, q and of the states that came in.

    made: what `forward` did behind y. incoming: the gradients of y, the last state, the normaliser and the last sums.
    """
    last, read, norm, last_sums = made
    dy, dlast, d_norm, d_last_sums = incoming
    constants = head_constants(gates, x, numbers, k, q, pos, start, backward=True)
    grid, options = grid_of(dy, constants), {"num_warps": 8, "num_stages": stages_of(constants)}
    constants["OUT_GRAD"] = gates.read and gates.read.grad
    reads, norms, slices, dstate = _filled(read), _filled(norm), grid[0], torch.empty_like(last)
    d_sums = last_sums.new_empty(slices, *last_sums.shape)
    dk, dq = (z.new_empty(slices, *dy.shape[:3], z.shape[-1]) for z in (k, q))
    shares = last.new_empty(slices, *dy.shape[:3])
    dx = [torch.empty_like(z) if z.dim() == 4 else torch.empty_like(shares) for z in x]
    programs = {True: dy.shape[:1], False: (slices, dy.shape[0])}
    dw = [last.new_empty((*programs[z.dim() == 2], *z.shape)) for z in w]
    with torch.cuda.device_of(dy):
        chunked_backward_queries[grid](
            tuple(x), tuple(w), k, q, pos, start, sums, dy, d_norm, reads, norms, dq, shares, *sizes_of(k, dy, q),
            **constants, **options,
        )  # fmt: skip
        constants["CONTINUED"] = dlast is not None
        chunked_backward_keys[grid](
            tuple(x), tuple(w), k, q, pos, last, _filled(last_sums), dlast, d_last_sums, dy, d_norm, reads, norms, dk,
            tuple(dx), tuple(dw), dstate, _filled(d_sums), shares, *sizes_of(k, dy, q),
            GATES_GRAD=gates.grad, **constants, **options,
        )  # fmt: skip
    found = [d if z.dim() == 4 else d.sum(0).to(z.dtype) for d, z in zip(dx, x, strict=True)]
    found += [d.flatten(0, -z.dim() - 1).sum(0).to(z.dtype) for d, z in zip(dw, w, strict=True)]
    return [
        *found,
        over_programs(dk, k),
        over_programs(dq, q),
        dstate,
        d_sums.sum(0) if gates.normalised else d_sums[0],
    ]


def _filled(x: Tensor) -> Tensor | None:
    """A tensor, if there is anything in it."""
    return x if x.numel() else None


def head_constants(
    gates: Any,
    x: list[Tensor],
    numbers: list[float],
    k: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    backward: bool = False,
) -> dict[str, Any]:
    """The constants of the kernels with a decay per head."""
    v = x[0]
    narrow, constants = tile_constants(k, v, q, pos, start)
    has_gates = gates.device is not None
    least = 64 if arch_of(v) >= 90 and not has_gates else 32
    if backward and constants["BK"] > least and (arch_of(v) < 100 or has_gates or gates.normalised):
        constants["Q"] = min(constants["Q"], 32)  # of longer chunks, or of gates beside them, some would be in memory
    return constants | {
        "X": gates.x_values,
        "W": gates.w_values,
        "NUMBERS": tuple(numbers),
        "GATES": gates.device,
        "NORMALISED": gates.normalised,
        "RAGGED": v.shape[3] % constants["BV"] != 0,
        "LEAST": -746.0 if narrow is torch.float64 else -104.0,  # of which the exponential is zero
    }


def over_programs(x: Tensor, like: Tensor) -> Tensor:
    """Shares [slices, B, T, heads, K] of the programs, added up over slices and over heads with the same keys."""
    whole: Tensor = x.unflatten(3, (like.shape[2], -1)).sum((0, 4))
    return whole.to(like.dtype)


def sizes_of(k: Tensor, v: Tensor, q: Tensor) -> tuple[int, ...]:
    """time, heads, K, V, heads of keys, heads of queries."""
    return v.shape[1], v.shape[2], k.shape[3], v.shape[3], k.shape[2], q.shape[2]


def grid_of(v: Tensor, constants: dict[str, Any]) -> tuple[int, int, int]:
    """Slices of the values, heads, sequences."""
    return triton.cdiv(v.shape[3], constants["BV"]), v.shape[2], v.shape[0]


def tile_constants(
    k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None
) -> tuple[torch.dtype, dict[str, Any]]:
    """The type of the operands of products, and constants of either kind of decay."""
    narrow = _operands(k.dtype, q.dtype, v.dtype)
    if not v.is_cuda:  # the interpreter's product of two bfloat16 is garbage
        narrow = torch.promote_types(narrow, torch.float32)
    chunk, slice_ = _tile(narrow, _side(k.shape[3]), torch.backends.cuda.matmul.allow_tf32)
    return narrow, {
        "PACKED": pos is not None,
        "CONTINUED": start is not None,
        "Q": min(_side(v.shape[1]), chunk),
        "BK": _side(k.shape[3]),
        "BV": min(_side(v.shape[3]), slice_),
        "DOT": DOTS[narrow],
        "ACC": tl.float64 if narrow is torch.float64 else tl.float32,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
    }


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


def warps_of(constants: dict[str, Any]) -> int:
    """Warps of a program, by its keys."""
    return 4 if constants["BK"] <= 64 else 8


def stages_of(constants: dict[str, Any]) -> int:
    """Chunks that are loaded at once."""
    return 2 if constants["BK"] <= 128 else 1
