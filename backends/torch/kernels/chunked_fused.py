"""The scans of outer products, with a decay per head or per key, as operators of torch."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
from kernels.chunk_sizes import key_parts
from kernels.chunked_gates import PLAIN, fused_gated_scan
from kernels.chunked_work import Shapes, backward_flops, forward_flops
from kernels.operators import TRITON, free_name
from torch import Tensor
from torch.nn.functional import pad

if TRITON:
    from kernels.chunked_key_launch import key_backward, key_forward


def fused_chunked_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """See `chunked_scan` and `chunked_key_scan`: they differ in the axes of log_a. Groups and heads become one axis."""
    if key_parts(k.shape[-1])[0] > 1:
        return _in_parts(log_a, k, v, q, pos, state)
    wide = torch.promote_types(v.dtype, torch.float32)
    if log_a.dim() == 4:
        return fused_gated_scan(PLAIN, (v, log_a.to(wide)[..., None]), (), k, q, pos, state)
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(v.shape[:2]).contiguous()
        start = None if state is None else state.to(wide).flatten(1, 2).contiguous()
    k, v, q = (x.flatten(2, 3).contiguous() for x in (k, v, q))
    y, last = _PER_KEY(log_a.to(wide).flatten(2, 3).contiguous(), k, v, q, places, start)
    groups = log_a.shape[2:4]
    return y.unflatten(2, groups), None if state is None else last.unflatten(1, groups)


def _in_parts(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Every key has a state of its own: parts of the keys run as more heads, whose results are added."""
    heads, keys = v.shape[3], k.shape[-1]
    parts, size = key_parts(keys)
    more = parts * size - keys

    def filled(x: Tensor, *inner: int) -> Tensor:
        return pad(x, (*inner, 0, more)) if more else x

    def divided(x: Tensor) -> Tensor:
        """[B, T, G, H or 1, keys] -> [B, T, G, H parts, size]"""
        return filled(x.expand(*x.shape[:3], heads, keys)).unflatten(-1, (parts, size)).flatten(3, 4)

    decay = divided(log_a) if log_a.dim() == 5 else log_a.repeat_interleave(parts, 3)
    spread = v[..., None, :].expand(*v.shape[:4], parts, v.shape[-1]).flatten(3, 4)
    start = None if state is None else filled(state, 0, 0).unflatten(3, (parts, size)).flatten(2, 3)
    y, last = fused_chunked_scan(decay, divided(k), spread, divided(q), pos, start)
    y = y.unflatten(3, (heads, parts)).sum(4, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
    return y, None if last is None else last.unflatten(2, (heads, parts)).flatten(3, 4)[..., :keys, :]


def _register(name: str) -> Any:
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    @torch.library.custom_op(free_name(name), mutates_args=())
    def fused(
        log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        outputs = _outputs(log_a, k, v, q, pos, start)
        key_forward(log_a, k, v, q, pos, start, *outputs)
        return outputs

    @torch.library.custom_op(free_name(f"{name}_backward"), mutates_args=())
    def gradients(
        log_a: Tensor,
        k: Tensor,
        v: Tensor,
        q: Tensor,
        pos: Tensor | None,
        start: Tensor | None,
        last: Tensor,
        dy: Tensor,
        dlast: Tensor | None,
    ) -> list[Tensor]:
        found: list[Tensor] = key_backward(log_a, k, v, q, pos, start, last, dy, dlast)
        return found

    def back(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Any, ...]:
        log_a, k, v, q, pos, start, last = ctx.saved_tensors
        dy = torch.zeros_like(v) if dy is None else dy.contiguous()
        dlast = None if dlast is None else dlast.contiguous()
        dlog, dk, dv, dq, dstart = gradients(log_a, k, v, q, pos, start, last, dy, dlast)
        return dlog, dk, dv, dq, None, None if start is None else dstart

    fused.register_fake(_outputs)
    gradients.register_fake(_gradients)
    fused.register_autograd(back, setup_context=_keep)
    register_flop_formula(fused._opoverload.overloadpacket)(_forward_flops)
    register_flop_formula(gradients._opoverload.overloadpacket)(_backward_flops)
    return fused


def _outputs(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y and the last state, empty."""
    return torch.empty_like(v), log_a.new_empty(v.shape[0], v.shape[2], k.shape[3], v.shape[3])


def _gradients(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    last: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> list[Tensor]:
    return [torch.empty_like(x) for x in (log_a, k, v, q, last)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _forward_flops(log_a: Any, k: Any, v: Any, q: Any, *_: Any, **__: Any) -> int:
    return forward_flops(Shapes(k, v, q), per_key=True)


def _backward_flops(log_a: Any, k: Any, v: Any, q: Any, *_: Any, **__: Any) -> int:
    return backward_flops(Shapes(k, v, q), per_key=True)


_PER_KEY: Any = _register("chunked_key_scan") if TRITON else None
