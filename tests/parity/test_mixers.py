"""Every fn of the standard library alone in a small model: PyTorch, Flax and the reference agree."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch

from archc import resources
from archc.diagnostics import Source
from archc.text.parse import parse
from tests.parity.agreement import check_flax, check_torch, checked
from tests.parity.models import (
    CHUNKS,
    POS,
    Case,
    flax_outputs_and_gradients,
    make_case,
    torch_gradients,
    torch_inputs,
    torch_model,
)
from tests.parity.nearness import require_same_gradients
from tests.parity.rounding import distance
from tests.parity.test_parity import GRADIENTS, VALUES

ROTATED = """
    q = {rotary}(x @ W_q[heads dim]{part})
    k = {rotary}(x @ W_k[heads dim]{part})
    s = dot(queries(q), keys(k), over = dim) / sqrt(dim)
    x = x + dot(softmax(s, over = keys, where = window(7)), keys(x @ W_v[heads dim]), over = keys)
        @ W_o[heads dim -> width]
"""
CALLS = {
    "mlp": "x = x + mlp(x, 20)",
    "mlp relu": "x = x + mlp(x, 20, act = relu)",
    "swiglu": "x = x + swiglu(x, 20)",
    "geglu": "x = x + geglu(x, 20)",
    "moe": "x = x + moe(x, 4, 2, 20)",
    "attention": "x = x + attention(x, heads)",
    "attention of groups in a window": "x = x + attention(x, heads, kv = 2, mask = window(6), rope = 2 / 3)",
    "attention without positions": "x = x + attention(x, heads, dim = 5, rope = 0)",
    "rotary": ROTATED.format(rotary="rotary", part=", 2 / 3"),
    "rotary_paired": ROTATED.format(rotary="rotary_paired", part=""),
    "rms_norm": "x = x + rms_norm(x @ W[width -> width'])",
    "rms_norm of heads": "x = x + merge(rms_norm(x @ W[heads dim], over = dim, per = [heads dim]), heads dim -> width)",
    "unit": "x = x + unit(x @ W[width -> width'])",
    "layer_norm": "x = x + layer_norm(x @ W[width -> width'])",
    "linear_norm": "x = x + linear_norm(x @ W[width -> width'])",
    "softcap": "x = x + softcap(x @ W[width -> width'], 2)",
}


def text(call: str) -> str:
    """A model of two layers that do nothing but this."""
    sizes = "".join(f", {n} = {s}" for n, s in {"heads": 4, "dim": 6}.items() if re.search(rf"\b{n}\b(?! =)", call))
    return f"""
model alone(width = 24, vocab = 97{sizes}) {{
    block only {{
        {call}
    }}
    x = E[vocab width](tokens)
    x = stack(x, 2, [only])
    logits = rms_norm(x) @ E[width -> vocab]
    tied E
}}
"""


@cache
def alone(name: str) -> Case:
    """Two sequences of 20 tokens through the model."""
    return make_case(checked(text(CALLS[name])), POS.shape)


def test_every_fn_of_the_library_is_here() -> None:
    declared = set()
    for path in resources.paths("specs"):
        if path.startswith("std/"):
            tree = parse(Source(path, resources.read("specs", path)))
            declared |= {d.name.text for d in tree.items}
    assert declared == {name.split()[0] for name in CALLS}


@pytest.mark.parametrize("name", CALLS)
def test_values_steps_and_gradients_of_pytorch(name: str) -> None:
    found = alone(name)
    model: Any = torch_model(found, torch.float32)
    (tokens,) = torch_inputs(found)
    (whole,), (packed,) = found.reference(), found.reference(POS)
    with torch.no_grad():
        assert distance(model(tokens), whole) < VALUES
        assert distance(model(tokens, torch.tensor(POS)), packed) < VALUES
        state, logits = model.init_state(*POS.shape), []
        for chunk in tokens.split(CHUNKS, 1):
            part, state = model.step(chunk, state)
            logits.append(part)
    assert distance(torch.cat(logits, 1), whole) < VALUES
    check_torch(found.program)  # in double precision, with gradients against differences


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_of_flax(name: str) -> None:
    found = alone(name)
    (got,), gradients = flax_outputs_and_gradients(found, POS)
    assert distance(got, found.reference(POS)[0]) < VALUES
    wanted = torch_gradients(found, torch.float64, POS)
    assert set(gradients) == set(wanted)
    require_same_gradients(found, gradients, wanted, POS, GRADIENTS)
    require_same_gradients(found, torch_gradients(found, torch.float32, POS), wanted, POS, GRADIENTS)
    check_flax(found.program)


LEARNED = """
model learned(width = 16, vocab = 97, length = 40) {
    block only {
        x = x + attention(x, 2, rope = 0)
    }
    x = E[vocab width](tokens) + P[length width](pos)
    x = stack(x, 2, [only])
    logits = rms_norm(x) @ E[width -> vocab]
    tied E
}
"""


@pytest.mark.parametrize("spec", [LEARNED, text(CALLS["attention"])], ids=["learned positions", "rotary positions"])
def test_what_fills_up_the_front_of_a_batch_changes_nothing(spec: str) -> None:
    """Positions before a document are negative: a prompt behind others in a batch gives what it gives alone."""
    found = make_case(checked(spec), POS.shape)
    model: Any = torch_model(found, torch.float32)
    (tokens,) = torch_inputs(found)
    padded = model.init_state(*POS.shape) | {"pos": torch.tensor([-3, -3])}
    with torch.no_grad():
        alone, _ = model.step(tokens[:, 3:], model.init_state(*POS.shape))
        logits, state = model.step(tokens[:, :10], padded)
        rest, _ = model.step(tokens[:, 10:], state)
    torch.testing.assert_close(torch.cat([logits, rest], 1)[:, 3:], alone, rtol=1e-5, atol=1e-5)
