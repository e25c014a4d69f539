"""What the gates around a scan of outer products read and make, on the tiles of a chunk: for `chunked_triton`.

A tile of tokens is [Q, BV], or [Q, 1] of tokens without values; of weights it is [1, BV] or [1, 1]. Tiles that stand
out over the tokens or the values there are hold others of them again, so that no equation meets a number that is none.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl


@triton.jit
def token_tile(
    x, row, r, axis, left, head, heads, size, HAS_AXIS: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The tokens r of a chunk that begins in `row`, of which `left` are there: x [B, T, heads, size] or [B, T, heads].

    RAGGED: not all of the axis is there.
    """
    at = row * heads + head
    there = tl.minimum(r, left - 1)
    if HAS_AXIS:
        columns = tl.minimum(axis, size - 1) if RAGGED else axis
        return tl.load(x + at * size + there[:, None] * (heads * size) + columns[None, :]).to(ACC)
    else:
        return tl.load(x + at + there * heads)[:, None].to(ACC)


@triton.jit
def weight_tile(x, axis, head, size, HAS_AXIS: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr):
    """x: [heads, size] or [heads]."""
    if HAS_AXIS:
        columns = tl.minimum(axis, size - 1) if RAGGED else axis
        return tl.load(x + head * size + columns)[None, :].to(ACC)
    else:
        return (tl.full((1, 1), 0.0, ACC) + tl.load(x + head)).to(ACC)


@triton.jit
def tokens(
    xs, row, r, p, left, head, heads, V,
    HAS_VALUES: tl.constexpr, GATES: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The tokens r of a chunk that begins in `row`, of which `left` are there: xs [B, T, heads, V] or [B, T, heads].

    RAGGED: not all values p are there. Without gates they are as they come, and zero where there are none.
    """
    at = row * heads + head
    out = ()
    for i in tl.static_range(len(xs)):
        if GATES is None and HAS_VALUES[i]:
            here = (r < left)[:, None] & (p < V)[None, :]
            tile = tl.load(xs[i] + at * V + r[:, None] * (heads * V) + p[None, :], mask=here, other=0.0)
        elif GATES is None:
            tile = tl.load(xs[i] + at + r * heads, mask=r < left, other=0.0).to(ACC)
        else:
            tile = token_tile(xs[i], row, r, p, left, head, heads, V, HAS_VALUES[i], RAGGED, ACC)
        out = out + (tile,)
    return out


@triton.jit
def weights(
    ws, p, head, V, HAS_VALUES: tl.constexpr, NUMBERS: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """ws: [heads, V] or [heads]. The numbers stand behind them."""
    out = ()
    for i in tl.static_range(len(ws)):
        out = out + (weight_tile(ws[i], p, head, V, HAS_VALUES[i], RAGGED, ACC),)
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
def store_token(
    pointer, dx, row, r, axis, left, head, heads, size, HAS_AXIS: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The gradient of a token of a chunk that begins in `row`, into [.., heads, size] or [.., heads]."""
    if HAS_AXIS:
        at = pointer + (row * heads + head) * size + r[:, None] * (heads * size) + axis[None, :]
        tile = dx + tl.full((r.shape[0], axis.shape[0]), 0.0, ACC)
        tl.store(at, tile.to(pointer.dtype.element_ty), mask=(r < left)[:, None] & (axis < size)[None, :])
    else:
        tile = tl.sum(dx + tl.full((r.shape[0], 1), 0.0, ACC), 1)
        tl.store(pointer + (row + r) * heads + head, tile.to(pointer.dtype.element_ty), mask=r < left)


@triton.jit
def store_tokens(dxs, dx, row, shift, r, p, left, head, heads, V, HAS_VALUES: tl.constexpr, ACC: tl.constexpr):
    """Gradients of a chunk: of values into [B, T, heads, V], of others, as this slice has them, into
    [slices, B, T, heads], whose slice begins `shift` tokens from the start.
    """
    for i in tl.static_range(len(dxs)):
        if HAS_VALUES[i]:
            store_token(dxs[i], dx[i], row, r, p, left, head, heads, V, True, ACC)
        else:
            store_token(dxs[i], dx[i], shift + row, r, p, left, head, heads, V, False, ACC)


@triton.jit
def no_weight(r, axis, HAS_AXIS: tl.constexpr, ACC: tl.constexpr):
    """A sum that `over_weight` grows: [1, axis], or [Q, 1] by the place in a chunk."""
    if HAS_AXIS:
        return tl.full((1, axis.shape[0]), 0.0, ACC)
    else:
        return tl.full((r.shape[0], 1), 0.0, ACC)


@triton.jit
def no_weights(ws, r, p, HAS_VALUES: tl.constexpr, ACC: tl.constexpr):
    """Sums that `over_tokens` grows: [1, BV], or [Q, 1] by the place in a chunk."""
    out = ()
    for i in tl.static_range(len(ws)):
        out = out + (no_weight(r, p, HAS_VALUES[i], ACC),)
    return out


@triton.jit
def over_weight(total, dw, r, axis, left, size, HAS_AXIS: tl.constexpr):
    """A sum of gradients of a weight, grown by the tokens of a chunk."""
    here = (r < left)[:, None]
    if HAS_AXIS:
        return total + tl.sum(tl.where(here & (axis < size)[None, :], dw, 0.0), 0, keep_dims=True)
    else:
        return total + tl.where(here, dw, 0.0)


@triton.jit
def over_tokens(dws, dw, r, p, left, V, HAS_VALUES: tl.constexpr, ACC: tl.constexpr):
    """Sums of gradients of weights, grown by the tokens of a chunk."""
    out = ()
    for i in tl.static_range(len(dws)):
        out = out + (over_weight(dws[i], dw[i], r, p, left, V, HAS_VALUES[i]),)
    return out


@triton.jit
def store_weight(pointer, total, row, axis, head, heads, size, HAS_AXIS: tl.constexpr):
    """What `over_weight` summed, into the row of [.., heads, size] or [.., heads]."""
    at = pointer + (row * heads + head) * (size if HAS_AXIS else 1)
    if HAS_AXIS:
        tl.store(at + axis, tl.sum(total, 0), mask=axis < size)
    else:
        tl.store(at + tl.zeros((1, 1), tl.int32), tl.sum(total, 0, keep_dims=True))


@triton.jit
def store_weights(pointers, dws, p, head, heads, V, HAS_VALUES: tl.constexpr):
    """What `over_tokens` summed of a sequence, into [B, heads, V], or of a slice, into [slices, B, heads]."""
    batch = tl.program_id(2)
    for i in tl.static_range(len(dws)):
        row = batch if HAS_VALUES[i] else tl.program_id(0) * tl.num_programs(2) + batch
        store_weight(pointers[i], dws[i], row, p, head, heads, V, HAS_VALUES[i])
