"""Models that are sorted by bucket, in tiles so short that a few tokens are many: in one piece, packed, in pieces."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from archc.diagnostics import Source
from archc.elaborate import Program, elaborate, load
from archc.specs_index import program
from tests.fuse.conftest import mixer_text
from tests.parity.agreement import DOUBLE, POS, check_torch, text_case
from tests.parity.models import emitted, flax_inputs, flax_model, run_compiled
from tests.parity.nearness import require_near

BODY = """
    q = x @ W_q[heads = 2 group = 2 dim = 3]
    k = x @ W_k[heads dim]
    v = x @ W_v[heads dim]
    {bucket}
    s = dot(queries(q * 2), keys(k), over = dim)
    p = softmax({scores}, over = keys, where = {mask})
    return dot(p, keys(v), over = keys) @ W_o[heads group dim -> width]
"""


def texts() -> dict[str, str]:
    one = "half = 3\n    b = argmax(x @ W_b[heads half], over = half)"
    several = "half = 3\n    b = argmax(x @ W_b[heads rounds = 3 half], over = half)"
    none = "half = 3\n    b = argmax(x @ W_b[half], over = half)"
    met = "sum(where(queries(b) == keys(b), 1, 0), over = rounds) > 0"
    return {
        "one round": BODY.format(bucket=one, scores="s", mask="causal and queries(b) == keys(b)"),
        "rounds and a window": BODY.format(bucket=several, scores="s", mask=f"window(5) and {met}"),
        "no lanes, and a token among the scores": BODY.format(
            bucket=none, scores="s * tanh(keys(b)) + queries(b)", mask="causal and queries(b) == keys(b)"
        ),
    }


TEXTS = texts()


def built(name: str) -> Program:
    return elaborate(load(Source("spec.arch", mixer_text(TEXTS[name])), None))


@pytest.mark.parametrize("name", TEXTS)
def test_torch(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = built(name)
    module = emitted(found, "torch")
    monkeypatch.setattr(module, "over_buckets", partial(module.over_buckets, block=2, short=0))
    check_torch(found)


def test_flax(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's gradients are tested by themselves: they take long to compile."""
    case = text_case(built("rounds and a window"))
    module = emitted(case.program, "flax")
    monkeypatch.setattr(module, "over_buckets", partial(module.over_buckets, block=2, short=0))
    with jax.enable_x64(True):
        found = run_compiled(flax_model(case, jnp.float64), *flax_inputs(case), jnp.asarray(POS))
    require_near("flax, packed", case, (found,), POS, DOUBLE)


def test_the_shipped_model(monkeypatch: pytest.MonkeyPatch) -> None:
    found = program("reformer:tiny")
    module = emitted(found, "torch")
    monkeypatch.setattr(module, "over_buckets", partial(module.over_buckets, block=2, short=0))
    check_torch(found)
