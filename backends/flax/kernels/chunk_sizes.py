"""How a scan of outer products is cut into chunks, as array code and in kernels."""

ON_TPU = 128  # tokens of a chunk in a kernel, a power of two
ON_GPU = 32
ON_GPU_PER_KEY = 16  # with one decay per key, whose decays are held once for each time a chunk is halved
SLICE = 64  # values of a program of a GPU, half as many with one decay for each of many keys
MANY = 128  # keys of a head, more than which are many
MOST = 256  # keys of a head there; of more array code runs
SPAN = 16  # tokens whose decays per key are compared one by one; a chunk of more tokens is a multiple of these
LONGEST = 128  # tokens of a chunk of array code
KEYED = 4  # tokens of the shortest one with a decay per key
LOWEST = -100.0  # a log decay: exp(-100) is nothing in single precision, and sums over a chunk stay exact enough
CACHED = 1 << 20  # values of the states of a head that stay in a cache until the backward pass reads them


def tokens_on_gpu(per_key: bool) -> int:
    """Tokens of a chunk of a GPU."""
    return ON_GPU_PER_KEY if per_key else ON_GPU


def values_of_program(keys: int, per_key: bool) -> int:
    """At most so many values has a program of a GPU."""
    return SLICE // 2 if per_key and keys > MANY else SLICE


def chunk_length(tokens: int, keys: int, values: int) -> int:
    """Tokens of a chunk of array code, for heads of so many keys and values.

    A token meets as many others as a chunk has, and its share of the state is keys values / chunk: the fastest length
    was near a quarter of the root of keys times values at every size tried, twice that for sequences whose states leave
    the cache (`python -m benchmarks.scans`).
    """
    length = SPAN
    while length < LONGEST and 32 * length**2 <= keys * values:  # the power of two that is nearest
        length *= 2
    if tokens * keys * values > length * CACHED:
        length = min(2 * length, LONGEST)
    return min(length, tokens if tokens <= SPAN else -(-tokens // SPAN) * SPAN)


def key_chunk_length(tokens: int, values: int) -> int:
    """The same where each key has a decay.

    Two tokens of a chunk meet in an exponential for each key and no product of matrices, so that the fastest chunks are
    the shortest; the states between them take values / chunk times as much memory as keys.
    """
    length = KEYED
    while length < SPAN and 16 * length < values:
        length *= 2
    return min(length, tokens)
