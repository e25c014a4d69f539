"""The delta rule in chunks: what a state holds at a key is corrected, not only added to."""
# mypy: disable-error-code="no-untyped-call"

import torch
from kernels.chunk_sizes import chunk_length
from kernels.operators import wants_gradient
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint


def delta_scan(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor,
    q: Tensor,
    pos: Tensor,
    state: Tensor | None = None,
    *,
    decayed: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`S[t] = D + k[t] (v[t] - r[t] . D)^T` with `D = exp(log_a[t]) S[t-1]`, `y[t] = q[t] . S[t]`.

    log_a: [B, T, H], not positive. k, r, q: [B, T, H, K]. v: [B, T, H, V]. pos: [T] (whole documents, the state is not
    read) or [B, T]; a document starts from S = 0. state: [B, H, K, V] or None. decayed: whether r reads the state after
    its decay, as above, or S[t-1] itself.
    Returns y like v, and S[T-1] in at least single precision. Only the inputs are kept for the backward pass.

    What is added, e[t] = v[t] - r[t] . D, is the solution of a triangular system in each chunk, as S is the sum of what
    was added; with it the rest is a scan of outer products (Yang et al. 2024, arXiv:2406.06484, section 3).
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    dtype, (log_a, k, v, r, q) = v.dtype, (x.to(wide) for x in (log_a, k, v, r, q))
    if state is None or pos.dim() == 1:
        first = torch.zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1], dtype=wide, device=v.device)
    else:
        first = state.to(wide)
    time = v.shape[1]
    if time == 1:
        y, last = _one_token(log_a, k, v, r, q, pos, first, decayed)
    else:
        size = chunk_length(time, k.shape[-1], v.shape[-1])
        rest = -time % size
        split = [pad(x, (0, 0) * (x.dim() - 2) + (0, rest)).unflatten(1, (-1, size)) for x in (log_a, k, v, r, q)]
        documents = (pad(pos, (0, rest), value=1).reshape(-1, split[0].shape[1], size) == 0).cumsum(-1)
        y, last = checkpoint(_chunks, *split, documents, first, decayed, use_reentrant=False, preserve_rng_state=False)
        y = y.flatten(1, 2)[:, :time]
    return y.to(dtype), None if state is None else last


def _one_token(
    log_a: Tensor, k: Tensor, v: Tensor, r: Tensor, q: Tensor, pos: Tensor, state: Tensor, decayed: bool
) -> tuple[Tensor, Tensor]:
    """The state [B, H, K, V] is written in place, unless gradients are wanted."""
    starts = (pos == 0).reshape(-1, 1, 1, 1)
    decay = log_a[:, 0, :, None, None].exp().masked_fill(starts, 0)
    held = r[:, 0, :, None] @ state
    held = held * decay if decayed else held.masked_fill(starts, 0)
    keys, added = k[:, 0, ..., None], v[:, 0, :, None] - held
    if wants_gradient(decay, keys, added, state):
        after = decay * state + keys * added
    else:
        after = state.mul_(decay).addcmul_(keys, added)
    return (q[:, 0, :, None] @ after).movedim(-2, 1), after


def _chunks(
    log_a: Tensor, k: Tensor, v: Tensor, r: Tensor, q: Tensor, documents: Tensor, state: Tensor, decayed: bool
) -> tuple[Tensor, Tensor]:
    """Chunks [B, n, Q, H, ...], documents [B or 1, n, Q] and the state before them to y and the state after them."""
    log_a, k, v, r, q = (x.movedim(2, 3) for x in (log_a, k, v, r, q))  # [B, n, H, Q, ...]
    spans = log_a[..., None].expand(*log_a.shape, log_a.shape[-1]).tril(-1).cumsum(-2)  # i, j: the sum of j < t <= i
    total = log_a.cumsum(-1)
    to_read, since = (
        (spans, total) if decayed else (pad(spans, (0, 0, 1, 0))[..., :-1, :], pad(total, (1, 0))[..., :-1])
    )
    together = (documents[..., None] == documents[:, :, None])[:, :, None]
    fresh = (documents > 0)[:, :, None]
    leaves = (documents < documents[..., -1:])[:, :, None]

    corrected = (r @ k.mT) * to_read.masked_fill(~together.tril(-1), -torch.inf).exp()
    read = r * since.masked_fill(fresh, -torch.inf).exp()[..., None]
    free, bound = torch.linalg.solve_triangular(
        corrected, torch.cat([v, read], -1), upper=False, unitriangular=True
    ).split([v.shape[-1], k.shape[-1]], -1)
    kept = k * spans[..., -1, :].masked_fill(leaves, -torch.inf).exp()[..., None]
    enter = total.masked_fill(fresh, -torch.inf).exp()[..., None]
    states, added = [state], []
    for n in range(k.shape[1]):
        added.append(free[:, n] - bound[:, n] @ states[n])
        states.append(enter[:, n, :, -1:] * states[n] + kept[:, n].mT @ added[n])
    scores = (q @ k.mT) * spans.masked_fill(~together.tril(), -torch.inf).exp()
    y = scores @ torch.stack(added, 1) + (q * enter) @ torch.stack(states[:-1], 1)
    return y.movedim(3, 2), states[-1]
