"""Attention with given compositions of heads as operators of torch: autograd, torch.compile and counters know them."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any, NamedTuple

import torch
from kernels.composed_arguments import Given, GivenBack, Ring
from kernels.composed_tiles import HEADS
from kernels.operators import TRITON, free_name, schema
from torch import Tensor

if TRITON:
    from kernels.composed_laid import backward_laid, forward_laid
    from kernels.composed_launch import backward, forward
    from kernels.composed_token import token

BLOCK = 128  # pairs.py: queries of a block, for the count of matrix operations
COUNT = len(Given._fields)


class Operators(NamedTuple):
    """`sequence(*Given) -> (y, lse)`, with gradients, and `token(*Given, *Ring) -> y`, without.

    y: [B, T, heads, value]. lse: [B, heads, T], what the softmax divides by, as a logarithm, for the backward pass.
    """

    sequence: Any
    token: Any


def register(name: str, composed: Any) -> Operators:
    """The operators for these compositions."""
    mixing = sum(mix.work for mix in (composed.before, composed.after) if mix)
    return Operators(_sequence(name, composed, mixing), _token(name, composed, mixing))


def _sequence(name: str, composed: Any, mixing: int) -> Any:
    """mixing: matrix operations of the compositions, for a pair."""
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    both = schema(Given, gives="(Tensor, Tensor)")

    @torch.library.custom_op(free_name(f"{name}_attention"), mutates_args=(), schema=both)
    def fused(*args: Any) -> tuple[Tensor, Tensor]:
        outputs = _outputs(*args)
        given = Given(*args)
        (forward if in_registers(given) else forward_laid)(composed, given, *outputs)
        return outputs

    back_too = schema(Given, GivenBack, gives="Tensor[]")

    @torch.library.custom_op(free_name(f"{name}_attention_backward"), mutates_args=(), schema=back_too)
    def gradients(*args: Any) -> list[Tensor]:
        given = Given(*args[:COUNT])
        return (backward if in_registers(given) else backward_laid)(composed, given, *args[COUNT:])

    def back(ctx: Any, dy: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        if dy is None:
            return (None,) * COUNT
        q, k, v, pos, lse, *reads = ctx.saved_tensors
        given = Given(q, k, v, reads[: ctx.tokens], reads[ctx.tokens :], pos, *ctx.numbers)
        dq, dk, dv, *shares = gradients(*given, lse, dy.contiguous())
        found = Given(dq, dk, dv, shares[: ctx.tokens], shares[ctx.tokens :], *(None,) * 3)
        return tuple(found)

    def forward_work(*args: Any, **_: Any) -> int:
        x = Given(*args[:COUNT])
        return _pairs(x) * (mixing + 2 * x.q[2] * (x.q[3] + x.v[3]))

    def backward_work(*args: Any, **_: Any) -> int:
        """Two gradients of every product; and the forward work once more, but for the sums of values."""
        x = Given(*args[:COUNT])
        return _pairs(x) * (3 * mixing + 2 * x.q[2] * (3 * x.q[3] + 2 * x.v[3]))

    fused.register_fake(_outputs)
    gradients.register_fake(_gradients)
    fused.register_autograd(back, setup_context=_keep)
    register_flop_formula(fused._opoverload.overloadpacket)(forward_work)
    register_flop_formula(gradients._opoverload.overloadpacket)(backward_work)
    return fused


def _token(name: str, composed: Any, mixing: int) -> Any:
    """See `_sequence`."""
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    said = schema(Given, Ring, gives="Tensor")

    @torch.library.custom_op(free_name(f"{name}_attention_token"), mutates_args=(), schema=said)
    def fused(*args: Any) -> Tensor:
        y = _values(*args)
        token(composed, Given(*args[:COUNT]), *args[COUNT:], y)
        return y

    def work(*args: Any, **_: Any) -> int:
        x = Given(*args[:COUNT])
        return int(x.k[0] * x.k[1] * (mixing + 2 * x.q[2] * (x.q[3] + x.v[3])))

    fused.register_fake(_values)
    register_flop_formula(fused._opoverload.overloadpacket)(work)
    return fused


def in_registers(given: Given) -> bool:
    """Whether the heads are so few that a tile of pairs fits there; else pairs are laid out in memory."""
    return given.q.shape[2] <= HEADS


def _outputs(*args: Any) -> tuple[Tensor, Tensor]:
    """y and the logarithms of the normalisers, empty."""
    x = Given(*args)
    batch, time, heads, _ = x.q.shape
    wide = torch.promote_types(x.q.dtype, torch.float32)
    return _values(*args), x.q.new_empty((batch, heads, time), dtype=wide)


def _values(*args: Any) -> Tensor:
    """y, empty."""
    x = Given(*args[:COUNT])
    return x.v.new_empty(*x.q.shape[:3], x.v.shape[3])


def _gradients(*args: Any) -> list[Tensor]:
    x = Given(*args[:COUNT])
    return [torch.empty_like(each) for each in (x.q, x.k, x.v, *x.tokens, *x.weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x = Given(*inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x.q, x.k, x.v, x.pos, output[1], *x.tokens, *x.weights)
    ctx.tokens, ctx.numbers = len(x.tokens), (x.window, x.scale)


def _pairs(x: Any) -> int:
    """Pairs of all sequences, as the convention has them: those of blocks of queries with every key that one sees.

    x: `Given`, with shapes in the place of tensors.
    """
    (batch, time, *_), count = x.q, x.k[1]
    pairs = 0
    for first in range(0, time, BLOCK):
        end = min(first + BLOCK, time)
        start = max(0, count - time + first - x.window + 1) if x.window else 0
        pairs += (end - first) * (count - time + end - start)
    return int(batch * pairs)
