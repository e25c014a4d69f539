"""Softmax attention: grouped queries, packed documents; causal, with windows and rings of past keys, or both ways."""
# mypy: disable-error-code="no-untyped-call"

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

MASKED_QUERIES = 1024  # queries that share one explicit mask; the keys after the last of them are not read
SMALLEST_BLOCK = 64  # queries of a window block


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pos: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    *,
    window: int | None = None,
    scale: float,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """`y[t] = sum_s softmax_s(scale q[t] . k[s]) v[s]` over the tokens s of the document up to t.

    q: [B, T, G, M, D], where M query heads share a key head. k: [B, T, G, D]. v: [B, T, G, E].
    pos: [T] (whole documents) or [B, T]. window: how many tokens a query sees, itself included.
    state: rings of keys and values [B, W, G, D or E], or None; written in place unless gradients are wanted. A ring of
    W slots shows W tokens.
    Returns y [B, T, G, M, E], zero on padding, and the rings. Several tokens on a state with pos [B, T] read the
    largest first position from the device, so that empty slots cost nothing; one token never waits for an accelerator.
    """
    if state is None:
        return _sequence(q, k, v, pos, window, scale), None
    keys, values = state
    width = keys.shape[1]
    reach = width if window is None else min(window, width)
    if q.shape[1] == 1 and pos.dim() == 2:
        rings = write_ring(keys, k, pos), write_ring(values, v, pos)
        return _one_token(q, *rings, pos, reach, scale), rings
    old = min(held(pos, width), reach - 1)
    if old:
        past_k, past_v = read_ring(keys, pos, old), read_ring(values, pos, old)
        y = _sequence(q, torch.cat([past_k, k], 1), torch.cat([past_v, v], 1), pos, reach, scale)
    else:
        y = _sequence(q, k, v, pos[0] if _whole(pos) else pos, reach, scale)
    return y, (write_ring(keys, k, pos), write_ring(values, v, pos))


def bidirectional_attention(q: Tensor, k: Tensor, v: Tensor, pos: Tensor, *, scale: float) -> Tensor:
    """`y[t] = sum_s softmax_s(scale q[t] . k[s]) v[s]` over all tokens s of the document, later ones too.

    Shapes are those of `attention`; y [B, T, G, M, E] is zero on padding.
    """
    if pos.dim() == 1:
        return _attend(q, k, v, None, scale, causal=False)
    parts, time = [], q.shape[1]
    for first in range(0, time, MASKED_QUERIES):
        queries = slice(first, first + MASKED_QUERIES)
        distance = _distance(first, pos[:, queries].shape[1], time, pos)
        later = torch.where(distance >= 0, pos[:, queries, None], pos[:, None])
        seen = (distance.abs() <= later) | (
            distance == 0
        )  # the later of two lies at least their distance into its document
        parts.append(_attend(q[:, queries], k, v, seen[:, None], scale))
    return _without_padding(torch.cat(parts, 1), pos)


def held(pos: Tensor, width: int) -> int:
    """How many slots of a ring may hold tokens of the documents that go on: at most the largest first position."""
    return 0 if pos.dim() == 1 else min(width, max(0, int(pos[:, 0].max())))


def read_ring(ring: Tensor, pos: Tensor, count: int) -> Tensor:
    """The tokens of the `count <= W` positions before the chunk at pos [B, T], oldest first: [B, count, *axes]."""
    if count == 0:
        return ring[:, :0]
    before = torch.arange(-count, 0, device=ring.device)
    return ring[_rows(ring), (pos[:, :1] + before) % ring.shape[1]]


def write_ring(ring: Tensor, x: Tensor, pos: Tensor) -> Tensor:
    """The ring [B, W, *axes] with the last tokens of x [B, T, *axes] at slot `position mod W`.

    Counted back from the last position, so that no slot is written twice; tokens of earlier documents land in slots
    that are not valid. In place, unless a gradient has to flow through the ring.
    """
    width = ring.shape[1]
    count = min(x.shape[1], width)
    if torch.is_grad_enabled() and (ring.requires_grad or x.requires_grad):
        ring = ring.clone()
    last = shared_position(pos)
    if last is not None and last % width + 1 >= count:  # slots side by side: a copy, without indices
        ring[:, last % width + 1 - count : last % width + 1] = x[:, x.shape[1] - count :]
        return ring
    back = torch.arange(1 - count, 1, device=ring.device)
    slots = (pos[..., -1:] + back).expand(len(ring), count) % width
    ring[_rows(ring), slots] = x[:, x.shape[1] - count :].to(ring.dtype)
    return ring


def shared_position(pos: Tensor) -> int | None:
    """The last position of pos [T] or [B, T], if that of every sequence is the same; accelerators are not asked."""
    if pos.device.type != "cpu":
        return None
    first, *others = pos[..., -1:].flatten().tolist()
    return int(first) if all(other == first for other in others) else None


def _whole(pos: Tensor) -> bool:
    """Whether every row of pos [B, T] is one document from its start on, which needs no mask."""
    return pos.dim() == 2 and torch.equal(pos, torch.arange(pos.shape[1], device=pos.device).expand_as(pos))


def _rows(ring: Tensor) -> Tensor:
    return torch.arange(len(ring), device=ring.device)[:, None]


