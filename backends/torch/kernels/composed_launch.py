"""The launches of attention with composed heads: tiles, arguments, and what is added up over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
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

    @property
    def shapes(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Of each how many planes, 0 for a matrix, and heads or 1."""
        tokens = (tuple((x.shape[2], x.shape[3]) for x in side) for side in (self.queries, self.keys))
        return (*tokens, tuple((0 if w.dim() == 2 else w.shape[1], w.shape[-1]) for w in self.weights))


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
    (batch, time), count, value = q.shape[:2], k.shape[1], v.shape[3]
    sizes = (time, count, window or EVERY, scale)
    shared = _constants(composed, q, k, v, pos, [first, second])
    with torch.cuda.device_of(q):
        constants = _tiled("normalisers", shared, q, 0)
        grid = (triton.cdiv(time, constants["BQ"]), 1, batch)
        composed_normalisers[grid](q, k, *first, pos, lse, *sizes, **constants)
        constants = _tiled("values", shared, q, value)
        grid = (triton.cdiv(time, constants["BQ"]), triton.cdiv(value, constants["COLUMNS"]), batch)
        composed_values[grid](q, k, v, *first, *second, pos, lse, y, *sizes, **constants)


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


def _constants(composed: Any, q: Tensor, k: Tensor, v: Tensor, pos: Tensor | None, both: list[Read]) -> dict[str, Any]:
    """What all passes are told."""
    narrow = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if not q.is_cuda:  # the interpreter's product of two bfloat16 is garbage
        narrow = torch.promote_types(narrow, torch.float32)
    before, after = (None if mix is None else mix.device for mix in (composed.before, composed.after))
    matrices = any(w.dim() == 2 for read in both for w in read.weights)
    heads, dim = q.shape[2:]
    return {
        "MIX": before,
        "SHAPES": both[0].shapes,
        "AFTER": after,
        "AFTER_SHAPES": both[1].shapes,
        "PACKED": pos is not None,
        "H": heads,
        "D": dim,
        "E": v.shape[3],
        "HP": max(SMALLEST if matrices else 1, triton.next_power_of_2(heads)),
        "DOT": DOTS[narrow],
        "ACC": tl.float64 if narrow is torch.float64 else tl.float32,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
    }


def _tiled(kind: Pass, constants: dict[str, Any], q: Tensor, columns: int) -> dict[str, Any]:
    """A pass with its tile, for sums of so many columns."""
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


def _arch(x: Tensor) -> int:
    """The compute capability of a tensor's device, ten times the major and the minor number; 0 for the interpreter."""
    if not x.is_cuda:
        return 0
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor
