"""One token of a scan of outer products as a Triton kernel: decay, update and read-out, every state touched once."""
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def outer_token(
    log_a, k, v, q, pos, state, y, last, heads, k_heads, q_heads, K, V,
    PER_KEY: tl.constexpr, BEFORE: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y [B, heads, V] and the states after it, last [B, heads, K, V], of k [B, k_heads, K], v and q likewise.

    log_a: [B, heads], PER_KEY [B, heads, K]. pos: [B]; a document starts from zero. BEFORE: y is read from the state
    before the update. Program (slice of the values, head, sequence); all keys are in one tile.
    """
    h = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BK)
    p = tl.program_id(0) * BV + tl.arange(0, BV)
    here = (n < K)[:, None] & (p < V)[None, :]
    row = b * heads + h
    at = row * K * V + n[:, None] * V + p[None, :]
    if PER_KEY:
        decay = tl.exp(tl.load(log_a + row * K + n, mask=n < K, other=0.0).to(ACC))[:, None]
    else:
        decay = tl.exp(tl.load(log_a + row).to(ACC))
    key = tl.load(k + (b * k_heads + h // (heads // k_heads)) * K + n, mask=n < K, other=0.0).to(ACC)
    query = tl.load(q + (b * q_heads + h // (heads // q_heads)) * K + n, mask=n < K, other=0.0).to(ACC)
    value = tl.load(v + row * V + p, mask=p < V, other=0.0).to(ACC)
    S = tl.load(state + at, mask=here, other=0.0).to(ACC)
    S = tl.where(tl.load(pos + b) == 0, 0.0, S)
    after = decay * S + key[:, None] * value[None, :]
    read = S if BEFORE else after
    tl.store(y + row * V + p, tl.sum(query[:, None] * read, 0).to(y.dtype.element_ty), mask=p < V)
    tl.store(last + at, after, mask=here)
