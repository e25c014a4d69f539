"""Attention with composed heads in Triton's interpreter, against the program for rows in double precision."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from kernels.composed import Composed, composed_attention
from kernels.pairs import Keys, Rows, over_rows
from torch import Tensor

from tests.kernels.triton import compositions
from tests.kernels.triton.quick import quick  # noqa: F401 (a fixture)

BATCH = 2
SCALE = 0.3
Program = Callable[[Rows], Tensor]


@dataclass(frozen=True)
class Case:
    """Sizes: tokens, tokens before them, heads, and what a head has of keys and of values; the keys that are seen."""

    time: int
    past: int = 0
    heads: int = 3
    dim: int = 5
    value: int = 7
    window: int | None = None
    packed: bool = True
    dtype: torch.dtype = torch.float64

    @property
    def pos(self) -> Tensor:
        """A document that goes on and others, one of a single token; and padding on the left of a document."""
        if not self.packed:
            return torch.arange(self.time)
        row = torch.cat([torch.arange(self.past, self.past + 9), torch.arange(1), torch.arange(self.time)])
        return torch.stack([row[: self.time], torch.arange(self.time) - 3 + (self.past > 5) * self.past])

    def random(self, *shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape)).to(self.dtype).requires_grad_()

    def heads_of(self, count: int, *axes: int) -> Tensor:
        return self.random(BATCH, count, *axes)

    def qkv(self) -> list[Tensor]:
        count = self.past + self.time
        return [
            self.random(BATCH, self.time, self.heads, self.dim),
            self.random(BATCH, count, self.heads, self.dim),
            self.random(BATCH, count, self.heads, self.value),
        ]

    def dynamic(self) -> list[Tensor]:
        axes = ((compositions.RANK, self.heads), (compositions.RANK, self.heads), (self.heads,))
        counts = (self.time, self.past + self.time)
        return [self.random(BATCH, count, *each, size=0.3) for count in counts for each in axes]


def dcmha(case: Case) -> tuple[Composed, list[Tensor], list[Tensor]]:
    return compositions.dcmha(case.heads), [*case.dynamic(), *case.dynamic()], []


def talking(case: Case) -> tuple[Composed, list[Tensor], list[Tensor]]:
    tokens = [case.random(BATCH, case.time, 1), case.random(BATCH, case.past + case.time, 1)]
    return compositions.talking(case.heads), tokens, [case.random(case.heads, case.heads), case.random(2, case.heads)]


def plain(case: Case, q: Tensor, k: Tensor, v: Tensor, tokens: list[Tensor], weights: list[Tensor]) -> Program:
    """The program of a case, with the composition that has so many tokens and weights."""

    def program(rows: Rows) -> Tensor:
        s = torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k)) * SCALE
        if weights:
            s = compositions.static(s, (tokens[0],), (weights[0],), rows)
        elif tokens:
            s = compositions.dynamic(s, tuple(tokens[:6]), rows)
        p = rows.softmax(s, rows.window(case.window))
        if weights:
            p = compositions.shared(p, (tokens[1],), (weights[1],), rows)
        elif tokens:
            p = compositions.dynamic(p, tuple(tokens[6:]), rows)
        return torch.einsum("bhqk,bkhd->bqhd", rows.select(p), rows.key_tokens(v))

    return program


def both(
    case: Case, kind: Callable[[Case], tuple[Composed, list[Tensor], list[Tensor]]]
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """What the kernel and the plain form say, the latter in double precision, and what each was given."""
    composed, tokens, weights = kind(case)
    given = [*case.qkv(), *tokens, *weights]
    wide = [x.detach().double().requires_grad_() for x in given]
    keys, before = Keys(case.pos, case.past + case.time), None if case.window is None else case.window - 1

    def split(x: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return x[:3], x[3 : 3 + len(tokens)], x[3 + len(tokens) :]

    qkv, own, held = split(given)

    def never(rows: Rows) -> Tensor:
        raise AssertionError("the kernel is to run")

    mine = composed_attention(
        never, composed, *qkv, keys, tokens=tuple(own), weights=tuple(held), scale=SCALE, before=before
    )
    qkv, own, held = split(wide)
    return mine, over_rows(plain(case, *qkv, own, held), keys, before=before), given, wide


CASES = [
    Case(21),
    Case(1, past=4),
    Case(19, past=13, window=6),
    Case(35, window=17, packed=False),
    Case(18, heads=2, dim=20, value=33),
]


@pytest.mark.parametrize("kind", [dcmha, talking])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_exact(case: Case, kind) -> None:
    mine, theirs, given, wide = both(case, kind)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(theirs)
    for one, other in zip(
        torch.autograd.grad(mine, given, weight), torch.autograd.grad(theirs, wide, weight), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
