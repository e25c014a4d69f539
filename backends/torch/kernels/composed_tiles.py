"""Tiles of attention with composed heads, by heads, sizes of a head and chip.

All heads are in a tile, so their number decides how many pairs of tokens fit into registers. A program has a block of
its own tokens and goes over the others in steps. What it sums for its tokens would fill the registers for large heads,
so programs share the columns out, and each computes the pairs again.
"""

from typing import Any, Literal, NamedTuple

Pass = Literal["normalisers", "values", "deltas", "queries", "values back", "keys"]

SMALLEST = 16  # of a side of a matrix product, but for that of a program's own tokens
HEADS = 32  # whose tiles fit into registers: with more the pairs alone fill them
OLDEST = 80  # compute capability with products of bfloat16
# Bytes of shared memory of a program by compute capability; CUDA C++ Programming Guide 13.0.
SHARED = {0: 0, 80: 166912, 86: 101376, 90: 232448, 110: 101376}


class Sizes(NamedTuple):
    """Heads, filled up to a power of two; what a head has of keys and of values; bytes of a number."""

    heads: int
    dim: int
    value: int
    bytes: int


class Tile(NamedTuple):
    """Queries and keys of a tile; columns of a head that a product of rows takes at a time; the parts, powers of two,
    of the columns that a program sums; whether the rows of its own tokens stay in shared memory over all steps; warps.
    """

    queries: int
    keys: int
    slice: int
    parts: tuple[int, ...]
    keep_rows: bool
    warps: int

    @property
    def constants(self) -> dict[str, Any]:
        """Those of the kernels."""
        return {
            "BQ": self.queries,
            "BK": self.keys,
            "SLICE": self.slice,
            "WIDTHS": self.parts,
            "COLUMNS": sum(self.parts),
            "KEEP_ROWS": self.keep_rows,
        }


class Block(NamedTuple):
    """Own tokens, others, the most columns summed forward and backward, columns of a product at a time, warps."""

    own: int
    others: int
    forward: int
    backward: int
    width: int
    warps: int


# By heads. A product of several matrices gives each warp some of them, so there are no more warps than heads. Sums of
# 32 heads take a register a thread for each column of 8 tokens: all columns in one program spill a little, but shared
# out among two every pair would be computed twice.
BLOCKS = {
    1: Block(16, 32, 128, 64, 32, 1),
    2: Block(16, 32, 128, 64, 32, 2),
    4: Block(16, 32, 128, 64, 32, 4),
    8: Block(16, 32, 128, 64, 32, 8),
    16: Block(8, 16, 128, 128, 16, 8),
    32: Block(8, 16, 128, 128, 16, 8),
}
MOST_HEADS = 128  # at most at all: a tile of a single query has 16 bytes of each key of a head at a time then
LAID_PAIRS = 2048  # of all heads in registers: with twice as many, going back spills
TOKEN_WARPS = 8
TOKEN_PAIRS, MOST_KEYS = 512, 128  # of a tile of a single query
TOKEN_ELEMENTS = 2048  # of keys or values, for each warp
PROGRAMS, LEAST_KEYS = 256, 128  # about two programs for each multiprocessor, but no fewer keys for each
INTERPRETED = Block(16, 16, 48, 48, 32, 1)  # the smallest, in which odd sizes are in parts and shared out


def fits(heads: int, arch: int) -> bool:
    """Whether there are tiles for so many heads on a compute capability (90: Hopper; 0: the interpreter)."""
    return heads <= MOST_HEADS and (arch == 0 or arch >= OLDEST)


