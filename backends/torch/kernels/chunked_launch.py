"""The launches of the scan of outer products with a decay per head: tiles, and sums over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from kernels.chunk_sizes import MOST_KEYS
from kernels.chunked_arguments import Outer, Result
from kernels.chunked_back_triton import chunked_backward_keys, chunked_backward_queries
from kernels.chunked_token_triton import outer_token
from kernels.chunked_triton import chunked_forward
from kernels.gated_operator import Given
from torch import Tensor

SMALLEST = 16  # of any side of a matrix product
ONE_TOKEN = 2048  # elements of the state that a program of a single token holds, at most


class Tile(NamedTuple):
    """Tokens of a chunk, values of a slice, warps of a program, chunks that are loaded at once."""

    tokens: int
    values: int
    warps: int
    stages: int = 2


FORWARD = {64: Tile(32, 64, 4), MOST_KEYS: Tile(32, 64, 8)}
QUERIES = {64: Tile(32, 64, 4), MOST_KEYS: Tile(32, 64, 8)}
KEYS = {64: Tile(32, 64, 4, stages=1), MOST_KEYS: Tile(16, 64, 8)}
"""By keys, at most: the tiles with the fewest instructions an element of which nothing has to leave the registers, also
with the gates of Mamba-2 inside, on every GPU from Ampere on."""
EXACT = Tile(SMALLEST, SMALLEST, 8, stages=1)
"""Of products in full precision, which matrix units do not have: both factors are in registers."""
DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}


def forward(gates: Any, given: Given, result: Result) -> None:
    """Fill all of the result that is not empty."""
    if given.one_token:
        _token(gates, given, result)
        return
    y, (k, q, sums) = result.y, Outer(*given.outer)
    constants = _constants(FORWARD, gates, given)
    with torch.cuda.device_of(y):
        chunked_forward[grid_of(y, constants)](
            tuple(given.x), tuple(given.w), k, q, given.pos, given.start, sums, y, result.last,
            *map(filled, (result.last_sums, result.kept, result.norm)), *sizes_of(k, y, q),
            OUT=gates.read and gates.read.device, **constants,
        )  # fmt: skip


def _token(gates: Any, given: Given, result: Result) -> None:
    (k, q, sums), (batch, heads, keys, values) = Outer(*given.outer), result.last.shape
    rows, columns = token_tile(keys, values)
    with torch.cuda.device_of(result.y):
        outer_token[(triton.cdiv(values, columns), heads, batch)](
            tuple(given.x), tuple(given.w), k, q, given.pos, given.start, sums, result.y, result.last,
            *map(filled, (result.last_sums, result.norm)), heads, k.shape[2], q.shape[2], keys, values,
            **_equations(gates, given), OUT=gates.read and gates.read.device, RAGGED=values % columns != 0,
            BK=rows, BV=columns, ACC=accumulated(result.last.dtype), num_warps=4,
        )  # fmt: skip


def backward(
    gates: Any,
    given: Given,
    result: Result,
    dlast: Tensor | None,
    d_norm: Tensor | None,
    d_last_sums: Tensor | None,
) -> list[Tensor]:
    """The gradients of x, w, k, q, and of the sums and the state that came in; `result.y` holds that of y."""
    dy, last, (k, q, sums) = result.y, result.last, Outer(*given.outer)
    if gates.normalised and (dlast is None) != (d_last_sums is None):
        dlast, d_last_sums = _or_zeros(dlast, last), _or_zeros(d_last_sums, result.last_sums)
    if gates.normalised and gates.read is None:
        d_norm = _or_zeros(d_norm, result.norm)
    of_queries, of_keys = (
        _constants(tiles, gates, given) | {"OUT_GRAD": gates.read and gates.read.grad} for tiles in (QUERIES, KEYS)
    )
    grid = grid_of(dy, of_keys)
    assert grid == grid_of(dy, of_queries), "one kernel leaves shares of its slices to the other"
    slices, reads, norms, dstate = grid[0], filled(result.kept), filled(result.norm), torch.empty_like(last)
    d_sums = last.new_empty(slices, *result.last_sums.shape)
    dk, dq = (z.new_empty(slices, *dy.shape[:3], z.shape[-1]) for z in (k, q))
    shares = last.new_empty(slices, *dy.shape[:3])
    dx = [torch.empty_like(z) if z.dim() == 4 else torch.empty_like(shares) for z in given.x]
    programs = {True: dy.shape[:1], False: (slices, dy.shape[0])}
    dw = [last.new_empty((*programs[z.dim() == 2], *z.shape)) for z in given.w]
    inputs, gradients = (tuple(given.x), tuple(given.w), k, q, given.pos), (dy, d_norm, reads, norms)
    with torch.cuda.device_of(dy):
        chunked_backward_queries[grid](
            *inputs, given.start, sums, *gradients, dq, shares, *sizes_of(k, dy, q), **of_queries
        )
        of_keys["CONTINUED"] = dlast is not None
        chunked_backward_keys[grid](
            *inputs, last, filled(result.last_sums), dlast, d_last_sums, *gradients, dk, tuple(dx), tuple(dw), dstate,
            filled(d_sums), shares, *sizes_of(k, dy, q), GATES_GRAD=gates.grad, **of_keys,
        )  # fmt: skip
    found = [d if z.dim() == 4 else d.sum(0).to(z.dtype) for d, z in zip(dx, given.x, strict=True)]
    found += [d.flatten(0, -z.dim() - 1).sum(0).to(z.dtype) for d, z in zip(dw, given.w, strict=True)]
    found += [over_programs(dk, k), over_programs(dq, q)]
    return [*found, *([] if sums is None else [d_sums.sum(0)]), dstate]


def filled(x: Tensor) -> Tensor | None:
    """A tensor, if there is anything in it."""
    return x if x.numel() else None


def _or_zeros(x: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if x is None else x


def _constants(tiles: dict[int, Tile], gates: Any, given: Given) -> dict[str, Any]:
    k, q, _ = Outer(*given.outer)
    v = given.x[0]
    narrow, constants = tile_constants(tiles, k, v, q, given.pos, given.start)
    return {
        **constants,
        **_equations(gates, given),
        "RAGGED": v.shape[3] % constants["BV"] != 0,
        "LEAST": -746.0 if narrow is torch.float64 else -104.0,  # of which the exponential is zero
    }


def _equations(gates: Any, given: Given) -> dict[str, Any]:
    """The constants that say what the gates are."""
    return {
        "X": gates.x_values,
        "W": gates.w_values,
        "NUMBERS": tuple(given.numbers),
        "GATES": gates.device,
        "NORMALISED": gates.normalised,
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
    tiles: dict[int, Tile], k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None
) -> tuple[torch.dtype, dict[str, Any]]:
    """The type of the operands of products, and constants of either kind of decay with the options of the launch.

    tiles: by keys, at most.
    """
    narrow = _operands(k.dtype, q.dtype, v.dtype)
    if not v.is_cuda:  # the interpreter's product of two bfloat16 is garbage
        narrow = torch.promote_types(narrow, torch.float32)
    keys, tf32 = _side(k.shape[3]), torch.backends.cuda.matmul.allow_tf32
    tile = next(tile for most, tile in tiles.items() if keys <= most)
    if narrow.itemsize > 2:
        tile = tile._replace(tokens=SMALLEST) if tf32 and narrow is torch.float32 else EXACT
    return narrow, {
        "PACKED": pos is not None,
        "CONTINUED": start is not None,
        "Q": min(_side(v.shape[1]), tile.tokens),
        "BK": keys,
        "BV": min(_side(v.shape[3]), tile.values),
        "DOT": DOTS[narrow],
        "ACC": accumulated(narrow),
        "PRECISION": "tf32" if tf32 else "ieee",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def token_tile(keys: int, values: int) -> tuple[int, int]:
    """Rows and columns of the state that a program of a single token holds: all keys, and a slice of the values."""
    rows = triton.next_power_of_2(keys)
    return rows, min(triton.next_power_of_2(values), max(8, ONE_TOKEN // rows))


def accumulated(dtype: torch.dtype) -> Any:
    """The type of sums of products of a type."""
    return tl.float64 if dtype is torch.float64 else tl.float32


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


def _side(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())
