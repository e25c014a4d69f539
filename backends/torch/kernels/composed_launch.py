"""The launches of attention with composed heads: tiles, arguments, and what is added up over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from kernels.composed_back_triton import composed_back_keys, composed_back_queries
from kernels.composed_tiles import Pass, tile_of
from kernels.composed_triton import composed_normalisers, composed_values
from torch import Tensor

DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}
EVERY = 0x7FFFFFFF  # a window that ends nowhere
SMALLEST = 16  # of any side of a matrix product


class Read(NamedTuple):
    """What a composition reads: tokens [B, T or S, planes, heads or 1] on either side, and weights.

    A weight is planes [1, planes, heads or 1] or a matrix [heads, heads].
    """

    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


def forward(
    composed: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: list[Tensor],
    weights: list[Tensor],
    pos: Tensor | None,
    window: int,
    scale: float,
    y: Tensor,
    lse: Tensor,
) -> None:
    """Fill y [B, T, heads, value] and lse [B, heads, T], the logarithms of the normalisers; window 0: all keys."""
    first, second = reads(composed, tokens, weights)
    (batch, time), count = q.shape[:2], k.shape[1]
    sizes = (time, count, window or EVERY, scale)
    shared = _constants(composed, q, k, v, pos, [first, second])
    with torch.cuda.device_of(q):
        constants = _tiled("normalisers", shared, q, None)
        grid = (*_grid(time, constants["BQ"], None, constants), batch)
        composed_normalisers[grid](q, k, *first, pos, lse, *sizes, **constants)
        constants = _tiled("values", shared, q, y)
        grid = (*_grid(time, constants["BQ"], y, constants), batch)
        composed_values[grid](q, k, v, *first, *second, pos, lse, y, *sizes, **constants)


def backward(
    composed: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: list[Tensor],
    weights: list[Tensor],
    pos: Tensor | None,
    window: int,
    scale: float,
    lse: Tensor,
    dy: Tensor,
) -> list[Tensor]:
    """The gradients of q, k, v, tokens and weights."""
    both = reads(composed, tokens, weights)
    (batch, time), count = q.shape[:2], k.shape[1]
    arrays = (q, k, v, dy, *both[0], *both[1], pos)
    sizes = (time, count, window or EVERY, scale)
    shared = _constants(composed, q, k, v, pos, both)
    shared["BEFORE_GRAD"], shared["AFTER_GRAD"] = (mix and mix.grad for mix in (composed.before, composed.after))
    delta = torch.empty_like(lse)
    outputs = [torch.empty_like(x) for x in (q, k, v)]
    found: list[Read] = []
    with torch.cuda.device_of(q):
        for last, kind, summed, read in ((False, "deltas", None, both[1]), (True, "queries", outputs[0], both[0])):
            constants = _tiled(kind, shared, q, summed)
            blocks, columns = _grid(time, constants["BQ"], summed, constants)
            dqs = tuple(torch.empty_like(x) for x in read.queries)
            dws = tuple(lse.new_empty(batch * blocks, *w.shape[-2:]) for w in read.weights)
            composed_back_queries[(blocks, columns, batch)](
                *arrays, lse, delta, summed, dqs, dws, *sizes, LAST=last, **constants
            )
            found.append(Read(dqs, (), dws))
        for last, kind, summed, read in (
            (False, "values back", outputs[2], both[1]),
            (True, "keys", outputs[1], both[0]),
        ):
            constants = _tiled(kind, shared, q, summed)
            blocks, columns = _grid(count, constants["BK"], summed, constants)
            ends = None if pos is None else _ends(pos, count, constants["BK"])
            dks = tuple(torch.empty_like(x) for x in read.keys)
            composed_back_keys[(blocks, columns, batch)](
                *arrays, ends, lse, delta, summed, dks, *sizes, LAST=last, **constants
            )
            found[last] = found[last]._replace(keys=dks)
    return [*outputs, *_in_order(composed, found), *_whole(found, weights)]


def reads(composed: Any, tokens: list[Tensor], weights: list[Tensor]) -> list[Read]:
    """What the compositions before and after the softmax read, of the tokens and weights of both."""
    found = []
    for mix in (composed.before, composed.after):
        sides, shapes = (mix.sides, mix.shapes) if mix else ("", "")
        own, tokens = tokens[: len(sides)], tokens[len(sides) :]
        held, weights = weights[: len(shapes)], weights[len(shapes) :]
        queries, keys = (tuple(x for x, at in zip(own, sides, strict=True) if at == side) for side in "qk")
        found.append(Read(queries, keys, tuple(held)))
    return found


def _planes(arrays: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Three numbers of each: how many planes, 0 for a matrix; heads or 1; how many planes and matrices come before."""
    found: list[int] = []
    first = 0
    for x in arrays:
        count = 0 if x.dim() == 2 else x.shape[-2]
        found += (count, x.shape[-1], first)
        first += count or 1
    return tuple(found)


