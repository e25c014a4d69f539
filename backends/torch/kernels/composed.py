"""Attention whose heads are composed, before and after the softmax: pairs of all heads in one tile of one kernel.

s = scale q . k; s = before(s); p = softmax(s) over the keys that a query sees; p = after(p); y = sum over keys of p v

On a GPU no pair is ever in memory, forward or backward, but for those of one block for each program if there are many
heads, and the scores of a single token, which has a kernel of its own. Elsewhere the program runs for query blocks.
"""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from kernels.composed_fused import register
from kernels.composed_tiles import fits
from kernels.operators import TRITON, arch_of, runs_fused, wants_gradient
from kernels.pairs import Keys, Rows, over_rows
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """A composition of heads: what every pair of query and key does to its scores (or weights) of all heads.

    It is zero where its pairs are zero. sides: a letter for each token that it reads, "q" or "k", whose side it lies
    on. shapes: a letter for each weight that it reads, "p" for planes [*axes, heads or 1], "m" for a matrix from heads
    to heads. work: matrix operations for a pair, a multiply-add being two.

    device: `(a, qs, ks, ws) -> a'`, a Triton function of tiles in single precision. a: [heads, queries, keys], or
    [heads, keys, queries]. Every token is cut along its axes before heads, row-major, into planes: qs of [heads or 1,
    queries, 1], ks of [heads or 1, 1, keys], turned as a is; both hold what `plane` in device.py reads them with, for
    registers have no room for all. ws of [heads or 1, 1, 1]. Matrices in ws are [heads, heads] in the type of products.
    Heads are filled up with zeros to a power of two: a sum over heads that is spread over heads again may only be
    summed over heads once more if a plane weighs it. grad: `(a, qs, ks, ws, d, QUERIES, KEYS) -> (da, dqs, dks, dws)`,
    in the shapes of planes, given the axes of a. Both are None without Triton. linear: that da needs no a.
    """

    sides: str = ""
    shapes: str = ""
    work: int = 0
    device: Any = None
    grad: Any = None
    linear: bool = False


@dataclass(frozen=True)
class Composed:
    """The compositions before and after the softmax; None: the heads as they are."""

    name: str
    before: Mix | None = None
    after: Mix | None = None
    fused: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        mixes = [mix for mix in (self.before, self.after) if mix]
        if TRITON and all(mix.device is not None for mix in mixes):
            object.__setattr__(self, "fused", register(self.name, self))


def composed_attention(
    program: Callable[[Rows], Tensor],
    composed: Composed,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Keys,
    *,
    tokens: tuple[Tensor, ...] = (),
    weights: tuple[Tensor, ...] = (),
    scale: float,
    before: int | None = None,
) -> Tensor:
    """Run a pair program of the form above: [B, T, heads, value], in the dtype of v; zero for a query without keys.

    program: the same on `Rows`. q: [B, T, heads, dim]. k: [B, S, heads, dim], v: [B, S, heads, value], as remembered;
    keys: where they lie. tokens: those of `composed.before`, then those of `composed.after`, on the query side
    [B, T, *axes, heads or 1], on the key side [B, S, *axes, heads or 1]. weights: likewise, [*axes, heads or 1] or
    [heads, heads]. What both compositions read is there twice. before: how many keys behind its own a query sees, None
    for all; none ahead.
    """
    if composed.fused is None or not _runs(q):
        return over_rows(program, keys, before=before)
    if keys.ring is not None and wants_gradient(q, k, v, *tokens, *weights):
        return over_rows(program, keys, before=before)
    shapes = "".join(mix.shapes for mix in (composed.before, composed.after) if mix)
    planes = [x.reshape(*x.shape[:2], -1, x.shape[-1]).contiguous() for x in tokens]
    given = [
        w.contiguous() if shape == "m" else w.reshape(1, -1, w.shape[-1]).contiguous()
        for w, shape in zip(weights, shapes, strict=True)
    ]
    pos = keys.pos.expand(q.shape[:2]).contiguous() if keys.pos.dim() == 2 else None
    window = 0 if before is None else before + 1
    arguments = q.contiguous(), k.contiguous(), v.contiguous(), planes, given, pos, window, scale
    operators = composed.fused
    y: Tensor = operators.sequence(*arguments)[0] if keys.ring is None else operators.token(*arguments, keys.ring)
    return y


def _runs(q: Tensor) -> bool:
    """Whether kernels are there for these heads, this device and this type; a GPU is not asked for double precision."""
    exact = q.is_cuda and q.dtype is torch.float64
    return runs_fused(q) and not exact and fits(q.shape[2], arch_of(q))
