"""How a scan of outer products is cut into chunks, as array code and in kernels."""

ON_TPU = 128  # tokens of a chunk in a kernel, a power of two
ON_GPU = 64
ON_GPU_PER_KEY = 32  # with one decay per key
SPAN = 16  # tokens whose decays per key are compared one by one; a chunk of more tokens is a multiple of these
LONGEST = 128  # tokens of a chunk of array code
CACHED = 1 << 20  # values of the states of a head that stay in a cache until the backward pass reads them


def chunk_length(tokens: int, keys: int, values: int) -> int:
    """Tokens of a chunk of array code, for heads of so many keys and values.

    A token meets as many others as a chunk has, and its share of the state is keys values / chunk: the fastest length
    was near a quarter of the root of keys times values at every size tried, twice that for sequences whose states leave
    the cache (`python -m benchmarks.scans`).
    """
    length = SPAN
    while length < LONGEST and (4 * length) ** 2 < keys * values:
        length *= 2
    if tokens * keys * values > length * CACHED:
        length = min(2 * length, LONGEST)
    return min(length, tokens if tokens <= SPAN else -(-tokens // SPAN) * SPAN)
