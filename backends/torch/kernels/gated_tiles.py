"""Tiles of the gated scans by pass and chip, and how many pieces time is cut into."""

from typing import Literal, NamedTuple

SPAN = 32  # tokens between the states that the forward pass keeps for the backward pass
ENOUGH = 400  # programs that keep a GPU busy; below, time is cut
WANTED = 600  # programs aimed at when it is
SHORTEST = 256  # tokens of a piece at least
OFFSETS = 1 << 30  # elements of a piece at most: offsets inside of it are 32 bits


class Tile(NamedTuple):
    """Tokens in a row that a thread holds, such segments side by side, channels, warps."""

    steps: int
    segments: int
    channels: int
    warps: int

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return self.steps * self.segments

    @property
    def sizes(self) -> dict[str, int]:
        """The constants of the kernels."""
        return {"K": self.steps, "S": self.segments, "BC": self.channels}


Pass = Literal["one token", "forward", "backward", "pieces", "complex", "complex backward"]
ONE_TOKEN = Tile(1, 1, 64, 1)
WIDE = Tile(8, 2, 64, 1)  # fewest instructions an element
TALL = Tile(8, 8, 32, 4)  # most loads under way
LOW = Tile(8, 4, 32, 4)  # room for what the gradient needs, three programs a multiprocessor
SMALL = Tile(2, 16, 16, 1)  # the interpreter, where every step is a call

PASSES: tuple[Pass, ...] = ("forward", "backward", "pieces", "complex", "complex backward")
FAST: dict[Pass, tuple[Tile, Tile]] = {
    "forward": (TALL, WIDE),
    "backward": (LOW, LOW),
    "pieces": (TALL, TALL),
    "complex": (LOW, LOW),  # forward and in pieces: every number is two
    "complex backward": (LOW, LOW),
}

# By compute capability, the passes with few programs and, from `MANY` up, with many.
MANY = 1500
TILES: dict[int, dict[Pass, tuple[Tile, Tile]]] = {
    0: dict.fromkeys(PASSES, (SMALL, SMALL)),
    80: FAST,
    90: FAST,
    100: FAST,
}


def tile_of(kind: Pass, arch: int, programs: int) -> Tile:
    """The tile of a pass for a compute capability (90: Hopper) and a number of programs of 64 channels."""
    if kind == "one token":
        return ONE_TOKEN
    known = max(each for each in TILES if each <= arch)
    return TILES[known][kind][programs >= MANY]


def piece_length(batch: int, time: int, channels: int, arch: int) -> int:
    """Tokens of a piece of time: all of them if batch and channels make programs enough or offsets allow no less.

    One pass reads an element once, pieces read it twice (14 bytes instead of 8 for three inputs in half precision).
    """
    programs = batch * _ceil(channels, TALL.channels)
    pieces = 1 if programs >= ENOUGH else min(_ceil(WANTED, programs), time // SHORTEST)
    pieces = max(pieces, _ceil(time * channels, OFFSETS), 1)
    unit = max(SPAN, tile_of("pieces", arch, programs).tokens)
    return _ceil(_ceil(time, pieces), unit) * unit if pieces > 1 else time


def _ceil(length: int, unit: int) -> int:
    return -(-length // unit)
