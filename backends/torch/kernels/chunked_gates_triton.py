"""What the gates around a scan of outer products read and make, on the tiles of a chunk: for `chunked_triton`.

A tile of tokens is [Q, BV], or [Q, 1] of tokens without values; of weights it is [1, BV] or [1, 1]. Tiles that stand
out over the tokens or the values there are hold others of them again, so that no equation meets a number that is none.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl


@triton.jit
def tokens(
    xs, row, r, p, left, head, heads, V,
    HAS_VALUES: tl.constexpr, GATES: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The tokens r of a chunk that begins in `row`, of which `left` are there: xs [B, T, heads, V] or [B, T, heads].

    RAGGED: not all values p are there. Without gates they are as they come, and zero where there are none.
    """
    at = row * heads + head
    there = tl.minimum(r, left - 1)
    columns = tl.minimum(p, V - 1) if RAGGED else p
    out = ()
    for i in tl.static_range(len(xs)):
        if GATES is None and HAS_VALUES[i]:
            here = (r < left)[:, None] & (p < V)[None, :]
            tile = tl.load(xs[i] + at * V + r[:, None] * (heads * V) + p[None, :], mask=here, other=0.0)
        elif GATES is None:
            tile = tl.load(xs[i] + at + r * heads, mask=r < left, other=0.0).to(ACC)
        elif HAS_VALUES[i]:
            tile = tl.load(xs[i] + at * V + there[:, None] * (heads * V) + columns[None, :]).to(ACC)
        else:
            tile = tl.load(xs[i] + at + there * heads)[:, None].to(ACC)
        out = out + (tile,)
    return out


@triton.jit
def weights(
    ws, p, head, V, HAS_VALUES: tl.constexpr, NUMBERS: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """ws: [heads, V] or [heads]. The numbers stand behind them."""
    columns = tl.minimum(p, V - 1) if RAGGED else p
    out = ()
    for i in tl.static_range(len(ws)):
        if HAS_VALUES[i]:
            tile = tl.load(ws[i] + head * V + columns)[None, :]
        else:
            tile = tl.full((1, 1), 0.0, ACC) + tl.load(ws[i] + head)
        out = out + (tile.to(ACC),)
    for i in tl.static_range(len(NUMBERS)):
        out = out + (NUMBERS[i],)
    return out


@triton.jit
def starting(pos, row, first, r, left, PACKED: tl.constexpr):
    """Whether a document starts at the tokens r of a chunk that begins in `row`, `first` in its sequence."""
    if PACKED:
        return (tl.load(pos + row + r, mask=r < left, other=1) == 0).to(tl.int32)
    else:
        return (first + r == 0).to(tl.int32)


@triton.jit
def gated(x, w, starts, r, p, left, V, GATES: tl.constexpr, ACC: tl.constexpr):
    """Log decays [Q] and values [Q, BV] of tokens, zero where there are none."""
    if GATES is None:
        return x[1], x[0]
    else:
        log, values = GATES(x, w, starts[:, None] != 0)
        here = (r < left)[:, None]
        log = tl.where(here, log + tl.full((r.shape[0], 1), 0.0, ACC), 0.0)
        return tl.sum(log, 1), tl.where(here & (p < V)[None, :], values, 0.0)


@triton.jit
def gated_back(x, w, starts, d_log, d_values, GATES_GRAD: tl.constexpr):
    """The gradients of tokens and weights from those of the log decays [Q] and the values."""
    if GATES_GRAD is None:
        return (d_values, d_log[:, None]), ()
    else:
        return GATES_GRAD(x, w, starts[:, None] != 0, d_log[:, None], d_values)


@triton.jit
def summed(left, right):
    """The sums of two tuples, item by item."""
    out = ()
    for i in tl.static_range(len(left)):
        out = out + (left[i] + right[i],)
    return out


@triton.jit
def store_tokens(dxs, dx, row, shift, r, p, left, head, heads, V, HAS_VALUES: tl.constexpr, ACC: tl.constexpr):
    """Gradients of a chunk: of values into [B, T, heads, V], of others, as this slice has them, into
    [slices, B, T, heads], whose slice begins `shift` tokens from the start.
    """
    for i in tl.static_range(len(dxs)):
        if HAS_VALUES[i]:
            at = dxs[i] + (row * heads + head) * V + r[:, None] * (heads * V) + p[None, :]
            tile = dx[i] + tl.full((r.shape[0], p.shape[0]), 0.0, ACC)
            tl.store(at, tile.to(dxs[i].dtype.element_ty), mask=(r < left)[:, None] & (p < V)[None, :])
        else:
            tile = tl.sum(dx[i] + tl.full((r.shape[0], 1), 0.0, ACC), 1)
            tl.store(dxs[i] + (shift + row + r) * heads + head, tile, mask=r < left)


@triton.jit
def no_weights(ws, r, p, HAS_VALUES: tl.constexpr, ACC: tl.constexpr):
    """Sums that `over_tokens` grows: [1, BV], or [Q, 1] by the place in a chunk."""
    out = ()
    for i in tl.static_range(len(ws)):
        if HAS_VALUES[i]:
            out = out + (tl.full((1, p.shape[0]), 0.0, ACC),)
        else:
            out = out + (tl.full((r.shape[0], 1), 0.0, ACC),)
    return out


@triton.jit
def over_tokens(dws, dw, r, p, left, V, HAS_VALUES: tl.constexpr, ACC: tl.constexpr):
    """Sums of gradients of weights, grown by the tokens of a chunk."""
    out = ()
    for i in tl.static_range(len(dws)):
        here = (r < left)[:, None]
        if HAS_VALUES[i]:
            here = here & (p < V)[None, :]
            out = out + (dws[i] + tl.sum(tl.where(here, dw[i], 0.0), 0, keep_dims=True),)
        else:
            out = out + (dws[i] + tl.where(here, dw[i], 0.0),)
    return out


@triton.jit
def store_weights(pointers, dws, p, head, heads, V, HAS_VALUES: tl.constexpr):
    """What `over_tokens` summed of a sequence, into [B, heads, V], or of a slice, into [slices, B, heads]."""
    batch = tl.program_id(2)
    for i in tl.static_range(len(dws)):
        if HAS_VALUES[i]:
            at = pointers[i] + (batch * heads + head) * V + p
            tl.store(at, tl.sum(dws[i], 0), mask=p < V)
        else:
            at = pointers[i] + (tl.program_id(0) * tl.num_programs(2) + batch) * heads + head
            tl.store(at + tl.zeros((1, 1), tl.int32), tl.sum(dws[i], 0, keep_dims=True))
