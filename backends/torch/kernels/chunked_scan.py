"""Scans of outer products, in chunks: matrix products inside a chunk, states only between chunks."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence

import torch
from kernels.chunk_sizes import chunk_length
from kernels.chunked_fused import fused_chunked_key_scan, fused_chunked_scan
from kernels.chunked_gates import ChunkedGates, fused_gated_scan
from kernels.operators import runs_fused, wants_gradient
from kernels.scan import scan
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

# log_a, k, v, q in chunks [B, n, Q, ...], documents [B or 1, n, Q], state -> y [B, n, Q, ...], state
Chunks = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def chunked_scan(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor,
    state: Tensor | None = None,
    *,
    before: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`S[t] = exp(log_a[t]) S[t-1] + k[t] v[t]^T`, `y[t] = q[t] . S[t]` (Dao and Gu 2024, section 6).

    log_a: [B, T, G, H], not positive. k, q: [B, T, G, H or 1, K]. v: [B, T, G, H, V]. pos: [T] (whole documents, the
    state is not read) or [B, T]; a document starts from S = 0. state: [B, G, H, K, V] or None. before: the state is
    read before the update, `y[t] = q[t] . S[t-1]`.
    Returns y like v, and S[T-1] in at least single precision. Only the inputs are kept for the backward pass.
    """
    if before and v.shape[1] > 1:
        return _scan_before(chunked_scan, log_a, k, v, q, pos, state)
    if runs_fused(v):
        return fused_chunked_scan(log_a, k, v, q, pos, state, before=before)
    return _scan(_chunks, log_a, k, v, q, pos, state, before)


