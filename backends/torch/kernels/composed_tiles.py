"""Tiles of attention with composed heads."""

from typing import Literal, NamedTuple

Pass = Literal["normalisers", "values", "deltas", "queries", "values back", "keys"]


class Tile(NamedTuple):
    """Queries and keys of a tile, how much of a head a product takes at a time, columns that sums have, warps."""

    queries: int
    keys: int
    slice: int
    widths: tuple[int, ...]
    warps: int


def tile_of(kind: Pass, arch: int, heads: int, dim: int, columns: int) -> Tile:
    """The tile of a pass for a compute capability (90: Hopper)."""
    return Tile(16, 16, 16, (16,), 8)