def tile_of(kind: Pass, sizes: Sizes, arch: int) -> Tile:
    """The tile of a pass."""
    block = BLOCKS[sizes.heads] if arch else INTERPRETED
    backward, of_keys = kind not in ("normalisers", "values"), kind in ("values back", "keys")
    columns = {"values": sizes.value, "values back": sizes.value, "queries": sizes.dim, "keys": sizes.dim}.get(kind, 0)
    most = block.backward if backward else block.forward
    parts = parts_of(columns, most if sizes.bytes <= 2 or arch == 0 else most // 2, block.width)
    taken = SMALLEST if sizes.bytes > 2 or arch == 0 else block.width
    row = sizes.heads * sizes.bytes
    kept = row * block.own * (sizes.dim + sizes.value * backward)
    step = row * block.others * max(parts[0], 2 * taken)
    limit = next(SHARED[each] for each in sorted(SHARED, reverse=True) if each <= arch)
    keep_rows = kept + step <= limit
    queries, keys = (block.others, block.own) if of_keys else (block.own, block.others)
    return Tile(queries, keys, taken, parts, keep_rows, block.warps)


class LaidTile(NamedTuple):
    """Queries and keys of a block whose pairs are in memory; queries and keys of a part of it that is in registers;
    columns of a head that a product takes at a time; warps.
    """

    size: int
    queries: int
    keys: int
    slice: int
    warps: int

    @property
    def constants(self) -> dict[str, Any]:
        """Those of the kernels."""
        return {"SIZE": self.size, "PQ": self.queries, "PK": self.keys, "SLICE": self.slice}


def laid_tile(sizes: Sizes, arch: int) -> LaidTile:
    """The tile for more heads than `HEADS`.

    >>> laid_tile(Sizes(64, 128, 128, 2), 90)
    LaidTile(size=64, queries=2, keys=16, slice=64, warps=8)
    """
    if not arch:
        return LaidTile(16, 4, 8, 16, 1)
    return LaidTile(64, max(1, LAID_PAIRS // (SMALLEST * sizes.heads)), SMALLEST, 64 if sizes.bytes <= 2 else 32, 8)


class TokenTile(NamedTuple):
    """Of a single query: keys, and columns of a head, of a tile; programs that share the keys; warps."""

    keys: int
    slice: int
    splits: int
    warps: int

    @property
    def constants(self) -> dict[str, Any]:
        """Those of the kernel."""
        return {"BK": self.keys, "SLICE": self.slice, "SPLITS": self.splits}


def token_tile(sizes: Sizes, count: int, batch: int, arch: int) -> TokenTile:
    """The tile for `count` keys of each sequence: as many programs as keep a chip busy, if there are keys for them.

    >>> token_tile(Sizes(32, 80, 80, 2), 2048, 4, 90)
    TokenTile(keys=16, slice=32, splits=16, warps=8)
    """
    warps = TOKEN_WARPS if sizes.heads >= TOKEN_WARPS else 4
    keys = min(MOST_KEYS, max(SMALLEST, TOKEN_PAIRS // sizes.heads))
    width, least = warps * TOKEN_ELEMENTS // (sizes.heads * keys), LEAST_KEYS
    if not arch:  # small, so that there are several of everything
        warps, keys, width, least = 1, 4, 4, 8
    splits = max(1, min(PROGRAMS // batch, count // least))
    slice = min(width, 1 << (max(sizes.dim, sizes.value) - 1).bit_length())
    return TokenTile(keys, slice, 1 << (splits.bit_length() - 1), warps)


def parts_of(columns: int, most: int, width: int) -> tuple[int, ...]:
    """Powers of two, the smallest product at least and `width` at most, whose sum is the columns of each of the
    programs that share them.

    >>> parts_of(80, 80, 32), parts_of(80, 64, 32), parts_of(48, 64, 16), parts_of(7, 64, 32)
    ((32, 32, 16), (32, 16), (16, 16, 16), (16,))
    """
    programs = max(1, -(-columns // most))
    whole, rest = divmod(SMALLEST * max(1, -(-columns // (programs * SMALLEST))), width)
    return (width,) * whole + tuple(1 << bit for bit in range(rest.bit_length() - 1, -1, -1) if rest >> bit & 1)
