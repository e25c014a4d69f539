"""The causal depthwise convolution on a GPU, as an operator of torch."""
# mypy: disable-error-code="no-untyped-call"

from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from kernels.conv_triton import conv_backward, conv_forward, conv_token
from kernels.operators import free_name
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

STEPS, SEGMENTS, CHANNELS, WARPS = 8, 8, 32, 4
TOKEN = 128  # channels of a program that has a single token
PIECE = 4 * STEPS * SEGMENTS  # tokens of a program: its sums for the weights take a 64th of the memory of the tokens


def fused_conv(x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor | None, silu: bool) -> Tensor:
    """The last T tokens y [B, T, *axes] of x [B, past + T, *axes] with w [taps, *axes], bias [*axes], pos [B, T].

    pos may be None: one document that begins with x, past = 0.
    """
    shape = x.shape
    channels = prod(shape[2:])
    y: Tensor = _conv(
        x.reshape(*shape[:2], channels).contiguous(),
        w.reshape(-1, channels).contiguous(),
        None if bias is None else bias.expand(shape[2:]).reshape(channels).contiguous(),
        None if pos is None else pos.expand(shape[0], -1).contiguous(),
        silu,
    )
    return y.view(shape[0], -1, *shape[2:])


@torch.library.custom_op(free_name("causal_conv"), mutates_args=())
def _conv(x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor | None, silu: bool) -> Tensor:
    time = x.shape[1] if pos is None else pos.shape[1]
    y = x.new_empty((x.shape[0], time, x.shape[2]))
    with torch.cuda.device_of(x):
        conv_forward[_grid(x, time)](
            x, w, bias, pos, y, time, x.shape[2], PIECE,
            PAST=x.shape[1] - time, TAPS=w.shape[0], SILU=silu, **_constants(x, time),
        )  # fmt: skip
    return y


@_conv.register_fake
def _(x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor | None, silu: bool) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] if pos is None else pos.shape[1], x.shape[2]))


@torch.library.custom_op(free_name("causal_conv_backward"), mutates_args=())
def _conv_backward(
    x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor | None, silu: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grid = _grid(x, x.shape[1])
    dx = torch.empty_like(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    dw = x.new_empty((x.shape[0], grid[1], *w.shape), dtype=wide)
    dbias = x.new_empty((x.shape[0], grid[1], 0 if bias is None else x.shape[2]), dtype=wide)
    with torch.cuda.device_of(x):
        conv_backward[grid](
            x, w, bias, pos, dy, dx, dw, dbias, dy.shape[1], x.shape[2], PIECE,
            PAST=x.shape[1] - dy.shape[1], TAPS=w.shape[0], SILU=silu, **_constants(x, dy.shape[1]),
        )  # fmt: skip
    return dx, dw.sum((0, 1)).to(w.dtype), dbias.sum((0, 1)).to(w.dtype if bias is None else bias.dtype)


@_conv_backward.register_fake
def _(
    x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor | None, silu: bool, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w), w.new_empty(0) if bias is None else torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _back(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, bias, pos = ctx.saved_tensors
    dx, dw, dbias = _conv_backward(x, w, bias, pos, ctx.silu, dy.contiguous())
    return dx, dw, None if bias is None else dbias, None, None


_conv.register_autograd(_back, setup_context=_keep)


@register_flop_formula(_conv._opoverload.overloadpacket)
def _forward_flops(x: torch.Size, w: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    """A multiply-add for each tap."""
    return 2 * prod(out_shape) * w[0]


@register_flop_formula(_conv_backward._opoverload.overloadpacket)
def _backward_flops(x: torch.Size, w: torch.Size, *_: Any, **__: Any) -> int:
    """Two for each tap: the input's gradient and the weight's."""
    return 4 * prod(x) * w[0]


def fused_token(
    x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor, state: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    """One token y [B, 1, *axes] of x [B, 1, *axes] after the inputs state [B, taps - 1, *axes], and the new state.

    pos: [B, 1]. There is no gradient.
    """
    shape, taps = x.shape, w.shape[0]
    channels = prod(shape[2:])
    y, last = _token(
        x.reshape(-1, channels).contiguous(),
        w.reshape(-1, channels).contiguous(),
        None if bias is None else bias.expand(shape[2:]).reshape(channels).contiguous(),
        pos.expand(shape[0], 1).contiguous(),
        state.reshape(shape[0], taps - 1, channels).contiguous(),
        silu,
    )
    return y.view(shape), last.view(shape[0], taps - 1, *shape[2:])


@torch.library.custom_op(free_name("causal_conv_token"), mutates_args=())
def _token(x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor, state: Tensor, silu: bool) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape
    y, last = torch.empty_like(x), torch.empty_like(state, dtype=x.dtype)
    with torch.cuda.device_of(x):
        conv_token[(triton.cdiv(channels, TOKEN), batch)](
            x, w, bias, pos, state, y, last, channels,
            TAPS=w.shape[0], SILU=silu, BC=TOKEN, ACC=_accumulated(x), num_warps=1,
        )  # fmt: skip
    return y, last


@_token.register_fake
def _(x: Tensor, w: Tensor, bias: Tensor | None, pos: Tensor, state: Tensor, silu: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(state, dtype=x.dtype)


@register_flop_formula(_token._opoverload.overloadpacket)
def _token_flops(x: torch.Size, w: torch.Size, *_: Any, **__: Any) -> int:
    """A multiply-add for each tap."""
    return 2 * prod(x) * w[0]


def _grid(x: Tensor, length: int) -> tuple[int, int]:
    return x.shape[0] * triton.cdiv(x.shape[2], CHANNELS), triton.cdiv(length, PIECE)


def sizes() -> dict[str, int]:
    """The tile as the constants of the kernels."""
    return {"K": STEPS, "S": SEGMENTS, "BC": CHANNELS}


def _constants(x: Tensor, time: int) -> dict[str, Any]:
    tile = {**sizes(), "num_warps": WARPS} if time > 1 else {"K": 1, "S": 1, "BC": CHANNELS, "num_warps": 1}
    return {**tile, "enable_fp_fusion": True, "ACC": _accumulated(x)}


def _accumulated(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
