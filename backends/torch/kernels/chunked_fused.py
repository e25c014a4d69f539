"""The scans of outer products without gates, with a decay per head or per key, as operators of torch."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable

import torch
from kernels.chunk_sizes import key_parts
from kernels.chunked_gates import NORMALISED, PLAIN, fused_gated_scan, fused_normalised_scan
from kernels.chunked_key_gates import PER_HEAD_BEFORE, PLAIN_BEFORE, fused_key_scan
from kernels.chunked_key_gates import PLAIN as PLAIN_KEYS
from kernels.operators import wants_gradient
from torch import Tensor
from torch.nn.functional import pad

Read = tuple[Tensor, ...]
States = tuple[Tensor | None, ...]


def fused_chunked_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None, *, before: bool = False
) -> tuple[Tensor, Tensor | None]:
    """See `chunked_scan`; before: best for a single token, for its kernel has short chunks."""
    if before:
        return fused_key_scan(PER_HEAD_BEFORE, (*_tokens(v, log_a), k, q), (), pos, state)
    (y,), (last,) = _in_parts(_plain, log_a, k, v, q, pos, (state,))
    return y, last


def fused_chunked_key_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None, *, before: bool = False
) -> tuple[Tensor, Tensor | None]:
    """See `chunked_key_scan`."""
    return fused_key_scan(PLAIN_BEFORE if before else PLAIN_KEYS, (v, _wide(v, log_a), k, q), (), pos, state)


def fused_normalised_chunked_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, states: tuple[Tensor | None, Tensor | None]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor | None, Tensor | None]]:
    """See `normalised_chunked_scan`: y like v, with the normaliser in at least single precision."""
    (y, norm), (last, last_sums) = _in_parts(_normalised, log_a, k, v, q, pos, states)
    return (y, norm), (last, last_sums)


def _plain(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, states: States) -> tuple[Read, States]:
    y, last = fused_gated_scan(PLAIN, _tokens(v, log_a), (), k, q, pos, states[0])
    return (y,), (last,)


def _normalised(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, states: States) -> tuple[Read, States]:
    return fused_normalised_scan(NORMALISED, _tokens(v, log_a), (), k, q, pos, (states[0], states[1]))


def _tokens(v: Tensor, log_a: Tensor) -> tuple[Tensor, Tensor]:
    return v, _wide(v, log_a)[..., None]


def _wide(v: Tensor, log_a: Tensor) -> Tensor:
    return log_a.to(torch.promote_types(v.dtype, torch.float32))


def _in_parts(
    scan: Callable[..., tuple[Read, States]],
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor,
    states: States,
) -> tuple[Read, States]:
    """Every key has a state of its own: parts of many keys run as more heads, whose results are added.

    The kernel of a token behind a state has room for them all.
    """
    heads, keys = v.shape[3], k.shape[-1]
    parts, size = key_parts(keys)
    behind = pos.dim() == 2 and states[0] is not None
    if parts == 1 or (behind and v.shape[1] == 1 and not wants_gradient(log_a, k, v, q, *states)):
        return scan(log_a, k, v, q, pos, states)
    more = parts * size - keys

    def filled(x: Tensor, axes_behind: int = 0) -> Tensor:
        return pad(x, (*(0, 0) * axes_behind, 0, more)) if more else x

    def divided(x: Tensor) -> Tensor:
        """[B, T, G, H or 1, keys] -> [B, T, G, H parts, size]"""
        return filled(x.expand(*x.shape[:3], heads, keys)).unflatten(-1, (parts, size)).flatten(3, 4)

    decay = log_a.repeat_interleave(parts, 3)
    spread = v[..., None, :].expand(*v.shape[:4], parts, v.shape[-1]).flatten(3, 4)
    before = (None if s is None else filled(s, s.dim() - 4).unflatten(3, (parts, size)).flatten(2, 3) for s in states)
    read, last = scan(decay, divided(k), spread, divided(q), pos, tuple(before))
    wide = torch.promote_types(v.dtype, torch.float32)
    return (
        tuple(x.unflatten(3, (heads, parts)).sum(4, dtype=wide).to(x.dtype) for x in read),
        tuple(None if s is None else s.unflatten(2, (heads, parts)).flatten(3, 4)[:, :, :, :keys] for s in last),
    )
