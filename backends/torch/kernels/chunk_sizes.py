"""How a scan of outer products is cut: tokens of a chunk, and on a GPU keys of a part."""

SHORTEST, LONGEST = 16, 128  # tokens of a chunk of operations on tensors
COUNTED = 64  # tokens of a chunk on a GPU, for the count of matrix operations: tiles differ from chip to chip
MOST_KEYS = 128  # that fit into the registers of a program with the rest, on every GPU from Ampere on


def chunk_length(tokens: int, keys: int, values: int) -> int:
    """Tokens of a chunk of operations on tensors, a power of two, for heads of so many keys and values.

    A token meets as many others as a chunk has, and its share of the state is keys values / chunk: the fastest length
    was near half the root of keys times values at every size tried (`python -m benchmarks.scans`).
    """
    length = SHORTEST
    while length < LONGEST and 8 * length**2 <= keys * values:  # the power of two that is nearest
        length *= 2
    return min(length, power_of_two(tokens))


def counted_length(tokens: int) -> int:
    """Tokens of a chunk on a GPU as they are counted."""
    return min(COUNTED, power_of_two(tokens))


def power_of_two(size: int) -> int:
    """The least power of two that is not below a size."""
    return 1 << (size - 1).bit_length()


def key_parts(keys: int) -> tuple[int, int]:
    """In how many parts the keys of a head run on a GPU, and how many each has, zeros filling up the last one.

    >>> key_parts(128), key_parts(256), key_parts(131)
    ((1, 128), (2, 128), (2, 66))
    """
    parts = -(-keys // MOST_KEYS)
    return parts, -(-keys // parts)
