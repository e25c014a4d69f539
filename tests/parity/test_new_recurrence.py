"""A recurrence that nobody has written before, as one file in a temporary folder: everything else follows by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import archc
from archc.passes.caches import caches
from archc.passes.params import params
from archc.passes.scans import classify
from archc.specs_index import program
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
from tests.parity.rounding import distance

SPEC = """
## A gate that looks one token back decides how fast a channel forgets; what it forgets leaks into its neighbour.
model leaky(width = 24, depth = 5, vocab = 97, groups = 3, window = 6) {

    block leaking {
        x = x + leak(rms_norm(x), groups)
        x = x + swiglu(rms_norm(x), 2 * width)
    }

    block looking {
        x = x + attention(rms_norm(x), groups, mask = window(window))
    }

    x = E[vocab width](tokens)
    x = stack(x, depth, [leaking * 2, looking])
    logits = rms_norm(x) @ U[width -> vocab]
}

fn leak(x[width], groups, taps = 3) {
    side  = width / groups
    u     = split(conv(x @ W_u[width], w_conv[taps width]), width -> groups side)
    gate  = split(x @ W_f[width] + prev(x) * mix[width], width -> groups side)
    slow  = exp(-softplus(gate + b_f[groups side]))
    h     = scan(decay = slow, input = (1 - slow) * u)
    spill = h @ L[groups side -> groups side']
    return merge(h - tanh(spill), groups side -> width) @ W_o[width]

    init b_f = uniform(1, 3)
}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new") / "leaky.arch"
    path.write_text(SPEC, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def case(path: Path) -> Case:
    return make_case(program(str(path)), POS.shape)


def test_it_is_checked_counted_and_classified(path: Path) -> None:
    archc.check(str(path))
    graph = program(str(path)).graph
    report = archc.report(str(path), context=50)
    assert report.params.total == params(graph).total == sum(w.type.elements for w in graph.named_weights().values())
    assert {found.kind for found in classify(graph).values()} == {"diagonal"}
    layer = {c.name.removeprefix("layers.0."): c.kept(50) for c in caches(graph) if c.name.startswith("layers.0.")}
    assert layer == {"leak.conv_u": 2, "leak.prev_x": 1, "leak.h": 1}
    assert {c.kept(50) for c in caches(graph) if c.what == "keys"} == {6}
    assert report.flops.forward_per_token.scan > 0


def test_pytorch_and_flax_compute_what_it_means(case: Case) -> None:
    with torch.no_grad():
        found = torch_model(case, torch.float32)(*torch_inputs(case), torch.tensor(POS))
    outputs, gradients = flax_outputs_and_gradients(case, POS)
    (wanted,) = case.reference(POS)
    assert distance(found, wanted) < 1e-5
    assert distance(outputs[0], wanted) < 1e-5
    exact = torch_gradients(case, torch.float64, POS)
    for name, gradient in gradients.items():
        assert distance(gradient, exact[name]) < 1e-4, name


def test_it_decodes_from_the_derived_state(case: Case) -> None:
    model: Any = torch_model(case, torch.float32)
    state = model.init_state(*POS.shape)
    parts = []
    with torch.no_grad():
        for (chunk,) in zip(*(x.split(CHUNKS, 1) for x in torch_inputs(case)), strict=True):
            logits, state = model.step(chunk, state)
            parts.append(logits)
    assert distance(torch.cat(parts, 1), case.reference()[0]) < 1e-5
