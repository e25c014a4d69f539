"""Attention with composed heads as it is emitted: what a kernel is handed says all that the program says."""

from __future__ import annotations

import pytest

from archc.diagnostics import Source
from archc.elaborate import Program, elaborate, load
from archc.emit.fused import find
from archc.emit.units import group
from tests.fuse import dense
from tests.fuse.compositions import KINDS, body, drawn
from tests.fuse.conftest import mixer_text
from tests.parity.agreement import check_flax, check_torch
from tests.parity.models import emitted

DRAWN = (6, 7, 8)


def program(text: tuple[str, str]) -> Program:
    """A model of one layer with this body."""
    return elaborate(load(Source("spec.arch", mixer_text(*text)), None))


@pytest.mark.parametrize("name", [*KINDS, *(f"drawn {seed}" for seed in DRAWN)])
def test_a_kernel_is_handed_what_the_program_reads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The contract, computed from what is handed over, beside the reference and PyTorch's gradients of the program."""
    found = program(drawn(int(name.split()[1])) if name.startswith("drawn") else KINDS[name])
    monkeypatch.setattr(emitted(found, "flax"), "composed_attention", dense.composed_attention)
    check_flax(found)


@pytest.mark.parametrize("name", ["several axes of heads", "keys shared by query heads"])
def test_programs_of_several_axes_of_heads_run_where_no_kernel_does(name: str) -> None:
    check_torch(program(KINDS[name]))


@pytest.mark.parametrize(("rank", "fused"), [(2, True), (3, False)])
def test_calls_that_share_a_text_share_their_equations(rank: int, fused: bool) -> None:
    """A rank is unrolled: two ranks in one class are left to the program."""
    lines = "    u = x @ W_u[rank heads]\n    w = x @ W_w[rank heads]\n"
    mixing = "s + dot(dot(s, queries(u), over = heads), queries(w), over = rank)"
    text = mixer_text(body(mixing, lines=lines), "").replace("fn f(x[width])", "fn f(x[width], rank)")
    text = text.replace("x = x + f(x)", f"x = x + f(x, 2) + f(x, {rank})")
    found = elaborate(load(Source("spec.arch", text), None))
    assert ("composed_attention" in vars(emitted(found, "torch"))) == fused
    check_torch(found)


def test_weights_that_only_a_fn_below_can_name_are_left_to_the_program() -> None:
    more = "fn mixing(a[heads]) { return a + a @ M[heads -> heads'] }\nfn handed(a[heads], mix) { return mix(a) }\n"
    text = mixer_text(body("handed(s, mix)"), more).replace("fn f(x[width])", "fn f(x[width], mix)")
    text = text.replace(
        "    block layer { x = x + f(x) }", "    shared mix = mixing()\n    block layer { x = x + f(x, mix) }"
    )
    found = elaborate(load(Source("spec.arch", text), None))
    fused = find(found, group(found))
    assert not fused.composed
    assert list(fused.plain.values()) == ["it reads weights of a shared fn that is handed to another"]
