"""Compositions of heads, written by hand: as operations on whole pairs, as device functions, and their derivatives."""

import torch
import triton
import triton.language as tl
from kernels.composed import Mix
from kernels.device import mix_heads, mix_heads_matrix, over_pairs, plane, unmix_heads
from kernels.pairs import Rows
from torch import Tensor

RANK = 2


def dynamic(a: Tensor, tokens: list[Tensor], _: list[Tensor], rows: Rows) -> Tensor:
    """Xiao et al. 2024 (arXiv:2405.08553), section 3: a low rank and a gate per head, of either side.

    tokens: q1, q2 [B, T, RANK, heads], qg [B, T, heads], and the same of the keys.
    """
    q1, q2, qg, k1, k2, kg = tokens
    low = torch.einsum("bhqk,bqrh->brqk", a, rows.query_tokens(q1))
    out = a + torch.einsum("brqk,bqrh->bhqk", low, rows.query_tokens(q2))
    low = torch.einsum("bhqk,bkrh->brqk", a, rows.key_tokens(k1))
    out = out + torch.einsum("brqk,bkrh->bhqk", low, rows.key_tokens(k2))
    return out + a * rows.queries(qg) + a * rows.keys(kg)


@triton.jit
def _low(a, x, i):
    """One rank of one side: planes i and i + 2."""
    return tl.sum(a * plane(x[i], a), 0, keep_dims=True) * plane(x[i + 2], a)


@triton.jit
def dynamic_device(a, qs, ks, ws):
    return (
        a
        + _low(a, qs, 0)
        + _low(a, qs, 1)
        + _low(a, ks, 0)
        + _low(a, ks, 1)
        + a * plane(qs[4], a)
        + a * plane(ks[4], a)
    )


@triton.jit
def _low_grad(a, x, d, i, AXIS: tl.constexpr):
    z = tl.sum(a * plane(x[i], a), 0, keep_dims=True)
    d2 = over_pairs(d * z, AXIS)
    dz = tl.sum(d * plane(x[i + 2], a), 0, keep_dims=True)
    return dz, over_pairs(a * dz, AXIS), d2


@triton.jit
def dynamic_grad(a, qs, ks, ws, d, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    dq4 = over_pairs(a * d, KEYS)
    dk4 = over_pairs(a * d, QUERIES)
    da0, dq0, dq2 = _low_grad(a, qs, d, 0, KEYS)
    da1, dq1, dq3 = _low_grad(a, qs, d, 1, KEYS)
    da2, dk0, dk2 = _low_grad(a, ks, d, 0, QUERIES)
    da3, dk1, dk3 = _low_grad(a, ks, d, 1, QUERIES)
    da = d + d * plane(qs[4], a) + d * plane(ks[4], a)
    da += da0 * plane(qs[0], a)
    da += da1 * plane(qs[1], a)
    da += da2 * plane(ks[0], a)
    da += da3 * plane(ks[1], a)
    dqs = (dq0, dq1, dq2, dq3, dq4)
    dks = (dk0, dk1, dk2, dk3, dk4)
    return da, dqs, dks, ()


def static(a: Tensor, tokens: list[Tensor], weights: list[Tensor], rows: Rows) -> Tensor:
    """A matrix from heads to heads (Shazeer et al. 2020, arXiv:2003.02436), and a scale of each query.

    tokens: [B, T, 1]; weights: [heads, heads].
    """
    return torch.einsum("bhqk,hg->bgqk", a, weights[0]) * (1 + rows.queries(tokens[0]))


@triton.jit
def static_device(a, qs, ks, ws):
    return mix_heads(a, ws[0]) * (1.0 + plane(qs[0], a))


@triton.jit
def static_grad(a, qs, ks, ws, d, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    dq = tl.sum(tl.sum(mix_heads(a, ws[0]) * d, KEYS, keep_dims=True), 0, keep_dims=True)
    d = d * (1.0 + plane(qs[0], a))
    return unmix_heads(d, ws[0]), (dq,), (), (mix_heads_matrix(a, ws[0], d),)


def shared(a: Tensor, tokens: list[Tensor], weights: list[Tensor], rows: Rows) -> Tensor:
    """What is positive, weighed, and a share for each key of the sum over heads.

    tokens: [B, S, 1]; weights: [2, heads].
    """
    own, others = weights[0][:, :, None, None]
    return torch.relu(a) * own + a.sum(1, keepdim=True) * others * rows.keys(tokens[0])


@triton.jit
def shared_device(a, qs, ks, ws):
    return tl.maximum(a, 0.0) * ws[0] + tl.sum(a, 0, keep_dims=True) * ws[1] * plane(ks[0], a)


@triton.jit
def _total(x):
    return tl.sum(tl.sum(x, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def shared_grad(a, qs, ks, ws, d, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    key = plane(ks[0], a)
    positive = tl.maximum(a, 0.0)
    z = tl.sum(a, 0, keep_dims=True)
    dz = tl.sum(d * ws[1], 0, keep_dims=True)
    da = tl.where(a > 0.0, d * ws[0], 0.0) + dz * key
    return da, (), (over_pairs(dz * z, QUERIES),), (_total(positive * d), _total(d * (z * key)))


def _dynamic(heads: int) -> Mix:
    return Mix("qqqkkk", "", 8 * RANK * heads, dynamic_device, dynamic_grad, linear=True)


def _static(heads: int) -> Mix:
    return Mix("q", "m", 2 * heads * heads, static_device, static_grad, linear=True)


def _shared(_: int) -> Mix:
    return Mix("k", "p", 0, shared_device, shared_grad)


MIXES = {"dynamic": _dynamic, "static": _static, "shared": _shared}