def chunked_key_scan(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor,
    state: Tensor | None = None,
    *,
    before: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same with a decay for each key: log_a [B, T, G, H, K], and S[t] = exp(log_a[t])[:, None] S[t-1] + ..."""
    if runs_fused(v):
        return fused_chunked_key_scan(log_a, k, v, q, pos, state, before=before)
    if before and v.shape[1] > 1:
        return _scan_before(chunked_key_scan, log_a, k, v, q, pos, state)
    return _scan(_key_chunks, log_a, k, v, q, pos, state, before)


def gated_chunked_scan(
    gates: ChunkedGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    k: Tensor,
    q: Tensor,
    pos: Tensor,
    state: Tensor | None = None,
    *,
    numbers: Sequence[float] = (),
) -> tuple[Tensor, Tensor | None]:
    """`chunked_scan` of `log_a, v = gates(x, w)`, and what the gates make of its y; on a GPU all of it is one kernel.

    x: each [B, T, G, H, V], w: each [G, H, V], or what broadcasts to these, x[0] in full. numbers: those of the
    gates. k, q, pos, state: as for `chunked_scan`. Returns y in the dtype of x[0], and the last state.
    """
    if runs_fused(x[0]):
        y, last = fused_gated_scan(gates, x, w, k, q, pos, state, numbers)
        return y, last
    log_a, v = gates.plain(*x, *w, *numbers, (pos == 0).expand(x[0].shape[:2])[..., None, None, None])
    decays = (v.new_zeros(()) + log_a).expand(*x[0].shape[:-1], 1)[..., 0]
    y, last = chunked_scan(decays, k, v.expand(x[0].shape), q, pos, state)
    return (y if gates.read is None else gates.read.plain(y, *x, *w, *numbers)).to(x[0].dtype), last


def _scan_before(
    scan: Scan, log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """`R[t] = S[t-1]` is a scan of the same form, whose decay, keys and values are those of the token before."""
    starts = (pos == 0).expand(k.shape[:2])
    old_a, old_k, old_v = (_token_before(x.expand(k.shape[:2] + x.shape[2:]), starts) for x in (log_a, k, v))
    y, last = scan(old_a, old_k, old_v, q, pos, state)
    if last is None:
        return y, None
    log_a, k, v, q = (x[:, -1:].to(last.dtype) for x in (log_a, k, v, q))
    return y, _one_token(log_a, k, v, q, pos[..., -1:], last)[1]


def _token_before(x: Tensor, starts: Tensor) -> Tensor:
    """x [B, T, *axes] a token later; zero in front of the sequence and of every document (starts [B, T])."""
    late = pad(x, (0, 0) * (x.dim() - 2) + (1, 0))[:, :-1]
    return late.masked_fill(starts.reshape(starts.shape + (1,) * (x.dim() - 2)), 0)


def _scan(
    chunks: Chunks, log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor | None, before: bool
) -> tuple[Tensor, Tensor | None]:
    """before: only of a single token."""
    wide = torch.promote_types(v.dtype, torch.float32)
    dtype, (log_a, k, v, q) = v.dtype, (x.to(wide) for x in (log_a, k, v, q))
    if state is None or pos.dim() == 1:
        start = torch.zeros(v.shape[0], *v.shape[2:4], k.shape[-1], v.shape[-1], dtype=wide, device=v.device)
    else:
        start = state.to(wide)
    time = v.shape[1]
    if time == 1:
        y, last = _one_token(log_a, k, v, q, pos, start, before)
    else:
        size = chunk_length(time, k.shape[-1], v.shape[-1])
        rest = -time % size
        split = [pad(x, (0, 0) * (x.dim() - 2) + (0, rest)).unflatten(1, (-1, size)) for x in (log_a, k, v, q)]
        documents = (pad(pos, (0, rest), value=1).reshape(-1, split[0].shape[1], size) == 0).cumsum(-1)
        y, last = checkpoint(chunks, *split, documents, start, use_reentrant=False, preserve_rng_state=False)
        y = y.flatten(1, 2)[:, :time]
    return y.to(dtype), None if state is None else last


def _one_token(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool = False
) -> tuple[Tensor, Tensor]:
    """One update and one product; the state [B, G, H, K, V] is written in place, unless gradients are wanted."""
    decay = log_a[:, 0].exp().reshape(*log_a.shape[:1], *log_a.shape[2:4], -1, 1)
    keys, values, queries = k[:, 0, ..., None], v[:, 0, ..., None, :], q[:, 0, ..., None, :]
    starts = (pos == 0).reshape(-1, 1, 1, 1, 1)
    y = (queries @ state).masked_fill(starts, 0) if before else None
    decay = decay.masked_fill(starts, 0)
    if wants_gradient(decay, keys, values, state):
        after = decay * state + keys * values
    else:
        after = state.mul_(decay).addcmul_(keys, values)
    y = queries @ after if y is None else y
    return y.movedim(-2, 1), after


def _chunks(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, documents: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """All chunks at once; the scores of a group are computed once for all heads that share its keys and queries."""
    k, key = _shared(k)
    q, query = _shared(q)
    spans = _spans(log_a.movedim(2, -1))  # [B, n, G, H, j, i]
    same = (documents[:, :, :, None] == documents[:, :, None]).tril()  # [B or 1, n, i, j]
    kept = spans.masked_fill(~same.mT[:, :, None, None], -torch.inf).exp()
    scores = torch.einsum(f"bnjg{key}k,bnig{query}k->bng{key or query}ji", k, q)
    if not key and not query:
        scores = scores[:, :, :, None]
    y = torch.einsum("bnghji,bnjghv->bnighv", scores * kept, v)
    enter = log_a[:, :, :1].movedim(2, -1) + spans[..., 0, :]  # [B, n, G, H, i]: from before the chunk up to i
    enter = _where(documents == 0, enter)
    leave = _where(documents == documents[..., -1:], spans[..., -1])
    added = torch.einsum(f"bnjg{key}k,bnjghv->bnghkv", k, v * leave.movedim(-1, 2)[..., None])
    starts, last = _carry(enter[..., -1, None, None], added, state)
    past = torch.einsum(f"bnig{query}k,bnghkv->bnighv", q, starts)
    return y + past * enter.movedim(-1, 2)[..., None], last


def _shared(x: Tensor) -> tuple[Tensor, str]:
    """Keys or queries [.., H or 1, K] without the axis where heads share them, and that axis' letter."""
    return (x.squeeze(-2), "") if x.shape[-2] == 1 else (x, "h")


def _spans(log_a: Tensor) -> Tensor:
    """[.., Q] -> [.., Q, Q]: at j, i the sum of log_a over j < r <= i, added up from j so that nothing cancels."""
    size = log_a.shape[-1]
    return log_a[..., None, :].expand(*log_a.shape, size).triu(1).cumsum(-1)


def _where(flags: Tensor, log_weight: Tensor) -> Tensor:
    """exp(log_weight [B, n, G, H, Q]) where the flags [B or 1, n, Q] hold, else zero."""
    return log_weight.masked_fill(~flags[:, :, None, None], -torch.inf).exp()


def _carry(decay: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states [B, n, G, H, K, V] before each chunk, and the one after the last."""
    goes_on = torch.ones(added.shape[:2], dtype=torch.int32, device=added.device)
    ends, last = scan(decay, added, goes_on, state)
    assert last is not None
    return torch.cat([state[:, None], ends[:, :-1]], 1), last


def _key_chunks(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, documents: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    log_a, k, v, q = (x.movedim(2, -2) for x in (log_a, k, v, q))  # [B, n, G, H, Q, axis]
    scores, prefix, suffix = _keyed_scores(log_a, k, q)
    same = (documents[:, :, :, None] == documents[:, :, None])[:, :, None, None]
    y = torch.where(same, scores, 0) @ v
    enter = _where((documents == 0)[..., None], prefix)
    leave = _where((documents == documents[..., -1:])[..., None], suffix)
    starts, last = _carry(enter[..., -1, :, None], (k * leave).mT @ v, state)
    return (y + (q * enter) @ starts).movedim(-2, 2), last


def _keyed_scores(log_a: Tensor, k: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`sum_k q[i] k[j] exp(sum of log_a over j < r <= i)` for j <= i, [.., Q, Q], by halves.

    Two neighbouring blocks of s tokens join: rows of the second see columns of the first through the decay since the
    second began (prefix) and the decay until the first ended (suffix). Both factors are at most one whatever the decay,
    and sums only ever grow, so that nothing overflows or cancels.
    """
    prefix, suffix = log_a, torch.zeros_like(log_a)
    scores = (q * k).sum(-1).expand(log_a.shape[:-1])[..., None, None]  # blocks of one token
    size = 1
    while size < log_a.shape[-2]:
        (_, q2), (k1, _), (p1, p2), (s1, s2) = (_halves(x, size) for x in (q, k, prefix, suffix))
        cross = (q2 * p2.exp()) @ (k1 * s1.exp()).mT
        first, second = scores.unflatten(-3, (-1, 2)).unbind(-3)
        upper = torch.cat([first, torch.zeros_like(first)], -1)
        scores = torch.cat([upper, torch.cat([cross, second], -1)], -2)
        prefix = torch.cat([p1, p2 + p1[..., -1:, :]], -2).flatten(-3, -2)
        suffix = torch.cat([s1 + p2[..., -1:, :], s2], -2).flatten(-3, -2)
        size *= 2
    return scores[..., 0, :, :], prefix, suffix


def _halves(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Neighbouring blocks of `size` tokens of x [.., Q, K]: the first ones and the second ones."""
    first, second = x.unflatten(-2, (-1, 2, size)).unbind(-3)
    return first, second
