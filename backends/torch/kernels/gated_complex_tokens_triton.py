"""What the kernels of complex gated scans share: complex numbers as pairs of tiles, tokens, states across segments."""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl
from kernels.gated_tokens_triton import last_row


@triton.jit
def plus(a, b):
    """The sum of complex numbers, each a pair."""
    return a[0] + b[0], a[1] + b[1]


@triton.jit
def times(a, b):
    """Their product."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@triton.jit
def turned(a):
    """The conjugate: by it derivatives of a product are multiplied, real and imaginary parts being numbers apart."""
    return a[0], -a[1]


@triton.jit
def pick(condition, a, otherwise):
    """A pair where the condition holds, else the real number."""
    return tl.where(condition, a[0], otherwise), tl.where(condition, a[1], 0.0)


@triton.jit
def _join_behind(
    a_re, a_im, u_re, u_im, b_re, b_im, v_re, v_im,
    next_a_re, next_a_im, next_u_re, next_u_im, next_b_re, next_b_im, next_v_re, next_v_im,
):  # fmt: skip
    """What two successive pieces of time do to a state, `h -> a h + u`, and what happens before the last element of
    each, `h -> b h + v`: the exclusive prefix."""
    return (
        a_re * next_a_re - a_im * next_a_im,
        a_re * next_a_im + a_im * next_a_re,
        next_a_re * u_re - next_a_im * u_im + next_u_re,
        next_a_re * u_im + next_a_im * u_re + next_u_im,
        a_re * next_b_re - a_im * next_b_im,
        a_re * next_b_im + a_im * next_b_re,
        next_b_re * u_re - next_b_im * u_im + next_v_re,
        next_b_re * u_im + next_b_im * u_re + next_v_im,
    )


@triton.jit
def across_pairs(decay, end, state, S: tl.constexpr):
    """The states before each of S segments [S, BC] and after the last [1, BC], given that before the first [1, BC]."""
    one = tl.full(end[0].shape, 1.0, end[0].dtype)
    zero = one * 0.0
    a_re, a_im, u_re, u_im, b_re, b_im, v_re, v_im = tl.associative_scan(
        (decay[0], decay[1], end[0], end[1], one, zero, zero, zero), 0, _join_behind
    )
    after = plus((u_re, u_im), times((a_re, a_im), state))
    return plus((v_re, v_im), times((b_re, b_im), state)), (last_row(after[0], S), last_row(after[1], S))


@triton.jit
def pair_at(base, at, C, some, ACC: tl.constexpr):
    """The complex numbers whose real parts lie at `at` and imaginary ones C behind; 0 where there is no base."""
    if base is None:
        zero = tl.zeros(at.shape, ACC)
        return zero, zero
    else:
        real = tl.load(base + at, mask=some, other=0.0).to(ACC)
        return real, tl.load(base + at + C, mask=some, other=0.0).to(ACC)


@triton.jit
def store_pair(base, at, C, pair, some):
    """The opposite."""
    tl.store(base + at, pair[0], mask=some)
    tl.store(base + at + C, pair[1], mask=some)


@triton.jit
def loaded(arrays, at, offsets, mask, ACC: tl.constexpr):
    """A number of each of the arrays, in the type of the sums, 0 outside of the mask."""
    out = ()
    for i in tl.static_range(len(arrays)):
        out = out + (tl.load(arrays[i] + at + offsets, mask=mask, other=0.0).to(ACC),)
    return out


@triton.jit
def complex_token_at(
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
    a_re, a_im, u_re, u_im = G(x, w, first)
    if pos is not None:
        a_re, a_im = pick(first == 0, (a_re, a_im), 0.0)
    return x, pick(inside, (a_re, a_im), 1.0), pick(inside, (u_re, u_im), 0.0), first


@triton.jit
def read_grad(
    OUT_GRAD: tl.constexpr, h, x, w, d
):  # fmt: skip
    """The derivatives of what is read out by the state, x and w, d being those that come in, of one part or of both."""
    if len(d) == 1:
        d_re, d_im, dx, dw = OUT_GRAD(h[0], h[1], x, w, d[0])
    else:
        d_re, d_im, dx, dw = OUT_GRAD(h[0], h[1], x, w, d[0], d[1])
    return (d_re, d_im), dx, dw
