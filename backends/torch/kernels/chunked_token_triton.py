"""One token of a scan of outer products as a Triton kernel: gates, update and read-out, every state touched once."""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl
from kernels.chunked_gates_triton import gated, starting, tokens, weights


@triton.jit
def outer_token(
    xs, ws, k, q, pos, state, sums, y, last, last_sums, norms, heads, k_heads, q_heads, K, V,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, OUT: tl.constexpr,
    NORMALISED: tl.constexpr, RAGGED: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y [B, heads, V] and the states after it, last [B, heads, K, V], of k [B, k_heads, K] and q likewise.

    xs: [B, heads, V], or [B, heads] where not X; with ws, GATES and OUT as for `chunked_forward`. pos: [B]; a document
    starts from zero. NORMALISED: sums and last_sums [B, heads, K], norms [B, heads] or None. Program (slice of the
    values, head, sequence); all keys are in one tile.
    """
    h = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BK)
    p = tl.program_id(0) * BV + tl.arange(0, BV)
    r = tl.arange(0, 1)
    here = (n < K)[:, None] & (p < V)[None, :]
    row = b * heads + h
    at = row * K * V + n[:, None] * V + p[None, :]
    starts = starting(pos, b, 0, r, 1, True)
    x = tokens(xs, b, r, p, 1, h, heads, V, X, GATES, RAGGED, ACC)
    w = weights(ws, p, h, V, W, NUMBERS, RAGGED, ACC)
    log, value = gated(x, w, starts, r, p, 1, V, GATES, ACC)
    key = tl.load(k + (b * k_heads + h // (heads // k_heads)) * K + n, mask=n < K, other=0.0).to(ACC)
    query = tl.load(q + (b * q_heads + h // (heads // q_heads)) * K + n, mask=n < K, other=0.0).to(ACC)
    S = tl.load(state + at, mask=here, other=0.0).to(ACC)
    S = tl.where(tl.load(pos + b) == 0, 0.0, S)
    after = tl.exp(log)[:, None] * S + key[:, None] * value.to(ACC)
    out = tl.sum(query[:, None] * after, 0)[None, :]
    if NORMALISED:
        z = tl.load(sums + row * K + n, mask=n < K, other=0.0).to(ACC)
        z = tl.exp(log) * tl.where(tl.load(pos + b) == 0, 0.0, z) + key
        norm = tl.sum((query * z)[:, None], 0)[None, :]
        first = tl.program_id(0) == 0
        tl.store(last_sums + row * K + n, z, mask=(n < K) & first)
        if norms is not None:
            tl.store(norms + row + tl.zeros((1, 1), tl.int32), norm, mask=first)
        x = x + (norm,)
    if OUT is not None:
        out = OUT(out, x, w)
    tl.store(y + row * V + p[None, :], out.to(y.dtype.element_ty), mask=(p < V)[None, :])
    tl.store(last + at, after, mask=here)
