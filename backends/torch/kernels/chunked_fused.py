"""The scans of outer products, with a decay per head or per key, as operators of torch."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
from kernels.chunk_sizes import counted_length, key_parts
from kernels.operators import TRITON, free_name
from torch import Tensor
from torch.nn.functional import pad

if TRITON:
    from kernels.chunked_launch import backward, forward


def fused_chunked_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """See `chunked_scan` and `chunked_key_scan`: they differ in the axes of log_a. Groups and heads become one axis."""
    if key_parts(k.shape[-1])[0] > 1:
        return _in_parts(log_a, k, v, q, pos, state)
    wide = torch.promote_types(v.dtype, torch.float32)
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(v.shape[:2]).contiguous()
        start = None if state is None else state.to(wide).flatten(1, 2).contiguous()
    k, v, q = (x.flatten(2, 3).contiguous() for x in (k, v, q))
    operator = _PER_KEY if log_a.dim() == 5 else _PER_HEAD
    y, last = operator(log_a.to(wide).flatten(2, 3).contiguous(), k, v, q, places, start)
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
        forward(log_a, k, v, q, pos, start, *outputs)
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
        found: list[Tensor] = backward(log_a, k, v, q, pos, start, last, dy, dlast)
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
    """Scores and their mix inside of chunks, states into and out of them."""
    size, chunks = _chunks(v)
    scores = max(k[2], q[2]) * size * size if len(log_a) == 3 else v[2] * size * (size - 1) // 2
    return int(2 * chunks * (scores * k[3] + v[2] * v[3] * size * (size + 2 * k[3])))


def _backward_flops(log_a: Any, k: Any, v: Any, q: Any, *_: Any, **__: Any) -> int:
    """Two gradients of every product, and the forward work once more; with a decay per key all but the last state."""
    size, chunks = _chunks(v)
    again = 0 if len(log_a) == 3 else 2 * chunks * v[2] * size * k[3] * v[3]
    return 3 * _forward_flops(log_a, k, v, q) - int(again)


def _chunks(v: Any) -> tuple[int, int]:
    """Tokens of a chunk and chunks of all sequences, as the convention has them: see archc's count of what runs."""
    size = counted_length(v[1])
    return size, v[0] * -(-v[1] // size)


_PER_HEAD: Any = _register("chunked_scan") if TRITON else None
_PER_KEY: Any = _register("chunked_key_scan") if TRITON else None
