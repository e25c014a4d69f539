"""Element-wise functions that Triton lacks, on tiles of float32 or float64, each stable over its whole domain."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def at_least(x, number: tl.constexpr):
    """The larger of x and a number, which is rounded as x is."""
    return tl.maximum(x, tl.full(x.shape, number, x.dtype))


@triton.jit
def at_most(x, number: tl.constexpr):
    """The smaller of x and a number, which is rounded as x is."""
    return tl.minimum(x, tl.full(x.shape, number, x.dtype))


@triton.jit
def expm1_from(x, e):
    """`exp(x) - 1` from x and `e = exp(x)`: a series near zero, where the difference would cancel.

    In float64 what rounding did to e is undone by its logarithm (Kahan): (e - 1) x / log(e).
    """
    if x.dtype == tl.float64:
        flat = (e == 1.0) | (e == 0.0) | (e == float("inf"))
        log = tl.log(tl.where(flat, 2.0, e))
        found = tl.where(flat, tl.where(e == 1.0, x, e - 1.0), (e - 1.0) * (x / log))
    else:
        series = 1.0 + x * (1.0 / 7)
        series = 1.0 + x * (1.0 / 6) * series
        series = 1.0 + x * (1.0 / 5) * series
        series = 1.0 + x * (1.0 / 4) * series
        series = 1.0 + x * (1.0 / 3) * series
        series = 1.0 + x * (1.0 / 2) * series
        found = tl.where(tl.abs(x) < 0.35, x * series, e - 1.0)
    return found


@triton.jit
def expm1(x):
    """`exp(x) - 1`."""
    return expm1_from(x, tl.exp(x))


@triton.jit
def log1p(x):
    """`log(1 + x)` for finite x > -1; what rounding did to 1 + x is undone by a factor (Kahan)."""
    near = 1.0 + x
    step = near - 1.0
    return tl.where(step == 0.0, x, tl.log(near) * (x / tl.where(step == 0.0, 1.0, step)))


@triton.jit
def softplus(x):
    """`log(1 + exp(x))`."""
    return tl.maximum(x, tl.zeros_like(x)) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def inv_softplus(y):
    """The x with softplus(x) = y, for y > 0."""
    return y + tl.log(-expm1(-y))


@triton.jit
def tanh(x):
    """`(1 - e) / (1 + e)` with `e = exp(-2 |x|)`, and the sign of x."""
    shrunk = expm1(-2.0 * tl.abs(x))
    size = -shrunk / (2.0 + shrunk)
    return tl.where(x < 0.0, -size, size)


@triton.jit
def silu(x):
    """`x sigmoid(x)`."""
    return x * tl.sigmoid(x)


@triton.jit
def gelu(x):
    """x times the normal distribution's function."""
    return 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))


@triton.jit
def gelu_tanh(x):
    """The tanh form of gelu (Hendrycks and Gimpel 2016); it is `x sigmoid(2 z)`, which does not cancel."""
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * (x * x * x)))


@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, tl.zeros_like(x)))


@triton.jit
def power(x, n):
    """`x ** n`: of the size of x by its logarithm; a negative x takes whole exponents only and is nan with others."""
    n = tl.zeros_like(x) + n
    size = tl.where(n == 0.0, 1.0, tl.exp(n * tl.log(tl.abs(x))))
    half = 0.5 * n
    odd = half != tl.floor(half)
    return tl.where(x < 0.0, tl.where(n == tl.floor(n), tl.where(odd, -size, size), float("nan")), size)


@triton.jit
def plane(place, pairs):
    """A plane of tokens in the precision of pairs, read where it is needed: registers hold few of them at a time.

    place: its addresses, and which of them are there, None if all are.
    """
    if place[1] is None:
        return tl.load(place[0]).to(pairs.dtype)
    else:
        return tl.load(place[0], mask=place[1], other=0.0).to(pairs.dtype)


@triton.jit
def over_pairs(x, AXIS: tl.constexpr):
    """The sums of x [heads, rows, columns] over an axis of pairs, which stays, with size one.

    Laid out as products of matrices are, eight threads would each hold every sum over rows, eight registers of 32
    heads and 8 columns. What is reshaped need not be laid out like that: Triton lays it out as those who write the sums
    do, a sum in one register of one thread.
    """
    if AXIS == 1 and x.shape[0] >= 16 and x.shape[1] > 8:
        parts = x.reshape(x.shape[0], x.shape[1] // 8, 8, x.shape[2])
        return tl.sum(tl.sum(parts, 1), 1, keep_dims=True)
    else:
        return tl.sum(x, AXIS, keep_dims=True)


@triton.jit
def mix_heads(a, W):
    """`sum_h W[h, g] a[h]` of pairs a [heads, rows, columns]: of the same shape, heads being at least 16."""
    pairs = a.reshape(a.shape[0], a.shape[1] * a.shape[2])
    mixed = tl.dot(tl.trans(W), pairs.to(W.dtype), input_precision="tf32x3", out_dtype=a.dtype)
    return mixed.reshape(a.shape)


@triton.jit
def unmix_heads(d, W):
    """The gradient of the pairs in `mix_heads`, `sum_g W[h, g] d[g]`."""
    pairs = d.reshape(d.shape[0], d.shape[1] * d.shape[2])
    mixed = tl.dot(W, pairs.to(W.dtype), input_precision="tf32x3", out_dtype=d.dtype)
    return mixed.reshape(d.shape)


@triton.jit
def mix_heads_matrix(a, W, d):
    """The gradient of the matrix in `mix_heads`, the sum over pairs of `a[h] d[g]`; a product for each row, or for each
    column if these are fewer, for a product takes 16 at least.
    """
    if a.shape[1] > a.shape[2]:
        left = tl.permute(a, (2, 0, 1)).to(W.dtype)
        right = tl.permute(d, (2, 1, 0)).to(W.dtype)
    else:
        left = tl.permute(a, (1, 0, 2)).to(W.dtype)
        right = tl.permute(d, (1, 2, 0)).to(W.dtype)
    return tl.sum(tl.dot(left, right, input_precision="tf32x3", out_dtype=a.dtype), 0)
