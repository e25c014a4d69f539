"""One token of a scan with a decay per key as a Triton kernel, gates and all: every state touched once."""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.chunked_gates_triton import starting
from kernels.chunked_key_gates_triton import key_gated, key_tokens, key_weights


@triton.jit
def key_token(
    xs, ws, pos, state, y, last, heads, K, V,
    X: tl.constexpr, W: tl.constexpr, SHARED: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr,
    OUT: tl.constexpr, BEFORE: tl.constexpr, BONUS: tl.constexpr, RAGGED: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y [B, heads, V] and the states after it, last [B, heads, K, V]; a document, at pos [B] of 0, starts from zero.

    xs as for `chunked_key_forward`, without time. Program (slice of the values, head, sequence); all keys are in it.
    """
    head = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, 1)
    here = (n < K)[:, None] & (p < V)[None, :]
    row = b * heads + head
    at = row * K * V + n[:, None] * V + p[None, :]
    starts = starting(pos, b, 0, r, 1, True)
    x = key_tokens(xs, b, r, n, p, 1, head, heads, K, V, X, SHARED, RAGGED, ACC)
    w = key_weights(ws, n, p, head, K, V, W, NUMBERS, RAGGED, ACC)
    log, key, value, query, bonus = key_gated(x, w, starts, r, n, p, 1, K, V, GATES, BONUS, ACC)
    S = tl.load(state + at, mask=here, other=0.0).to(ACC)
    S = tl.where(tl.load(pos + b) == 0, 0.0, S)
    after = tl.trans(tl.exp(log)) * S + tl.trans(key) * value
    read = S if BEFORE else after
    out = tl.sum(tl.trans(query) * read, 0)[None, :]
    if BONUS:
        out += tl.sum(query * bonus, 1)[:, None] * value
    if OUT is not None:
        out = OUT(out, x, w)
    tl.store(y + row * V + p[None, :], out.to(y.dtype.element_ty), mask=(p < V)[None, :])
    tl.store(last + at, after, mask=here)
