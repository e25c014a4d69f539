"""What the kernels of gated scans share: the tokens of a tile with their gates, and states across its segments.

And the gates of scans that have none.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl


@triton.jit
def _join_behind(decay, end, before_decay, before_end, next_decay, next_end, next_before_decay, next_before_end):
    """`_join`, which carries along what happens before the last element of each piece: the exclusive prefix."""
    return (
        decay * next_decay,
        next_decay * end + next_end,
        decay * next_before_decay,
        next_before_decay * end + next_before_end,
    )


@triton.jit
def last_row(x, S: tl.constexpr):
    """The last row of a tile [S, BC], as [1, BC]."""
    return tl.sum(tl.where(tl.arange(0, S)[:, None] == S - 1, x, 0.0), 0, keep_dims=True)


@triton.jit
def across(decay, end, state, S: tl.constexpr):
    """The states before each of S segments [S, BC] and after the last [1, BC], given that before the first [1, BC]."""
    one = tl.full(decay.shape, 1.0, decay.dtype)
    decays, ends, before_decay, before_end = tl.associative_scan((decay, end, one, one * 0.0), 0, _join_behind)
    return before_end + before_decay * state, last_row(ends + decays * state, S)


@triton.jit
def weights_at(ws, c, some, N: tl.constexpr, ACC: tl.constexpr):
    """Each of the weights [C] at the channels c, in the type of the sums, and behind them the numbers."""
    w = ()
    for i in tl.static_range(len(ws)):
        w = w + (tl.load(ws[i] + c, mask=some, other=0.0).to(ACC),)
    for i in tl.static_range(len(N)):
        w = w + (N[i],)
    return w


@triton.jit
def token_at(
    xs, at, w, pos, row, offsets, t, inside, some, G: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Inputs, decay and input of the recurrence at the tokens t [S, 1], and whether a document starts there.

    Nothing comes over the start of a document, and what is no token (not `inside`) does nothing to a state.
    """
    x = ()
    for i in tl.static_range(len(xs)):
        x = x + (tl.load(xs[i] + at + offsets, mask=inside & some).to(ACC),)
    if pos is not None:
        first = tl.load(pos + row, mask=inside, other=1) == 0
    else:
        first = t == 0
    a, u = G(x, w, first)
    if pos is not None:
        a = tl.where(first, 0.0, a)
    return x, tl.where(inside, a, 1.0), tl.where(inside, u, 0.0), first


@triton.jit
def given(x, w, first):
    """Gates of a scan whose inputs (u, a) are there already."""
    return x[1], x[0]


@triton.jit
def given_grad(x, w, first, da, du):
    """The gradient of `given`."""
    return (du, da), ()


@triton.jit
def constant(x, w, first):
    """Gates of a scan of u with one decay a channel."""
    return w[0], x[0]


@triton.jit
def constant_grad(x, w, first, da, du):
    """The gradient of `constant`."""
    return (du,), (da,)