def _one_token(q: Tensor, keys: Tensor, values: Tensor, pos: Tensor, reach: int, scale: float) -> Tensor:
    """The token at pos [B, 1] against rings that hold it already; the heads of a group are the rows of one product."""
    width = used = keys.shape[1]
    last = shared_position(pos)
    if last is not None and last >= 0 and reach >= min(width, last + 1):  # every slot that is used is seen
        k, v = (ring[:, : last + 1].transpose(1, 2) for ring in (keys, values))
        return scaled_dot_product_attention(q[:, 0], k, v, scale=scale)[:, None]
    if pos.device.type == "cpu":  # slots after the largest position are empty; an accelerator would have to wait for it
        used = min(used, max(1, int(pos.max()) + 1))
    age = (pos - torch.arange(used, device=pos.device)) % width
    seen = ((age <= pos) & (age < reach)) | (age == 0)
    k, v = keys[:, :used].transpose(1, 2), values[:, :used].transpose(1, 2)
    y = scaled_dot_product_attention(q[:, 0], k, v, attn_mask=seen[:, None, None], scale=scale)
    return _without_padding(y[:, None], pos)


def _sequence(q: Tensor, k: Tensor, v: Tensor, pos: Tensor, window: int | None, scale: float) -> Tensor:
    """Queries [B, T, ...] against a stream of S >= T keys, whose last T are those of the queries themselves."""
    if window is not None and window < k.shape[1]:
        size = max(window, SMALLEST_BLOCK)
        return (
            _whole_window(q, k, v, window, size, scale)
            if pos.dim() == 1
            else _window(q, k, v, pos, window, size, scale)
        )
    if pos.dim() == 1:
        return _attend(q, k, v, None, scale)
    past, parts = k.shape[1] - q.shape[1], []
    for first in range(0, q.shape[1], MASKED_QUERIES):
        queries = slice(first, first + MASKED_QUERIES)
        end = past + min(first + MASKED_QUERIES, q.shape[1])
        seen = _seen(pos[:, queries, None], _distance(past + first, pos[:, queries].shape[1], end, pos), end)
        parts.append(_attend(q[:, queries], k[:, :end], v[:, :end], seen[:, None], scale))
    return _without_padding(torch.cat(parts, 1), pos)


def _whole_window(q: Tensor, k: Tensor, v: Tensor, window: int, size: int, scale: float) -> Tensor:
    """The window over one whole document: plain in the first block, then one mask that all blocks share."""
    time = min(size, q.shape[1])
    distance = _distance(size, size, 2 * size, q)
    seen = (distance >= 0) & (distance < window)
    first = None if window >= time else seen[:time, size : size + time]
    head = _attend(q[:, :size], k[:, :size], v[:, :size], first, scale)
    return torch.cat([head, _blocks(q[:, size:], k, v, seen, size, scale)], 1) if q.shape[1] > size else head


def _window(q: Tensor, k: Tensor, v: Tensor, pos: Tensor, window: int, size: int, scale: float) -> Tensor:
    """The window over packed documents or a continued stream: each block of queries with its own mask."""
    front = size - (k.shape[1] - q.shape[1])
    places = pad(pos, (0, -pos.shape[1] % size)).unflatten(1, (-1, size))
    seen = _seen(places[..., None], _distance(size, size, 2 * size, pos), window).flatten(0, 1)[:, None]
    return _without_padding(_blocks(q, _pad_time(k, front, 0), _pad_time(v, front, 0), seen, size, scale), pos)


def _blocks(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, size: int, scale: float) -> Tensor:
    """Each block of `size` queries against its own keys and the block before; k, v have one block more, in front."""
    batch, time = q.shape[:2]
    rest = -time % size
    blocks = _pad_time(q, 0, rest).unflatten(1, (-1, size)).flatten(0, 1)
    y = _attend(blocks, _block_pairs(k, rest, size), _block_pairs(v, rest, size), seen, scale)
    return y.reshape(batch, -1, *y.shape[2:])[:, :time]


def _block_pairs(x: Tensor, rest: int, size: int) -> Tensor:
    """[B, (n + 1) size - rest, *axes] -> [B n, 2 size, *axes]: each block after the one before it."""
    parts = _pad_time(x, 0, rest).unflatten(1, (-1, size))
    return torch.cat([parts[:, :-1], parts[:, 1:]], 2).flatten(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float, causal: bool = True) -> Tensor:
    """[B, T, G, M, D], [B, S, G, D], [B, S, G, E] -> [B, T, G, M, E]; seen: mask [.., T, S].

    Without a mask S = T, and the queries see what is not later, or everything if not `causal`.
    """
    groups, shared, value_size = q.shape[2], q.shape[3], v.shape[-1]
    size = max(q.shape[-1], value_size)  # the fused kernels want queries, keys and values of one size
    q, k, v = (pad(x, (0, size - x.shape[-1])) if x.shape[-1] < size else x for x in (q, k, v))
    q, k, v = q.flatten(2, 3).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = shared > 1 and seen is None
    if shared > 1 and seen is not None:  # the fused kernel that takes masks on CUDA wants a key head per query head
        k, v = (x[:, :, None].expand(-1, -1, shared, -1, -1).flatten(1, 2) for x in (k, v))
    y = scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=causal and seen is None, scale=scale, enable_gqa=grouped
    )
    y = y[..., :value_size].transpose(1, 2)
    return y.reshape(*y.shape[:2], groups, shared, value_size)


def _distance(first: int, queries: int, keys: int, like: Tensor) -> Tensor:
    """How far each key [S] lies behind each query [T, 1], when query 0 has key `first` as its own."""
    return torch.arange(first, first + queries, device=like.device)[:, None] - torch.arange(keys, device=like.device)


def _seen(pos: Tensor, distance: Tensor, window: int) -> Tensor:
    """The causal mask inside documents; a token always sees itself, so that no row is empty, not even on padding."""
    return ((distance >= 0) & (distance <= pos) & (distance < window)) | (distance == 0)


def _without_padding(y: Tensor, pos: Tensor) -> Tensor:
    return y.masked_fill((pos < 0)[..., None, None, None], 0)


def _pad_time(x: Tensor, front: int, back: int) -> Tensor:
    return pad(x, (0, 0) * (x.dim() - 2) + (front, back))
