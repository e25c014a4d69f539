"""Pair programs that are not plain attention: blocks of queries against their keys, and rings of past keys.

(k, v), keys, state = remember((k, v), pos, state)

def program(rows: Rows) -> Tensor:
    s = torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
    p = rows.softmax(s, rows.window(256))  # [B, heads, Tq, Tk]
    return torch.einsum("bhqk,bkhd->bqhd", p, rows.key_tokens(v))

y = over_rows(program, keys, before=255)  # [B, T, heads, dim]
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType

import torch
from kernels.attention import held, read_ring, write_ring
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Keys:
    """Where the keys of a program lie: `count` tokens, the last T of them those at pos ([T] or [B, T]).

    In the order of time, or, if `ring` is its width, in the slots of a ring, which a single token is already in.
    """

    pos: Tensor
    count: int
    ring: int | None = None


def remember(tensors: Tensors, pos: Tensor, rings: Tensors | None) -> tuple[Tensors, Keys, Tensors | None]:
    """What a chunk of tokens can see of each tensor [B, T, *axes], [B, S, *axes]; where it lies; the rings after it.

    rings: one [B, W, *axes] for each tensor, all of one width, or None: the tokens see only one another. They are
    written in place, unless gradients are wanted. Several tokens with pos [B, T] on rings read the largest first
    position from the device, so that empty slots cost nothing; a single token never waits for an accelerator.
    """
    time = pos.shape[-1]
    if rings is None:
        return tensors, Keys(pos, time), None
    width = rings[0].shape[1]
    if time == 1 and pos.dim() == 2:
        after = tuple(write_ring(ring, x, pos) for ring, x in zip(rings, tensors, strict=True))
        used = min(width, max(1, int(pos.max()) + 1)) if pos.device.type == "cpu" else width
        return tuple(ring[:, :used] for ring in after), Keys(pos, used, width), after
    past = held(pos, width)
    seen = tuple(torch.cat([read_ring(r, pos, past), x], 1) for r, x in zip(rings, tensors, strict=True))
    return seen, Keys(pos, past + time), tuple(write_ring(r, x, pos) for r, x in zip(rings, tensors, strict=True))


def over_rows(
    program: Callable[["Rows"], Tensor],
    keys: Keys,
    *,
    before: int | None = None,
    after: int | None = 0,
    block: int = 128,
) -> Tensor:
    """Run a program for blocks of queries and join its values [B, Tq, *axes] to [B, T, *axes].

    program: a deterministic function; it may close over tensors that require gradients, and runs again in the backward
    pass, so that the pairs of one block at a time are kept. before, after: how many keys behind and ahead of a query
    can matter to it (None: all); a window of n is before = n - 1, a causal program has after = 0.
    """
    program = _as_it_is(program)
    time = keys.pos.shape[-1]
    past = keys.count - time
    if keys.ring is not None:
        return program(Rows(keys, slice(0, 1), slice(0, keys.count)))
    parts: list[Tensor] = []
    for first in range(0, time, block):
        end = min(first + block, time)
        start = 0 if before is None else max(0, past + first - before)
        stop = keys.count if after is None else min(keys.count, past + end + after)
        rows = Rows(keys, slice(first, end), slice(start, stop))
        parts.append(checkpoint(program, rows, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts, 1)


def _as_it_is(program: Callable[["Rows"], Tensor]) -> Callable[["Rows"], Tensor]:
    """The program with what its names stand for now: when the backward pass runs it again they may stand for others."""
    if not isinstance(program, FunctionType):
        return program
    cells = tuple(CellType(cell.cell_contents) for cell in program.__closure__ or ())
    return FunctionType(program.__code__, program.__globals__, program.__name__, program.__defaults__, cells)


class Rows:
    """A block of queries against a range of keys.

    Pair values are [B, *axes, Tq, Tk]. Masks are [B or 1, Tq, Tk] and fit pair values with any axes; they may be joined
    with `&`, `|`, `~` and with comparisons of `queries` and `keys`. Masks speak of distance alone: `softmax` and the
    sums add that both tokens are of one document. A query without any key gets 0.
    """

    def __init__(self, keys: Keys, queries: slice, columns: slice) -> None:
        pos = keys.pos if keys.pos.dim() == 2 else keys.pos[None]
        self._queries, self._keys = queries, columns
        past = keys.count - pos.shape[1]
        places = torch.arange(keys.count, device=pos.device)
        if keys.ring is not None:
            behind = (pos - places) % keys.ring  # [B, Tk]
            self.distance = behind[:, None]
            self.key_pos = pos - behind
        else:
            self.distance = (past + places[queries, None] - places[columns])[None]
            earlier = pos[:, :1] + torch.arange(-past, 0, device=pos.device)
            self.key_pos = torch.cat([earlier, pos], 1)[:, columns]
        self.query_pos = pos[:, queries]
        if keys.pos.dim() == 1:
            self.together = self.everything()
        else:  # of one document: the later of the two is at least their distance into it
            later = torch.where(self.distance >= 0, self.query_pos[..., None], self.key_pos[:, None])
            self.together = self.distance.abs() <= later

    def query_tokens(self, x: Tensor) -> Tensor:
        """The tokens x [B, T, *axes] of the queries: [B, Tq, *axes]."""
        return x[:, self._queries]

    def key_tokens(self, x: Tensor) -> Tensor:
        """The remembered tokens x [B, S, *axes] of the keys: [B, Tk, *axes]."""
        return x[:, self._keys]

    def queries(self, x: Tensor) -> Tensor:
        """Tokens x [B, T, *axes] as a pair value that is constant along keys: [B, *axes, Tq, 1]."""
        return self.query_tokens(x).movedim(1, -1)[..., None]

    def keys(self, x: Tensor) -> Tensor:
        """Remembered tokens x [B, S, *axes] as a pair value that is constant along queries: [B, *axes, 1, Tk]."""
        return self.key_tokens(x).movedim(1, -1)[..., None, :]

    def everything(self) -> Tensor:
        """Every key."""
        return torch.ones_like(self.distance, dtype=torch.bool)

    def causal(self) -> Tensor:
        """The query itself and what came before it."""
        return self.distance >= 0

    def window(self, n: int | None) -> Tensor:
        """The last n keys, the query itself included; None: all that came before."""
        return self.causal() if n is None else self.causal() & (self.distance < n)

    def near(self, n: int) -> Tensor:
        """Up to n keys to either side."""
        return self.distance.abs() <= n

    def dilated(self, n: int, step: int) -> Tensor:
        """Every step-th of the last n step keys, the query itself included."""
        return self.window(n * step) & (self.distance % step == 0)

    def prefix(self, n: int) -> Tensor:
        """The first n keys of the document."""
        return (self.key_pos < n)[:, None].expand(-1, self.distance.shape[1], -1)

    def softmax(self, scores: Tensor, where: Tensor | None = None) -> Tensor:
        """The softmax over keys, computed in at least single precision, in the dtype of the scores; zero elsewhere."""
        seen = self._seen(scores, where)
        wide = torch.promote_types(scores.dtype, torch.float32)
        hidden = torch.zeros_like(seen, dtype=wide).masked_fill(~seen, torch.finfo(wide).min / 2)  # a sum stays finite
        p = torch.softmax(scores + hidden, -1)
        return (p * seen).to(scores.dtype)

    def select(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """The pair value x inside the document and the mask, zero elsewhere."""
        return torch.where(self._seen(x, where), x, 0)

    def sum(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        return self.select(x, where).sum(-1).movedim(-1, 1)

    def mean(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        counts = self._seen(x, where).sum(-1).clamp(min=1)
        return (self.select(x, where).sum(-1) / counts).movedim(-1, 1)

    def max(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        seen = self._seen(x, where)
        top = torch.where(seen, x, torch.finfo(x.dtype).min).amax(-1)
        return torch.where(seen.any(-1), top, 0).movedim(-1, 1)

    def min(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        return -self.max(-x, where)

    def _seen(self, x: Tensor, where: Tensor | None) -> Tensor:
        """The document and the mask, with an axis of size one for each feature axis of x."""
        between = (1,) * (x.dim() - 3)
        together = self.together.reshape(len(self.together), *between, *self.together.shape[1:])
        if where is None:
            return together
        if where.dim() == 3:
            where = where.reshape(len(where), *between, *where.shape[1:])
        return together & where
