"""Attention with given compositions of heads as an operator of torch: autograd, torch.compile and counters know it."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
from kernels.operators import TRITON, free_name
from torch import Tensor

if TRITON:
    from kernels.composed_launch import backward, forward

BLOCK = 128  # pairs.py: queries of a block, for the count of matrix operations


def register(name: str, composed: Any) -> Any:
    """The operator for these compositions.

    `(q, k, v, tokens, weights, pos, window, scale) -> (y, lse)`, all contiguous. tokens: [B, T or S, planes, heads or
    1], in the order of `composed_attention`; weights: planes [1, planes, heads or 1] or matrices [heads, heads]. pos:
    [B, T], or None for whole documents. window: how many keys a query sees, 0 for all. lse: [B, heads, T], what the
    softmax divides by, as a logarithm, for the backward pass.
    """
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    mixing = sum(mix.work for mix in (composed.before, composed.after) if mix)

    @torch.library.custom_op(free_name(f"{name}_attention"), mutates_args=())
    def fused(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tokens: list[Tensor],
        weights: list[Tensor],
        pos: Tensor | None,
        window: int,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        outputs = _outputs(q, k, v, tokens, weights, pos, window, scale)
        forward(composed, q, k, v, tokens, weights, pos, window, scale, *outputs)
        return outputs

    @torch.library.custom_op(free_name(f"{name}_attention_backward"), mutates_args=())
    def gradients(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tokens: list[Tensor],
        weights: list[Tensor],
        pos: Tensor | None,
        window: int,
        scale: float,
        lse: Tensor,
        dy: Tensor,
    ) -> list[Tensor]:
        found: list[Tensor] = backward(composed, q, k, v, tokens, weights, pos, window, scale, lse, dy)
        return found

    def back(ctx: Any, dy: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        if dy is None:
            return (None,) * 8
        q, k, v, pos, lse, *reads = ctx.saved_tensors
        tokens, weights = reads[: ctx.tokens], reads[ctx.tokens :]
        dq, dk, dv, *shares = gradients(q, k, v, tokens, weights, pos, ctx.window, ctx.scale, lse, dy.contiguous())
        return dq, dk, dv, shares[: ctx.tokens], shares[ctx.tokens :], None, None, None

    def forward_work(
        q: Any, k: Any, v: Any, tokens: Any, weights: Any, pos: Any, window: int, *_: Any, **__: Any
    ) -> int:
        return _pairs(q, k, window) * (mixing + 2 * q[2] * (q[3] + v[3]))

    def backward_work(
        q: Any, k: Any, v: Any, tokens: Any, weights: Any, pos: Any, window: int, *_: Any, **__: Any
    ) -> int:
        """Two gradients of every product; and the forward work once more, but for the sums of values."""
        pairs = _pairs(q, k, window)
        return pairs * (3 * mixing + 2 * q[2] * (3 * q[3] + 2 * v[3]))

    fused.register_fake(_outputs)
    gradients.register_fake(_gradients)
    fused.register_autograd(back, setup_context=_keep)
    register_flop_formula(fused._opoverload.overloadpacket)(forward_work)
    register_flop_formula(gradients._opoverload.overloadpacket)(backward_work)
    return fused


def _outputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: list[Tensor],
    weights: list[Tensor],
    pos: Tensor | None,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """y and the logarithms of the normalisers, empty."""
    batch, time, heads, _ = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    return v.new_empty(batch, time, heads, v.shape[3]), q.new_empty((batch, heads, time), dtype=wide)


def _gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: list[Tensor],
    weights: list[Tensor],
    pos: Tensor | None,
    window: int,
    scale: float,
    lse: Tensor,
    dy: Tensor,
) -> list[Tensor]:
    return [torch.empty_like(x) for x in (q, k, v, *tokens, *weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tokens, weights, pos, window, scale = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, pos, output[1], *tokens, *weights)
    ctx.tokens, ctx.window, ctx.scale = len(tokens), window, scale


def _pairs(q: Any, k: Any, window: int) -> int:
    """Pairs of all sequences, as the convention has them: those of blocks of queries with every key that one sees."""
    batch, time, count = q[0], q[1], k[1]
    pairs = 0
    for first in range(0, time, BLOCK):
        end = min(first + BLOCK, time)
        start = max(0, count - time + first - window + 1) if window else 0
        pairs += (end - first) * (count - time + end - start)
    return int(batch * pairs)
