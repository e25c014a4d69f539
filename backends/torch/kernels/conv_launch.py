"""Passes of the causal depthwise convolution on a GPU as launches of its kernels, and what its operator is made of."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from kernels.conv_triton import conv_backward, conv_forward, conv_token
from kernels.gated_operator import Given, Result, Scan
from kernels.operators import wants_gradient
from torch import Tensor

STEPS, SEGMENTS, CHANNELS, WARPS = 8, 8, 32, 4
TOKEN = 128  # channels of a program that has a single token
PIECE = 4 * STEPS * SEGMENTS  # tokens of a program: its sums for the weights take a 64th of the memory of the tokens


class Taps(NamedTuple):
    """What a convolution takes besides what its activation reads.

    x: [B, past + T, C], or a token [B, 1, C] behind a state. w: [taps, C]. bias: [C], if any.
    """

    x: Tensor
    w: Tensor
    bias: Tensor | None = None


def fused_conv(
    activation: Any,
    taps: Taps,
    pos: Tensor | None,
    tokens: Sequence[Tensor],
    weights: Sequence[Tensor],
    numbers: Sequence[float],
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The last T tokens of a result y [B, T, *axes] of x [B, past + T, *axes] with w [taps, *axes], bias [*axes].

    pos: [B, T], or None: one document that begins with x, past = 0. tokens: [B, T, *axes], weights: [*axes]. With a
    state [B, taps - 1, *axes] a single token of x, without gradients, and the new state besides.
    """
    shape = taps.x.shape
    channels = prod(shape[2:])

    def of_channels(weight: Tensor) -> Tensor:
        return weight.expand(shape[2:]).reshape(channels).contiguous()

    outer = [taps.x.reshape(*shape[:2], channels).contiguous(), taps.w.reshape(-1, channels).contiguous()]
    outer += [] if taps.bias is None else [of_channels(taps.bias)]
    x, w = [z.reshape(*z.shape[:2], channels).contiguous() for z in tokens], [of_channels(z) for z in weights]
    places = None if pos is None else pos.expand(shape[0], -1).contiguous()
    start = None if state is None else state.reshape(shape[0], -1, channels).contiguous()
    given = Given(x, w, list(map(float, numbers)), outer, places, start, wants_gradient(*x, *w, *outer))
    y, last, _ = activation.fused(*given)
    return y.view(shape[0], -1, *shape[2:]), last if state is None else last.view(state.shape)


def _made(given: Given) -> Result:
    """The result, and the last inputs behind a single token, empty."""
    x = given.outer[0]
    y = x.new_empty((x.shape[0], _time(given), x.shape[2]))
    last = x.new_empty(0) if given.start is None else torch.empty_like(given.start, dtype=x.dtype)
    return Result(y, last, x.new_empty(0))


def _forward(activation: Any, given: Given, result: Result) -> None:
    """Fill y [B, T, C], and behind a single token the last inputs [B, taps - 1, C]."""
    taps, y = Taps(*given.outer), result.y
    equations = {"OUT": activation.device, "N": tuple(given.numbers), "TAPS": taps.w.shape[0], "ACC": _accumulated(y)}
    with torch.cuda.device_of(y):
        if given.start is not None:
            conv_token[(triton.cdiv(y.shape[2], TOKEN), y.shape[0])](
                *taps, tuple(given.x), tuple(given.w), given.pos, given.start, y, result.last, y.shape[2],
                BC=TOKEN, num_warps=1, **equations,
            )  # fmt: skip
        else:
            conv_forward[_grid(y)](
                *taps, tuple(given.x), tuple(given.w), given.pos, y, y.shape[1], y.shape[2], PIECE,
                PAST=taps.x.shape[1] - y.shape[1], **_tile(y), **equations,
            )  # fmt: skip


def _backward(activation: Any, given: Given, result: Result, dlast: Tensor | None) -> list[Tensor]:
    """Gradients of tokens, of weights [C], of x, w and bias, and of a state that is none; `result.y` is that of y."""
    taps, dy = Taps(*given.outer), result.y
    x, w, bias = taps
    grid = _grid(x)
    pieces, wide = (x.shape[0], grid[1]), torch.promote_types(x.dtype, torch.float32)
    dx, dtokens = torch.empty_like(x), [torch.empty_like(z) for z in given.x]
    dw = x.new_empty((*pieces, *w.shape), dtype=wide)
    rows = [*([] if bias is None else [bias]), *given.w]
    sums = [x.new_empty((*pieces, x.shape[2]), dtype=wide) for _ in rows]
    dbias, dweights = (None, sums) if bias is None else (sums[0], sums[1:])
    with torch.cuda.device_of(x):
        conv_backward[grid](
            *taps, tuple(given.x), tuple(given.w), given.pos, dy, dx, dw, dbias, tuple(dtokens), tuple(dweights),
            dy.shape[1], x.shape[2], PIECE, PAST=x.shape[1] - dy.shape[1], TAPS=w.shape[0],
            AGAIN=activation.needs_total, OUT_GRAD=activation.grad, N=tuple(given.numbers), ACC=_accumulated(x),
            **_tile(dy),
        )  # fmt: skip
    found = [z.sum((0, 1)).to(like.dtype) for z, like in zip(sums, rows, strict=True)]
    of_bias = len(found) - len(given.w)
    return [*dtokens, *found[of_bias:], dx, dw.sum((0, 1)).to(w.dtype), *found[:of_bias], x.new_empty(0)]


def _forward_flops(given: Given) -> int:
    """A multiply-add for each tap; element-wise work is not counted, here as elsewhere in torch."""
    (batch, _, channels), (taps, _) = _shape(given.outer[0]), _shape(given.outer[1])
    return 2 * batch * _time(given) * channels * taps


def _backward_flops(given: Given) -> int:
    """Two for each tap: the input's gradient and the weight's."""
    return 4 * prod(_shape(given.outer[0])) * _shape(given.outer[1])[0]


CONV = Scan(_made, _forward, _backward, _forward_flops, _backward_flops)


def _time(given: Given) -> int:
    """How many tokens there are a result of; arguments may be shapes."""
    return _shape(given.outer[0] if given.pos is None else given.pos)[1]


def _shape(x: Any) -> Any:
    return getattr(x, "shape", x)


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[0] * triton.cdiv(x.shape[2], CHANNELS), triton.cdiv(x.shape[1], PIECE)


def sizes() -> dict[str, int]:
    """The tile as the constants of the kernels."""
    return {"K": STEPS, "S": SEGMENTS, "BC": CHANNELS}


def _tile(y: Tensor) -> dict[str, Any]:
    tile = {**sizes(), "num_warps": WARPS} if y.shape[1] > 1 else {"K": 1, "S": 1, "BC": CHANNELS, "num_warps": 1}
    return {**tile, "enable_fp_fusion": True}


def _accumulated(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
