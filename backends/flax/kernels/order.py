"""Tokens in the order of their buckets, in tiles of one length: which tiles of keys a tile of queries can meet."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FAR = 1 << 30  # the place of what fills up the last tile: further away than any token of a document
PAIRS, PAIRS_ON_CPU = 1 << 22, 1 << 17  # how many run at once


class Order(NamedTuple):
    """T tokens of each of L lanes in the order of one round's buckets, in tiles.

    token [L, N]: which one lies at a place, 0 at what fills up the last tile. place [L, T]: where each token lies.
    codes [tiles, block, rounds], time, pos [tiles, block]: of the sorted tokens. behind, ahead: the tiles by how far
    the keys reach that they see, the furthest first, and how far.
    """

    round: jax.Array
    token: jax.Array
    place: jax.Array
    codes: jax.Array
    time: jax.Array
    pos: jax.Array
    behind: tuple[jax.Array, jax.Array]
    ahead: tuple[jax.Array, jax.Array]

    def sorted(self, x: jax.Array) -> jax.Array:
        """[L, T, *axes] -> [tiles, block, *axes]."""
        lane = jnp.arange(len(x))[:, None]
        return x[lane, self.token].reshape(*self.time.shape, *x.shape[2:])

    def unsorted(self, x: jax.Array) -> jax.Array:
        """[tiles, block, *axes] -> [L, T, *axes]."""
        lane = jnp.arange(len(self.token))[:, None]
        return x.reshape(*self.token.shape, *x.shape[2:])[lane, self.place]

    @property
    def at_once(self) -> int:
        """How many tiles run at once."""
        tiles, block = self.time.shape
        pairs = PAIRS_ON_CPU if jax.default_backend() == "cpu" else PAIRS
        return min(tiles, max(1, pairs // block**2))

    def walk(self, step: Callable[[jax.Array, jax.Array, Any], Any], carry: Any) -> Any:
        """Steps `(tiles of queries, tiles of keys, carry) -> carry` over all that meet, some at once.

        No tile is in one step twice; a place that is left over has a tile of its own, beyond the last.
        """
        none = len(self.time)

        def side(tiles: jax.Array, far: jax.Array, sign: int, first: int, carry: Any) -> Any:
            def at(distance: jax.Array, carry: Any) -> Any:
                count = jnp.sum(far >= distance)

                def some(part: jax.Array, carry: Any) -> Any:
                    index = part * self.at_once + jnp.arange(self.at_once)
                    queries = tiles[jnp.minimum(index, none - 1)]
                    return step(
                        jnp.where(index < count, queries, none),
                        jnp.where(index < count, queries + sign * distance, none),
                        carry,
                    )

                return jax.lax.fori_loop(0, -(-count // self.at_once), some, carry)

            return jax.lax.fori_loop(first, far[0] + 1, at, carry)

        return side(*self.ahead, 1, 1, side(*self.behind, -1, 0, carry))

    def same(self, queries: jax.Array, keys: jax.Array, lanes: int) -> jax.Array:
        """Whether tokens meet in this round and in none before it: [tiles, *lanes of size one, Tq, Tk]."""
        codes, others = self.codes[queries], self.codes[keys]
        met = [codes[:, :, None, i] == others[:, None, :, i] for i in range(codes.shape[-1])]
        same = jnp.select([self.round == i for i in range(len(met))], met) if len(met) > 1 else met[0]
        for earlier in range(len(met) - 1):
            same &= ~met[earlier] | (earlier >= self.round)
        return same.reshape(len(same), *(1,) * lanes, *same.shape[1:])


def order_of(codes: jax.Array, pos: jax.Array, block: int, both: bool, index: jax.Array) -> Order:
    """The order of one round of codes [L, T, rounds]; `both`: keys ahead of a query may be seen, too."""
    lanes, time = pos.shape
    count = -(-time // block)
    places = jnp.broadcast_to(jnp.arange(time), pos.shape)
    document = jnp.cumsum(pos == 0, 1)
    document, bucket, token = jax.lax.sort((document, codes[..., index], places), dimension=1, num_keys=3)
    new = jnp.concatenate(
        [places[:, :1] == 0, (document[:, 1:] != document[:, :-1]) | (bucket[:, 1:] != bucket[:, :-1])], 1
    )
    start = jax.lax.cummax(jnp.where(new, places, 0), 1)
    following = jnp.where(new, places, time)[:, 1:]
    end = jnp.concatenate([jax.lax.cummin(following, 1, reverse=True), jnp.full((lanes, 1), time)], 1)
    first = jnp.arange(count) * block
    last = jnp.minimum(first + block, time) - 1
    behind = first // block - start[:, first] // block
    ahead = (end[:, last] - 1) // block - last // block if both else jnp.zeros_like(behind)
    fill = ((0, 0), (0, count * block - time))
    filled = jnp.pad(token, fill)
    lane = jnp.arange(lanes)[:, None]
    when = jnp.pad(token, fill, constant_values=-FAR).reshape(-1, block)
    return Order(
        index,
        filled,
        jnp.zeros_like(token).at[lane, token].set(places),
        codes[lane, filled].reshape(*when.shape, -1),
        when,
        jnp.where(when < 0, -1, pos[lane, filled].reshape(when.shape)),
        _furthest(behind.ravel()),
        _furthest(ahead.ravel()),
    )


def _furthest(far: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tiles in the order of how far they reach, and how far."""
    tiles = jnp.argsort(-far)
    return tiles, far[tiles]
