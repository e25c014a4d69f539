"""What the operators of attention with composed heads are given, and what of it each composition reads."""

from typing import Any, NamedTuple

from torch import Tensor

Planes = tuple[tuple[int, ...], ...]


class Given(NamedTuple):
    """The arguments of a sequence, all contiguous.

    q: [B, T, heads, dim]. k: [B, S, heads, dim], v: [B, S, heads, value]: those of the queries come last.
    tokens: [B, T or S, planes, heads or 1], in the order of `composed_attention`. weights: planes [1, planes, heads or
    1] or matrices [heads, heads]. pos: [B, T], or None for whole documents. window: how many keys a query sees, 0 for
    all. scale: the factor of q . k.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    tokens: list[Tensor]
    weights: list[Tensor]
    pos: Tensor | None
    window: int
    scale: float


class GivenBack(NamedTuple):
    """Besides, for the gradients: logarithms of the normalisers [B, heads, T], and the gradient of y."""

    lse: Tensor
    dy: Tensor


class Ring(NamedTuple):
    """Besides, for a token at pos [B, 1]: how many slots the rings k, v and tokens have, of which the first S are here.

    The token is in them.
    """

    ring: int


class Read(NamedTuple):
    """What a composition reads: tokens [B, T or S, planes, heads or 1] on either side, and weights.

    A weight is planes [1, planes, heads or 1] or a matrix [heads, heads].
    """

    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    @property
    def planes(self) -> Planes:
        """Of queries, keys and weights, three numbers of each array, as one tuple: its planes, 0 for a matrix; heads
        or 1; how many planes and matrices come before.
        """
        return tuple(map(_planes, self))


def reads(composed: Any, given: Given) -> tuple[Read, Read]:
    """What the compositions before and after the softmax read, of the tokens and weights of both."""
    found, tokens, weights = [], given.tokens, given.weights
    for mix in (composed.before, composed.after):
        sides, shapes = (mix.sides, mix.shapes) if mix else ("", "")
        own, tokens = tokens[: len(sides)], tokens[len(sides) :]
        held, weights = weights[: len(shapes)], weights[len(shapes) :]
        queries, keys = (tuple(x for x, at in zip(own, sides, strict=True) if at == side) for side in "qk")
        found.append(Read(queries, keys, tuple(held)))
    return found[0], found[1]


def in_order(mix: Any, found: Read) -> list[Tensor]:
    """What was found for the tokens of a composition, in their order."""
    sides = {"q": iter(found.queries), "k": iter(found.keys)}
    return [next(sides[side]) for side in (mix.sides if mix else "")]


def _planes(arrays: tuple[Tensor, ...]) -> tuple[int, ...]:
    found: list[int] = []
    first = 0
    for x in arrays:
        count = 0 if x.dim() == 2 else x.shape[-2]
        found += (count, x.shape[-1], first)
        first += count or 1
    return tuple(found)
