"""Attention with composed heads in Triton's interpreter, against the program for rows in double precision."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from kernels import (
    composed_back_triton,
    composed_fused,
    composed_laid_back_triton,
    composed_laid_triton,
    composed_tiles,
    composed_triton,
)
from kernels.composed import Composed, Mix, composed_attention
from kernels.pairs import Keys, Rows, over_rows
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.triton import compositions
from tests.kernels.triton.quick import quick  # noqa: F401 (a fixture)

BATCH = 2
SCALE = 0.3
RANK = compositions.RANK
ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")  # the rest takes the interpreter too long


@dataclass(frozen=True)
class Case:
    """Tokens, and tokens before them; heads, and what one has of keys and of values; how many keys a query sees."""

    time: int
    past: int = 0
    heads: int = 3
    dim: int = 5
    value: int = 7
    window: int | None = None
    packed: bool = True
    dtype: torch.dtype = torch.float64

    @property
    def keys(self) -> Keys:
        """Packed: documents, the first of which goes on, one of a single token; and one with padding on its left, or
        that began some of the tokens before.
        """
        if not self.packed:
            return Keys(torch.arange(self.time), self.time)
        row = torch.cat([torch.arange(self.past, self.past + 9), torch.arange(1), torch.arange(self.time)])
        return Keys(torch.stack([row[: self.time], torch.arange(self.time) + self.past - 3]), self.past + self.time)

    @property
    def before(self) -> int | None:
        return None if self.window is None else self.window - 1

    def random(self, *shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape)).to(self.dtype).requires_grad_()


class Attention(NamedTuple):
    """Compositions, what the kernel is told and what both forms are given."""

    case: Case
    before: Callable[..., Tensor] | None
    after: Callable[..., Tensor] | None
    composed: Composed
    qkv: list[Tensor]
    tokens: list[Tensor]
    weights: list[Tensor]

    @property
    def given(self) -> list[Tensor]:
        return [*self.qkv, *self.tokens, *self.weights]

    def wide(self) -> "Attention":
        """Itself in double precision."""
        copies = ([x.detach().double().requires_grad_() for x in group] for group in self[4:])
        return Attention(replace(self.case, dtype=torch.float64), *self[1:4], *copies)

    def fused(self) -> Tensor:
        def never(rows: Rows) -> Tensor:
            raise AssertionError("there is a kernel")

        return self.run(never)

    def run(self, program: Callable[[Rows], Tensor]) -> Tensor:
        return composed_attention(
            program, self.composed, *self.qkv, self.case.keys,
            tokens=tuple(self.tokens), weights=tuple(self.weights), scale=SCALE, before=self.case.before,
        )  # fmt: skip

    def plain(self) -> Tensor:
        return over_rows(self.program, self.case.keys, before=self.case.before)

    def program(self, rows: Rows) -> Tensor:
        q, k, v = self.qkv
        s = torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k)) * SCALE
        first, second = self.composed.before, self.composed.after
        tokens, weights = (
            len(x) if first else 0 for x in (first.sides if first else "", first.shapes if first else "")
        )
        if self.before is not None:
            s = self.before(s, self.tokens[:tokens], self.weights[:weights], rows)
        p = rows.softmax(s, rows.window(self.case.window))
        if second is not None and self.after is not None:
            p = self.after(p, self.tokens[tokens:], self.weights[weights:], rows)
        return torch.einsum("bhqk,bkhd->bqhd", rows.select(p), rows.key_tokens(v))


def attention(case: Case, before: str | None, after: str | None) -> Attention:
    """Attention with compositions by name."""
    torch.manual_seed(case.time)
    count = case.past + case.time
    qkv = [
        case.random(BATCH, case.time, case.heads, case.dim),
        case.random(BATCH, count, case.heads, case.dim),
        case.random(BATCH, count, case.heads, case.value),
    ]
    tokens: list[Tensor] = []
    weights: list[Tensor] = []
    mixes: list[Mix | None] = []
    for name in (before, after):
        mixes.append(None if name is None else compositions.MIXES[name](case.heads))
        if name == "dynamic":
            axes = (RANK, case.heads), (RANK, case.heads), (case.heads,)
            tokens += [case.random(BATCH, n, *each, size=0.3) for n in (case.time, count) for each in axes]
        elif name == "static":
            tokens.append(case.random(BATCH, case.time, 1))
            weights.append(case.random(case.heads, case.heads))
        elif name == "shared":
            tokens.append(case.random(BATCH, count, 1))
            weights.append(case.random(2, case.heads))
    plains = (None if name is None else getattr(compositions, name) for name in (before, after))
    return Attention(case, *plains, Composed("tested", *mixes), qkv, tokens, weights)


def gradients(y: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad(y, wanted, weight.to(y.dtype))


EXACT = [
    (Case(21), "dynamic", "dynamic"),
    (Case(1, past=4), "dynamic", "dynamic"),
    (Case(19, past=13, window=6), "dynamic", "dynamic"),
    (Case(17, heads=1, dim=52, value=33, packed=False), None, "shared"),
    (Case(19, past=13, window=6), "static", "shared"),
    (Case(33, window=17, packed=False), "static", "shared"),
    (Case(18, heads=5), None, "static"),
    (Case(18), "shared", None),
    (Case(18), None, None),
]


@pytest.mark.parametrize(("case", "before", "after"), EXACT, ids=str)
def test_values_and_gradients_are_exact(case: Case, before: str | None, after: str | None) -> None:
    both = attention(case, before, after)
    mine, theirs = both.fused(), both.plain()
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(mine, both.given), gradients(theirs, both.given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not mine[1, : max(0, 3 - case.past)].any() or not case.packed


def test_blocks_of_eight_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of many heads on a GPU, of which a program has few tokens of its own."""
    monkeypatch.setattr(composed_tiles, "INTERPRETED", composed_tiles.BLOCKS[32])
    test_values_and_gradients_are_exact(Case(11, past=6, window=9), "static", "dynamic")


