"""Layers one after the other: equal periods of layers are stacked in one array per weight and scanned, so that they
are compiled once however many there are.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Make = Callable[[int, nnx.Rngs], nnx.Module]
Apply = Callable[[Any, Any, Any], tuple[Any, Any]]


def spans(depth: int, period: int, alone: Collection[int] = ()) -> tuple[tuple[int, int], ...]:
    """Cuts layers into runs `(first layer, periods)` of at least two whole periods, and single layers `(layer, 0)`.

    A run may start anywhere in the period; the layers in `alone` are in none.

    >>> spans(8, 3)
    ((0, 2), (6, 0), (7, 0))
    >>> spans(6, 1, alone=[3])
    ((0, 3), (3, 0), (4, 2))
    """
    found, layer = [], 0
    while layer < depth:
        end = min((i for i in alone if i >= layer), default=depth)
        periods = (min(end, depth) - layer) // period
        periods = periods if periods > 1 else 0
        found.append((layer, periods))
        layer += periods * period or 1
    return tuple(found)


def stacked(name: str, depth: int, period: int, alone: Collection[int] = ()) -> dict[str, tuple[str, ...]]:
    """Where the weights of `Layers` lie that are stacked: path -> the names of the layers along the leading axis.

    >>> stacked("layers", 5, 2)
    {'layers.parts.0.0': ('layers.0', 'layers.2'), 'layers.parts.0.1': ('layers.1', 'layers.3')}
    """
    return {
        f"{name}.parts.{part}.{i}": tuple(f"{name}.{first + i + n * period}" for n in range(periods))
        for part, (first, periods) in enumerate(spans(depth, period, alone))
        for i in range(period if periods else 0)
    }


def single(name: str, depth: int, period: int, alone: Collection[int] = ()) -> dict[str, str]:
    """Where the weights of the other layers lie: path -> name.

    >>> single("layers", 5, 2)
    {'layers.parts.1': 'layers.4'}
    """
    runs = enumerate(spans(depth, period, alone))
    return {f"{name}.parts.{part}": f"{name}.{first}" for part, (first, periods) in runs if not periods}


class Layers(nnx.Module):
    """`depth` layers: layer i is made by `replaced[i]`, else by `pattern[i % len(pattern)]`, from i and random numbers.

    `parts` has a list of stacked layers, one per place in the period, for a run of periods, and a layer for a single
    one; see `spans`. The layers of `alone`, and those replaced, are single ones. With `remat` the backward pass
    computes each layer again instead of keeping what is inside of it; with `unroll` there is no loop in what is
    compiled.
    """

    def __init__(
        self,
        pattern: Sequence[Make],
        depth: int,
        replaced: Mapping[int, Make] | None = None,
        alone: Collection[int] = (),
        *,
        rngs: nnx.Rngs,
        remat: bool = False,
        unroll: bool = False,
    ) -> None:
        def made(layer: int, rngs: nnx.Rngs) -> nnx.Module:
            return (replaced or {}).get(layer, pattern[layer % len(pattern)])(layer, rngs)

        def several(layer: int, count: int) -> nnx.Module:
            stack: nnx.Module = nnx.vmap(lambda keys: made(layer, keys))(rngs.split(count))
            return stack

        self.spans = spans(depth, len(pattern), alone or (replaced or {}).keys())
        self.parts: nnx.List[Any] = nnx.List(
            nnx.List(several(first + i, periods) for i in range(len(pattern))) if periods else made(first, rngs)
            for first, periods in self.spans
        )
        self.remat, self.unroll = remat, unroll

    def __call__(self, apply: Apply, x: Any, state: Any = None) -> tuple[Any, Any]:
        """Runs `x, new = apply(layer, x, state)` for every layer, each with its part of the state (None without one).

        x is an array or a tuple of arrays and keeps shapes and types from layer to layer. Returns the last x and what
        the layers gave back, in the structure of `init_state`.
        """
        new = []
        for part, old in zip(self.parts, state or [None] * len(self.parts), strict=True):
            x, after = (self._scan if isinstance(part, nnx.List) else self._one)(apply, part, x, old)
            new.append(after)
        return x, new

    def _one(self, apply: Apply, layer: Any, x: Any, state: Any) -> tuple[Any, Any]:
        def run(x: Any, state: Any) -> tuple[Any, Any]:
            return apply(layer, x, state)

        result: tuple[Any, Any] = (jax.checkpoint(run, prevent_cse=False) if self.remat else run)(x, state)
        return result

    def _scan(self, apply: Apply, layers: Any, x: Any, states: Any) -> tuple[Any, Any]:
        graph, weights = nnx.split(layers)

        def period(x: Any, part: Any) -> tuple[Any, Any]:
            weights, states = part
            new = []
            for layer, state in zip(nnx.merge(graph, weights), states, strict=True):
                x, after = self._one(apply, layer, x, state)
                new.append(after)
            return x, new

        states = states or [None] * len(layers)
        result: tuple[Any, Any] = jax.lax.scan(period, x, (weights, states), unroll=self.unroll)
        return result

    def init_state(self, batch: int, context: int, dtype: Any, *shared: nnx.Module) -> list[Any]:
        """The empty states, those of a stack along a leading axis. shared: modules that every layer calls."""

        def empty(layer: Any, *leading: int) -> Any:
            state = layer.init_state(batch, context, dtype, *shared)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (*leading, *x.shape)), state)

        return [
            [empty(layer, periods) for layer in part] if periods else empty(part)
            for part, (_, periods) in zip(self.parts, self.spans, strict=True)
        ]
