"""How a scan of outer products is cut: tokens of a chunk, and on a GPU keys of a part."""

COUNTED = 64  # tokens of a chunk on a GPU, for the count of matrix operations: tiles differ from chip to chip
MOST_KEYS = 128  # that fit into the registers of a program with the rest, on every GPU from Ampere on


def key_parts(keys: int) -> tuple[int, int]:
    """In how many parts the keys of a head run on a GPU, and how many each has, zeros filling up the last one.

    >>> key_parts(128), key_parts(256), key_parts(131)
    ((1, 128), (2, 128), (2, 66))
    """
    parts = -(-keys // MOST_KEYS)
    return parts, -(-keys // parts)


def chunk_length(tokens: int, most: int) -> int:
    """The power of two that a chunk of at most `most` tokens has: no more than the sequence needs."""
    return min(most, 1 << (tokens - 1).bit_length())