def _constants(composed: Any, q: Tensor, k: Tensor, v: Tensor, pos: Tensor | None, both: list[Read]) -> dict[str, Any]:
    """What all passes are told."""
    narrow = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if not q.is_cuda:  # the interpreter's product of two bfloat16 is garbage
        narrow = torch.promote_types(narrow, torch.float32)
    before, after = (None if mix is None else mix.device for mix in (composed.before, composed.after))
    matrices = any(w.dim() == 2 for read in both for w in read.weights)
    heads, dim = q.shape[2:]
    return {
        "BEFORE": before,
        "AFTER": after,
        **{f"BEFORE_{side}": _planes(arrays) for side, arrays in zip("QKW", both[0], strict=True)},
        **{f"AFTER_{side}": _planes(arrays) for side, arrays in zip("QKW", both[1], strict=True)},
        "PACKED": pos is not None,
        "H": heads,
        "D": dim,
        "E": v.shape[3],
        "HP": max(SMALLEST if matrices else 1, triton.next_power_of_2(heads)),
        "DOT": DOTS[narrow],
        "ACC": tl.float64 if narrow is torch.float64 else tl.float32,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
    }


def _tiled(kind: Pass, constants: dict[str, Any], q: Tensor, summed: Tensor | None) -> dict[str, Any]:
    """A pass with its tile; summed: what gets its sums [B, T or S, heads, columns]."""
    columns = 0 if summed is None else summed.shape[3]
    tile = tile_of(kind, _arch(q), constants["HP"], constants["D"], columns)
    return {
        **constants,
        "BQ": tile.queries,
        "BK": tile.keys,
        "SLICE": tile.slice,
        "WIDTHS": tile.widths,
        "COLUMNS": sum(tile.widths),
        "num_warps": tile.warps,
        "num_stages": 1,
    }


def _grid(tokens: int, block: int, summed: Tensor | None, constants: dict[str, Any]) -> tuple[int, int]:
    """Blocks of tokens, and of columns."""
    columns = 1 if summed is None else triton.cdiv(summed.shape[3], constants["COLUMNS"])
    return triton.cdiv(tokens, block), columns


def _ends(pos: Tensor, count: int, block: int) -> Tensor:
    """For each block of the `count` keys the first query whose document begins behind it: [B, blocks].

    Of queries at pos [B, T] the documents begin at places that never fall.
    """
    places = torch.arange(count - pos.shape[1], count, device=pos.device, dtype=torch.int32)
    lasts = torch.arange(block - 1, count + block - 1, block, device=pos.device, dtype=torch.int32)
    starts = (places - pos).to(torch.int32).contiguous()
    return torch.searchsorted(starts, lasts.expand(len(pos), -1).contiguous(), right=True, out_int32=True)


def _in_order(composed: Any, found: list[Read]) -> list[Tensor]:
    """The gradients of tokens, in the order of the tokens."""
    ordered = []
    for mix, read in zip((composed.before, composed.after), found[::-1], strict=True):
        sides = {"q": iter(read.queries), "k": iter(read.keys)}
        ordered += [next(sides[side]) for side in (mix.sides if mix else "")]
    return ordered


def _whole(found: list[Read], weights: list[Tensor]) -> list[Tensor]:
    """The gradients of weights, from the shares of programs."""
    shares = (*found[1].weights, *found[0].weights)
    return [share.sum(0).reshape(w.shape).to(w.dtype) for share, w in zip(shares, weights, strict=True)]


def _arch(x: Tensor) -> int:
    """The compute capability of a tensor's device, ten times the major and the minor number; 0 for the interpreter."""
    if not x.is_cuda:
        return 0
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor
