"""One token of a scan of outer products on a GPU, with its gates if it has any, as operators of torch."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from kernels.chunked_token_triton import outer_token
from kernels.operators import free_name
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

TILE = 2048  # elements of the state that a program holds, at most
WARPS = 4


def fused_token(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    """See `chunked_scan` and `chunked_key_scan`, whose time is 1 here, pos [B, 1]. Groups and heads become one axis."""
    wide = torch.promote_types(v.dtype, torch.float32)
    k, v, q, log_a = (x[:, 0].flatten(1, 2).contiguous() for x in (k, v, q, log_a.to(wide)))
    places, groups = pos.expand(v.shape[0], 1).contiguous(), state.shape[1:3]
    y, last = _token(log_a, k, v, q, places, state.to(wide).flatten(1, 2).contiguous(), before)
    return y.unflatten(1, groups)[:, None], last.unflatten(1, groups)


@torch.library.custom_op(free_name("outer_token"), mutates_args=())
def _token(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    y, last = torch.empty_like(v), torch.empty_like(state)
    xs: tuple[Tensor, ...] = (v,) if log_a.dim() == 3 else (v, log_a)
    of_keys, has_values = log_a if log_a.dim() == 3 else None, (True, False)[: len(xs)]
    _launch(
        xs, (), of_keys, k, q, pos, (state, None), (y, last, None, None), X=has_values, W=(), NUMBERS=(), GATES=None,
        OUT=None, NORMALISED=False, BEFORE=before,
    )  # fmt: skip
    return y, last


@_token.register_fake
def _(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(state)


@register_flop_formula(_token._opoverload.overloadpacket)
def _flops(log_a: Any, k: Any, v: Any, q: Any, pos: Any, state: torch.Size, *_: Any, **__: Any) -> int:
    """The read-out is a product; so is the update, of a key and a value."""
    return 4 * state.numel()


def gated_token(name: str, gates: Any) -> Any:
    """The operator `(x, w, numbers, k, q, pos, state, sums) -> (y, last, norm, last_sums)` of one token with gates.

    x: [B, heads, V] or [B, heads]. w: [heads, V] or [heads]. k, q: [B, heads or fewer, K]. pos: [B, 1]. sums [B, heads,
    K] are there if the gates are normalised, norm [B, heads] if besides nothing follows the read-out; others are empty.
    """

    @torch.library.custom_op(free_name(f"{name}_outer_token"), mutates_args=())
    def token(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        k: Tensor,
        q: Tensor,
        pos: Tensor,
        state: Tensor,
        sums: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs = made(x, w, numbers, k, q, pos, state, sums)
        y, last, norm, last_sums = outputs
        _launch(
            tuple(x), tuple(w), None, k, q, pos, (state, sums), (y, last, last_sums, norm if norm.numel() else None),
            X=gates.x_values, W=gates.w_values, NUMBERS=tuple(numbers), GATES=gates.device,
            OUT=gates.read and gates.read.device, NORMALISED=gates.normalised, BEFORE=False,
        )  # fmt: skip
        return outputs

    def made(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        k: Tensor,
        q: Tensor,
        pos: Tensor,
        state: Tensor,
        sums: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        has_norm = sums is not None and gates.read is None
        return (
            torch.empty_like(x[0]),
            torch.empty_like(state),
            state.new_empty(state.shape[:2] if has_norm else 0),
            state.new_empty(0) if sums is None else torch.empty_like(sums),
        )

    token.register_fake(made)
    register_flop_formula(token._opoverload.overloadpacket)(
        lambda x, w, numbers, k, q, pos, state, *_, **__: 4 * state.numel()
    )
    return token


def _launch(
    xs: tuple[Tensor, ...],
    ws: tuple[Tensor, ...],
    log_a: Tensor | None,
    k: Tensor,
    q: Tensor,
    pos: Tensor,
    states: tuple[Tensor, Tensor | None],
    outputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    **equations: Any,
) -> None:
    """states: S and the sums of the keys. outputs: y, then both states and what the queries read of the sums."""
    state, y = states[0], outputs[0]
    batch, heads, keys, values = state.shape
    rows = triton.next_power_of_2(keys)
    columns = min(triton.next_power_of_2(values), max(8, TILE // rows))
    with torch.cuda.device_of(y):
        outer_token[(triton.cdiv(values, columns), heads, batch)](
            xs, ws, log_a, k, q, pos, *states, *outputs, heads, k.shape[1], q.shape[1], keys, values,
            RAGGED=values % columns != 0, BK=rows, BV=columns, **equations,
            ACC=tl.float64 if state.dtype == torch.float64 else tl.float32, num_warps=WARPS,
        )  # fmt: skip
