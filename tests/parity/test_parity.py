"""Every shipped spec: PyTorch, Flax and the reference agree in values, step by step, in gradients, in weights."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from archc.emit.initial import stored_shapes
from archc.passes.caches import caches
from archc.passes.params import params
from archc.specs_index import program, shipped
from tests.parity.models import (
    CHUNKS,
    POS,
    blank_flax_model,
    case,
    emitted,
    flax_inputs,
    flax_model,
    flax_outputs_and_gradients,
    flax_shapes,
    flax_step,
    names_of,
    short_case,
    tiny,
    torch_gradients,
    torch_inputs,
    torch_model,
)
from tests.parity.nearness import require_near, require_same_gradients

VALUES, GRADIENTS = 1e-5, 1e-4
MODELS = [name for name in shipped() if tiny(name).graph.kind == "model"]


@pytest.mark.parametrize("name", shipped())
def test_pytorch_computes_what_the_spec_means(name: str) -> None:
    found = case(name)
    model = torch_model(found, torch.float32)
    for pos in (None, POS):
        with torch.no_grad():
            outputs = model(*torch_inputs(found), *(() if pos is None else (torch.tensor(pos),)))
        require_near("torch", found, outputs, pos, VALUES)


@pytest.mark.parametrize("name", shipped())
def test_weights_have_the_shapes_that_the_graph_gives_checkpoints(name: str) -> None:
    stored = torch_model(case(name), torch.float32).state_dict()
    assert {key: tuple(x.shape) for key, x in stored.items()} == stored_shapes(tiny(name).graph)


@pytest.mark.parametrize("name", MODELS)
def test_pytorch_step_by_step_is_the_whole_sequence(name: str) -> None:
    found = case(name)
    model: Any = torch_model(found, torch.float32)
    state = model.init_state(*POS.shape)
    chunks = zip(*(x.split(CHUNKS, 1) for x in torch_inputs(found)), strict=True)
    logits = []
    with torch.no_grad():
        for chunk in chunks:
            part, state = model.step(*chunk, state)
            logits.append(part)
    require_near("torch, in pieces", found, torch.cat(logits, 1), None, VALUES)


@pytest.mark.parametrize("name", shipped())
def test_flax_computes_what_the_spec_means_and_has_the_gradients_of_pytorch(name: str) -> None:
    found = case(name)
    outputs, gradients = flax_outputs_and_gradients(found, POS)
    require_near("flax", found, outputs, POS, VALUES)
    wanted = torch_gradients(found, torch.float64, POS)
    single = torch_gradients(found, torch.float32, POS)
    assert set(gradients) == set(wanted) == set(single)
    require_same_gradients(found, single, wanted, POS, GRADIENTS)
    require_same_gradients(found, gradients, wanted, POS, GRADIENTS)


@pytest.mark.parametrize("name", MODELS)
def test_flax_step_by_step_is_the_whole_sequence(name: str) -> None:
    found = case(name)
    model: Any = flax_model(found)
    step = flax_step(model)
    state = model.init_state(*POS.shape)
    cuts = np.cumsum(CHUNKS)[:-1]
    logits = []
    for chunk in zip(*(jnp.split(x, cuts, 1) for x in flax_inputs(found)), strict=True):
        part, state = step(*chunk, state)
        logits.append(part)
    require_near("flax, in pieces", found, np.concatenate(logits, 1), None, VALUES)


@pytest.mark.parametrize("name", shipped())
def test_gradients_are_those_of_the_reference(name: str) -> None:
    """Central differences of the reference along one direction per weight, against PyTorch in double precision.

    Rotary angles are in single precision in the emitted text even then: what is left of large terms that cancel is off
    by a millionth of the largest derivative.
    """
    found = short_case(name)
    pos = np.arange(8)[None]
    gradients = torch_gradients(found, torch.float64, pos)
    rng = np.random.default_rng(2)
    step = 1e-5
    differences, derivatives = [], []
    for weight, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        direction *= np.linalg.norm(found.weights[weight]) / np.linalg.norm(direction)
        ahead, behind = (
            found.loss(found.weights | {weight: found.weights[weight] + side * step * direction}, pos)
            for side in (1, -1)
        )
        differences.append((ahead - behind) / (2 * step))
        derivatives.append((gradient * direction).sum())
    assert np.allclose(derivatives, differences, rtol=GRADIENTS, atol=1e-6 * np.abs(differences).max())


# ---- the weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_weights_have_the_names_of_the_graph_and_are_as_many_as_reported(name: str) -> None:
    found = tiny(name)
    model = torch_model(case(name), torch.float32)
    blank = blank_flax_model(emitted(found, "flax"))
    names = set(found.graph.named_weights())
    assert set(model.state_dict()) == names
    assert {n for path in flax_shapes(blank) for n in names_of(blank, path)} == names
    total = params(found.graph).total
    assert sum(weight.numel() for weight in model.parameters()) == total
    assert trained(blank) == total


PUBLISHED = {name: [size for size in program(name).sizes if size != "tiny"] for name in shipped()}
SIZES = [f"{name}:{size}" for name, sizes in PUBLISHED.items() for size in sizes]
SIZES += [name for name, sizes in PUBLISHED.items() if not sizes]
"""Those that have a name, else as a spec stands. Their totals are held against published ones in tests/specs."""


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_as_many_real_weights_without_allocating_them(name: str) -> None:
    found = program(name)
    total = params(found.graph).total
    with torch.device("meta"):
        model = emitted(found, "torch").Model()
    assert sum(weight.numel() for weight in model.parameters()) == total
    assert trained(blank_flax_model(emitted(found, "flax"))) == total


def test_the_state_of_recurrentgemma_2b_has_the_bytes_that_the_report_derives() -> None:
    wanted = {"scan": 184_320, "convolution": 276_480, "attention": 16_777_216}
    found = program("recurrentgemma:2b")
    with torch.device("meta"):
        state = emitted(found, "torch").Model().init_state(1, 8192, torch.bfloat16)
    assert bytes_by_kind([(key, x.nbytes) for key, x in leaves(state["layers"])]) == wanted
    blank: Any = blank_flax_model(emitted(found, "flax"))
    state = nnx.eval_shape(lambda: blank.init_state(1, 8192, jnp.bfloat16))
    assert bytes_by_kind([(key, x.size * x.dtype.itemsize) for key, x in leaves(state["layers"])]) == wanted


@pytest.mark.parametrize("name", MODELS)
def test_the_real_state_has_the_bytes_that_the_report_derives(name: str) -> None:
    found = tiny(name)
    wanted = sum(int(cache.bytes(50)) for cache in caches(found.graph))
    with torch.device("meta"):
        state = emitted(found, "torch").Model().init_state(1, 50, torch.bfloat16)
    assert sum(x.nbytes for _, x in leaves(without_count(state))) == wanted
    blank: Any = blank_flax_model(emitted(found, "flax"))
    arrays = nnx.eval_shape(lambda: blank.init_state(1, 50, jnp.bfloat16))
    assert sum(x.size * x.dtype.itemsize for _, x in leaves(without_count(arrays))) == wanted


def without_count(state: dict[str, Any]) -> dict[str, Any]:
    """A state without the number of tokens seen."""
    return {name: part for name, part in state.items() if name != "pos"}


def trained(model: nnx.Module) -> int:
    """The number of elements of all trained weights."""
    return sum(int(np.prod(shape)) for shape in flax_shapes(model, nnx.Param).values())


def leaves(state: Any, key: str = "") -> list[tuple[str, Any]]:
    """The arrays of a state with the key that they lie under."""
    match state:
        case dict():
            return [leaf for name, part in state.items() for leaf in leaves(part, name)]
        case list() | tuple():
            return [leaf for part in state for leaf in leaves(part, key)]
    return [(key, state)]


def bytes_by_kind(sizes: list[tuple[str, int]]) -> dict[str, int]:
    """Bytes of scans, convolutions and keys."""
    kinds = {"h": "scan", "conv_u": "convolution", "kv": "attention"}
    found = dict.fromkeys(kinds.values(), 0)
    for key, size in sizes:
        found[kinds[key]] += size
    return found
