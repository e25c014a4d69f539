"""The launches of the scan of outer products with a decay per key: tiles, and sums over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
from kernels.chunk_sizes import MOST_KEYS, key_parts
from kernels.chunked_key_gates_triton import KINDS, as_they_are, as_they_are_grad
from kernels.chunked_key_token_triton import key_token
from kernels.chunked_key_triton import chunked_key_backward_keys, chunked_key_backward_queries, chunked_key_forward
from kernels.chunked_launch import (
    SMALLEST,
    Tile,
    accumulated,
    filled,
    grid_of,
    tile_constants,
    token_tile,
)
from kernels.gated_operator import Given, Result
from torch import Tensor

FORWARD = QUERIES = {MOST_KEYS: Tile(SMALLEST, 64, 4)}
KEYS = {64: Tile(SMALLEST, 64, 4), MOST_KEYS: Tile(SMALLEST, 64, 8)}
"""As in `chunked_launch`."""


def key_forward(gates: Any, given: Given, result: Result) -> None:
    """Fill y [B, T, heads, V], the last state [B, heads, K, V] and, unless it is empty, what is read, like y."""
    if given.one_token:
        _token(gates, given, result)
        return
    constants, y = _constants(FORWARD, gates, given, result.last), result.y
    parts = constants["PARTS"]
    assert parts == 1 or gates.read is None, "what follows needs what all keys read"
    each = y if parts == 1 else y.new_empty(parts, *y.shape)
    with torch.cuda.device_of(y):
        chunked_key_forward[_grid(y, constants)](
            tuple(given.x), tuple(given.w), given.pos, given.start, each, result.last, filled(result.kept),
            *_sizes(result), OUT=gates.read and gates.read.device, BONUS=gates.bonus, **constants,
        )  # fmt: skip
    if parts > 1:
        y.copy_(each.sum(0, dtype=result.last.dtype))


def _token(gates: Any, given: Given, result: Result) -> None:
    batch, heads, keys, values = result.last.shape
    rows, columns = token_tile(keys, values)
    with torch.cuda.device_of(result.y):
        key_token[(triton.cdiv(values, columns), heads, batch)](
            tuple(given.x), tuple(given.w), given.pos, given.start, result.y, result.last, heads, keys, values,
            OUT=gates.read and gates.read.device, BONUS=gates.bonus, **_gates(gates, given, heads),
            RAGGED=(values % columns != 0, keys != rows), BK=rows, BV=columns,
            ACC=accumulated(result.last.dtype), num_warps=4,
        )  # fmt: skip


def key_backward(gates: Any, given: Given, result: Result, dlast: Tensor | None) -> list[Tensor]:
    """The gradients of x, w and of the state that came in; `result.y` holds that of y."""
    dy, last = result.y, result.last
    of_queries, of_keys = (
        _constants(tiles, gates, given, last) | {"OUT_GRAD": gates.read and gates.read.grad}
        for tiles in (QUERIES, KEYS)
    )
    grid, parts = _grid(dy, of_keys), of_keys["PARTS"]
    assert grid == _grid(dy, of_queries), "one kernel leaves shares of its slices to the other"
    shares = {"head": grid[0], "value": parts, "key": grid[0] // parts}
    dq, dstate = last.new_empty(shares["key"], *dy.shape[:3], last.shape[2]), torch.empty_like(last)
    dx = [_gradient(z, shares[of], dy, last) for z, of in zip(given.x, gates.x_of, strict=True)]
    dw = [last.new_empty(shares[of], dy.shape[0], *z.shape) for z, of in zip(given.w, gates.w_of, strict=True)]
    inputs = tuple(given.x), tuple(given.w), given.pos
    with torch.cuda.device_of(dy):
        chunked_key_backward_queries[grid](
            *inputs, given.start, dy, filled(result.kept), dq, *_sizes(result), **of_queries
        )
        of_keys["CONTINUED"] = dlast is not None
        chunked_key_backward_keys[grid](
            *inputs, last, dlast, dy, filled(result.kept), dq, tuple(dx), tuple(dw), dstate, *_sizes(result),
            GATES_GRAD=gates.grad or as_they_are_grad, BONUS=gates.bonus, **of_keys,
        )  # fmt: skip
    found = [_over_programs(d, z) for d, z in zip(dx, given.x, strict=True)]
    found += [d.sum((0, 1)).to(z.dtype) for d, z in zip(dw, given.w, strict=True)]
    return [*found, dstate]


def _constants(tiles: dict[int, Tile], gates: Any, given: Given, last: Tensor) -> dict[str, Any]:
    keys, values = last.shape[2:]
    parts, part = key_parts(keys)
    narrow = next((z for z in given.x if z.element_size() == 2), given.x[0])
    like = last.new_empty((1, 1, 1, part), dtype=narrow.dtype)
    constants = tile_constants(tiles, like, given.x[0], like, given.pos, given.start)[1] | {"Q": SMALLEST}
    ragged = (values % constants["BV"] != 0, keys != parts * constants["BK"])
    return constants | _gates(gates, given, last.shape[1]) | {"RAGGED": ragged, "PART": part, "PARTS": parts}


def _grid(y: Tensor, constants: dict[str, Any]) -> tuple[int, int, int]:
    """Slices of the values and parts of the keys, heads, sequences."""
    slices, heads, batch = grid_of(y, constants)
    return slices * constants["PARTS"], heads, batch


def _gates(gates: Any, given: Given, heads: int) -> dict[str, Any]:
    """The constants that say what the gates are, and what each of their arrays is of."""
    return {
        "X": tuple(KINDS[kind] for kind in gates.x_of),
        "W": tuple(KINDS[kind] for kind in gates.w_of),
        "SHARED": tuple(heads // z.shape[2] for z in given.x),
        "NUMBERS": tuple(given.numbers),
        "GATES": gates.device or as_they_are,
        "BEFORE": gates.before,
    }


def _sizes(result: Result) -> tuple[int, ...]:
    """time, heads, K, V."""
    return result.y.shape[1], *result.last.shape[1:]


def _gradient(x: Tensor, shares: int, dy: Tensor, last: Tensor) -> Tensor:
    """Where the gradient of a token goes: into an array like it if one program has all of it, else [shares, ..]."""
    if shares == 1 and x.shape[2] == dy.shape[2]:
        return torch.empty_like(x)
    return last.new_empty(shares, *dy.shape[:3], *x.shape[3:])


def _over_programs(d: Tensor, x: Tensor) -> Tensor:
    """Shares of programs, added up over slices and over heads that share a token."""
    if d.shape == x.shape:
        return d
    return d.unflatten(3, (x.shape[2], -1)).sum((0, 4)).to(x.dtype)