LAID = [
    (Case(19), "dynamic", "dynamic"),
    (Case(19, past=13, window=6), "static", "shared"),
]


@pytest.mark.parametrize(("case", "before", "after"), LAID, ids=str)
def test_pairs_in_memory_are_exact(
    case: Case, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of heads whose tiles do not fit into registers."""
    monkeypatch.setattr(composed_fused, "HEADS", 0)
    test_values_and_gradients_are_exact(case, before, after)


def test_sums_are_in_single_precision_whatever_comes_in() -> None:
    dtype = torch.bfloat16
    both = attention(Case(18, dtype=dtype), "dynamic", "dynamic")
    wide = both.wide()
    mine, theirs = both.fused(), wide.plain()
    assert mine.dtype == dtype
    found, expected = gradients(mine, both.given), gradients(theirs, wide.given)
    for one, other in zip((mine, *found), (theirs, *expected), strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() < 4 * torch.finfo(dtype).eps * other.norm()


def test_keys_that_no_query_of_a_block_sees_are_not_read() -> None:
    """Blocks are of 16 queries. What the third of them sees begins at 28, or with a document at 32."""
    for case in (Case(48, window=5, packed=False), Case(48, packed=True)):
        both = attention(case, "static", "shared")
        if case.packed:
            pos = torch.cat([torch.arange(32), torch.arange(16)])[None].expand(BATCH, -1)
            keys = Keys(pos, 48)
        else:
            keys = case.keys
        both.qkv[2].detach()[:, :28] = torch.nan  # times a weight of zero it is still nan
        y = composed_attention(
            both.program, both.composed, *both.qkv, keys, tokens=tuple(both.tokens), weights=tuple(both.weights),
            scale=SCALE, before=case.before,
        )  # fmt: skip
        assert y[:, 32:].isfinite().all()
        assert y[:, :28].isnan().all()


def test_without_a_kernel_the_program_runs() -> None:
    """More heads than a tile has room for; no device functions."""
    many = attention(Case(3, heads=129), "dynamic", None)
    torch.testing.assert_close(many.run(many.program), many.plain())
    bare = attention(Case(3), "dynamic", None)._replace(composed=Composed("bare", Mix("qqqkkk")))
    assert bare.composed.fused is None
    torch.testing.assert_close(bare.run(bare.program), bare.plain())


@pytest.mark.parametrize("case", [Case(7, packed=False), Case(300, past=200, window=50), Case(300)], ids=str)
def test_the_counter_sees_the_operations_of_the_program(case: Case) -> None:
    counts = []
    with FakeTensorMode():
        both = attention(case, "dynamic", "dynamic")
        for run in (both.fused, both.plain):
            with FlopCounterMode(display=False) as counter:
                y = run()
                forward = counter.get_total_flops()
                y.sum().backward()
                counts.append((forward, counter.get_total_flops()))
    assert counts[0] == counts[1]


def test_the_operators_hold_what_torch_asks_of_them() -> None:
    both = attention(Case(2, heads=2), "static", "shared")
    tokens = [x.detach()[:, :, None].requires_grad_() for x in both.tokens]
    weights = [both.weights[0], both.weights[1].detach()[None].requires_grad_()]
    arguments = (*both.qkv, tokens, weights, both.case.keys.pos, 0, SCALE)
    torch.library.opcheck(both.composed.fused.sequence, arguments, test_utils=ASKED)


def test_nothing_is_added_up_in_an_order_that_may_change() -> None:
    for module in (composed_triton, composed_back_triton, composed_laid_triton, composed_laid_back_triton):
        with open(module.__file__) as file:
            assert "atomic" not in file.read()
