"""Tokens in the order of their buckets, in tiles of one length: which tiles of keys a tile of queries can meet."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 1 << 30  # the place of what fills up the last tile: further away than any token of a document
PAIRS, PAIRS_ON_CPU = 1 << 22, 1 << 18  # how many run at once


@dataclass(frozen=True)
class Order:
    """T tokens of each of L lanes in the order of one round's buckets, in tiles.

    token [L, N]: which one lies at a place, 0 at what fills up the last tile. place [L, T]: where each token lies.
    codes [tiles, block, rounds], time, pos [tiles, block]: of the sorted tokens. behind, ahead: the tiles by how far
    the keys reach that they see, the furthest first, and how many of them reach 0, 1, ... tiles.
    """

    round: int
    token: Tensor
    place: Tensor
    codes: Tensor
    time: Tensor
    pos: Tensor
    behind: tuple[Tensor, list[int]]
    ahead: tuple[Tensor, list[int]]

    def sorted(self, x: Tensor) -> Tensor:
        """[L, T, *axes] -> [tiles, block, *axes]."""
        return _taken(x, self.token).reshape(*self.time.shape, *x.shape[2:])

    def unsorted(self, x: Tensor) -> Tensor:
        """[tiles, block, *axes] -> [L, T, *axes]."""
        return _taken(x.reshape(*self.token.shape, *x.shape[2:]), self.place)

    def steps(self) -> list[tuple[Tensor, Tensor]]:
        """Tiles of queries and of keys that meet, some at once; no tile is in one step twice."""
        pairs = PAIRS_ON_CPU if self.time.device.type == "cpu" else PAIRS
        most = max(1, pairs // self.time.shape[1] ** 2)
        found = []
        for (tiles, counts), sign, first in ((self.behind, -1, 0), (self.ahead, 1, 1)):
            for distance, count in list(enumerate(counts))[first:]:
                for start in range(0, count, most):
                    some = tiles[start : min(start + most, count)]
                    found.append((some, some + sign * distance))
        return found

    def same(self, queries: Tensor, keys: Tensor, lanes: int) -> Tensor:
        """Whether tokens meet in this round and in none before it: [tiles, *lanes of size one, Tq, Tk]."""
        codes, others = self.codes[queries][:, :, None], self.codes[keys][:, None]
        same = codes[..., self.round] == others[..., self.round]
        for earlier in range(self.round):
            same = same & (codes[..., earlier] != others[..., earlier])
        return same.reshape(len(same), *(1,) * lanes, *same.shape[1:])


def orders_of(codes: Tensor, pos: Tensor, packed: bool, block: int, both: bool) -> list[Order]:
    """The orders of all rounds of codes [L, T, rounds]; `both`: keys ahead of a query may be seen, too."""
    time = codes.shape[1]
    places, count = torch.arange(time, device=pos.device), -(-time // block)
    first = places[::block]
    last = (first + block - 1).clamp(max=time - 1)
    document = (pos == 0).cumsum(1) if packed else torch.zeros_like(pos)
    tokens, behind, ahead = [], [], []
    for bucket in codes.unbind(-1):
        token = bucket.argsort(dim=1, stable=True)
        token = token.gather(1, document.gather(1, token).argsort(dim=1, stable=True)) if packed else token
        new = _changes(bucket.gather(1, token)) | _changes(document.gather(1, token))
        start = torch.where(new, places, 0).cummax(1).values[:, first]
        end = torch.where(new, places, time).flip(1).cummin(1).values.flip(1).roll(-1, 1)
        end[:, -1] = time
        tokens.append(token)
        behind.append((first // block - start // block).flatten())
        ahead.append(((end[:, last] - 1) // block - last // block).flatten())
    far = torch.stack([*behind, *ahead]).sort(dim=1, descending=True, stable=True)
    reach = torch.arange(count, device=pos.device).repeat(len(far.values), 1)
    counts = torch.searchsorted(-far.values, -reach, right=True).tolist()
    reaches = [(tiles, [n for n in some if n]) for tiles, some in zip(far.indices, counts, strict=True)]
    orders: list[Order] = []
    for index, token in enumerate(tokens):
        place = torch.empty_like(token).scatter_(1, token, places.expand_as(token))
        filled = F.pad(token, (0, count * block - time))
        when = F.pad(token, (0, count * block - time), value=-FAR).reshape(-1, block)
        orders.append(
            Order(
                index, filled, place, _taken(codes, filled).reshape(*when.shape, -1), when,
                torch.where(when < 0, -1, pos.gather(1, filled).reshape(when.shape)),
                reaches[index], reaches[len(tokens) + index] if both else (when[:0, 0], []),
            )
        )  # fmt: skip
    return orders


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """The places [L, N] of x [L, T, *axes] in each lane: [L, N, *axes]."""
    starts = torch.arange(0, x.shape[0] * x.shape[1], x.shape[1], device=x.device)[:, None]
    taken = x.flatten(0, 1).index_select(0, (places + starts).flatten())
    return taken.reshape(*places.shape, *x.shape[2:])


def _changes(x: Tensor) -> Tensor:
    """Where a sorted sequence [L, T] has another value than before; true at the first."""
    return torch.cat([torch.ones_like(x[:, :1], dtype=torch.bool), x[:, 1:] != x[:, :-1]], 1)
