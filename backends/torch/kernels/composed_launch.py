"""The launches of attention with composed heads: tiles, arguments, and what is added up over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from kernels.composed_arguments import Given, Planes, Read, in_order, reads
from kernels.composed_back_triton import composed_back_keys, composed_back_queries
from kernels.composed_tiles import SMALLEST, Pass, Sizes, tile_of
from kernels.composed_triton import composed_normalisers, composed_values
from kernels.operators import arch_of
from torch import Tensor

DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}
MANY = 16  # heads
EVERY = 0x7FFFFFFF  # a window that ends nowhere
PASSES: dict[Pass, Any] = {
    "normalisers": composed_normalisers,
    "values": composed_values,
    "deltas": composed_back_queries,
    "queries": composed_back_queries,
    "values back": composed_back_keys,
    "keys": composed_back_keys,
}
OF_KEYS = ("values back", "keys")  # whose programs have a block of keys, not of queries


def constants_of(
    composed: Any, planes: tuple[Planes, Planes], heads: int, sizes: Sizes, packed: bool, backward: bool
) -> dict[str, Any]:
    """What the kernels of all passes are told, but for their tiles; planes: of what is read before and after."""
    found = {
        **composition_constants(composed, planes, heads, sizes),
        "PACKED": packed,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
    }
    before, after = composed.before, composed.after
    return found | ({"BEFORE_GRAD": before and before.grad, "AFTER_GRAD": after and after.grad} if backward else {})


def composition_constants(composed: Any, planes: tuple[Planes, Planes], heads: int, sizes: Sizes) -> dict[str, Any]:
    """What every kernel is told of the compositions and of the heads."""
    before, after = composed.before, composed.after
    return {
        "BEFORE": before and before.device,
        "AFTER": after and after.device,
        **{f"BEFORE_{side}": each for side, each in zip("QKW", planes[0], strict=True)},
        **{f"AFTER_{side}": each for side, each in zip("QKW", planes[1], strict=True)},
        "H": heads,
        "D": sizes.dim,
        "E": sizes.value,
        "HP": sizes.heads,
    }


class Call(NamedTuple):
    """What all passes share: what each composition reads, numbers (T, S, WINDOW), sizes, constants, the chip."""

    reads: tuple[Read, Read]
    numbers: tuple[int, int, int]
    sizes: Sizes
    constants: dict[str, Any]
    arch: int
    batch: int

    def of_pass(self, kind: Pass, columns: int = 0) -> tuple[tuple[int, int, int], dict[str, Any]]:
        """The grid (blocks of tokens, parts of the columns that are summed, sequences) and the constants of a pass."""
        tile = tile_of(kind, self.sizes, self.arch)
        time, count, _ = self.numbers
        blocks = triton.cdiv(count, tile.keys) if kind in OF_KEYS else triton.cdiv(time, tile.queries)
        parts = max(1, triton.cdiv(columns, sum(tile.parts)))
        return (blocks, parts, self.batch), {**self.constants, **tile.constants, "num_warps": tile.warps}


def forward(composed: Any, given: Given, y: Tensor, lse: Tensor) -> None:
    """Fill y [B, T, heads, value] and lse [B, heads, T], the logarithms of the normalisers."""
    q, k, v, pos = given.q, given.k, given.v, given.pos
    call = call_of(composed, given, backward=False)
    first, second = call.reads
    with torch.cuda.device_of(q):
        grid, constants = call.of_pass("normalisers")
        composed_normalisers[grid](q, k, *first, pos, lse, *call.numbers, **constants)
        grid, constants = call.of_pass("values", v.shape[3])
        composed_values[grid](q, k, v, *first, *second, pos, lse, y, *call.numbers, **constants)


def backward(composed: Any, given: Given, lse: Tensor, dy: Tensor) -> list[Tensor]:
    """The gradients of q, k, v, tokens and weights."""
    q, k, v, pos = given.q, given.k, given.v, given.pos
    call = call_of(composed, given, backward=True)
    first, second = call.reads
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    delta = torch.empty_like(lse)
    arrays = (q, k, v, dy, *first, *second, pos)
    ahead = finds_ahead(composed, call.sizes)

    def of_queries(kind: Pass, read: Read, summed: Tensor | None, columns: int, last: bool) -> list[tuple[Tensor, ...]]:
        grid, constants = call.of_pass(kind, columns)
        dqs = tuple(torch.empty_like(x) for x in read.queries)
        shares = tuple(lse.new_empty(grid[0] * grid[2], *w.shape[-2:]) for w in read.weights)
        composed_back_queries[grid](
            *arrays, lse, delta, summed, dqs, shares, *call.numbers, LAST=last, AHEAD=last and ahead, **constants
        )  # fmt: skip
        return [dqs, tuple(s.sum(0).reshape(w.shape).to(w.dtype) for s, w in zip(shares, read.weights, strict=True))]

    def of_keys(kind: Pass, read: Read, summed: Tensor, last: bool) -> tuple[Tensor, ...]:
        grid, constants = call.of_pass(kind, summed.shape[3])
        ends = None if pos is None else ends_of(pos, k.shape[1], constants["BK"])
        dks = tuple(torch.empty_like(x) for x in read.keys)
        composed_back_keys[grid](
            *arrays, ends, lse, delta, summed, dks, *call.numbers, LAST=last, AHEAD=last and ahead, **constants
        )  # fmt: skip
        return dks

    with torch.cuda.device_of(q):
        dqs_after, dws_after = of_queries("deltas", second, None, 0, last=False)
        dqs, dws = of_queries("queries", first, dq, dq.shape[3], last=True)
        after = Read(dqs_after, of_keys("values back", second, dv, last=False), dws_after)
        before = Read(dqs, of_keys("keys", first, dk, last=True), dws)
    return [dq, dk, dv, *in_order(composed.before, before), *in_order(composed.after, after), *dws, *dws_after]


def finds_ahead(composed: Any, sizes: Sizes) -> bool:
    """Whether the last passes find the gradients of weights ahead of these; fewer heads have registers for both."""
    return sizes.heads >= MANY and (composed.after is None or bool(composed.after.linear))


def call_of(composed: Any, given: Given, backward: bool) -> Call:
    """What is launched for these arguments."""
    q, k = given.q, given.k
    first, second = reads(composed, given)
    sizes, types = _types(given)
    planes = first.planes, second.planes
    constants = constants_of(composed, planes, q.shape[2], sizes, given.pos is not None, backward) | types
    numbers = q.shape[1], k.shape[1], given.window or EVERY
    return Call((first, second), numbers, sizes, constants, arch_of(q), q.shape[0])


def common_of(composed: Any, given: Given) -> tuple[Sizes, dict[str, Any]]:
    """The sizes, and what kernels are told whose products are not those of matrices."""
    first, second = reads(composed, given)
    sizes, types = _types(given)
    return sizes, composition_constants(composed, (first.planes, second.planes), given.q.shape[2], sizes) | types


def _types(given: Given) -> tuple[Sizes, dict[str, Any]]:
    """The sizes, the type of operands of products, that of sums, the factor of scores."""
    q, k, v = given.q, given.k, given.v
    narrow = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if not q.is_cuda:  # the interpreter's product of two bfloat16 is garbage
        narrow = torch.promote_types(narrow, torch.float32)
    matrices = any(w.dim() == 2 for w in given.weights)
    types = {
        "DOT": DOTS[narrow],
        "ACC": tl.float64 if narrow is torch.float64 else tl.float32,
        "SCALE": given.scale,
        "num_stages": 1,
    }
    return Sizes(filled(q.shape[2], matrices), q.shape[3], v.shape[3], narrow.itemsize), types


def filled(heads: int, matrices: bool) -> int:
    """Heads of a tile: a power of two, and what a product takes if there are matrices from heads to heads."""
    return max(SMALLEST if matrices else 1, 1 << (heads - 1).bit_length())


def ends_of(pos: Tensor, count: int, block: int) -> Tensor:
    """For each block of the `count` keys the first query whose document begins behind it: [B, blocks].

    Of queries at pos [B, T] the documents begin at places that never fall.
    """
    places = torch.arange(count - pos.shape[1], count, device=pos.device)
    lasts = torch.arange(block - 1, count + block - 1, block, device=pos.device)
    starts = (places - pos).contiguous()
    return torch.searchsorted(starts, lasts.expand(len(pos), -1).contiguous(), right=True, out_int32=True)
