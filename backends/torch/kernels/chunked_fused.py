"""The scans of outer products without gates, with a decay per head or per key, as operators of torch."""
# mypy: disable-error-code="no-untyped-call"

import torch
from kernels.chunk_sizes import key_parts
from kernels.chunked_gates import PLAIN, fused_gated_scan
from kernels.chunked_key_gates import PLAIN as PLAIN_KEYS
from kernels.chunked_key_gates import PLAIN_BEFORE, fused_key_scan
from torch import Tensor
from torch.nn.functional import pad


def fused_chunked_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None, *, before: bool = False
) -> tuple[Tensor, Tensor | None]:
    """See `chunked_scan` and `chunked_key_scan`: they differ in the axes of log_a. before: only per key."""
    wide = torch.promote_types(v.dtype, torch.float32)
    if log_a.dim() == 5:
        return fused_key_scan(PLAIN_BEFORE if before else PLAIN_KEYS, (v, log_a.to(wide), k, q), (), pos, state)
    if key_parts(k.shape[-1])[0] > 1:
        return _in_parts(log_a, k, v, q, pos, state)
    return fused_gated_scan(PLAIN, (v, log_a.to(wide)[..., None]), (), k, q, pos, state)


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

    decay = log_a.repeat_interleave(parts, 3)
    spread = v[..., None, :].expand(*v.shape[:4], parts, v.shape[-1]).flatten(3, 4)
    start = None if state is None else filled(state, 0, 0).unflatten(3, (parts, size)).flatten(2, 3)
    y, last = fused_chunked_scan(decay, divided(k), spread, divided(q), pos, start)
    y = y.unflatten(3, (heads, parts)).sum(4, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
    return y, None if last is None else last.unflatten(2, (heads, parts)).flatten(3, 4)[..., :keys, :]
