"""What a Flax model can be set to: recomputed, unrolled, in half or double precision; of many stacks and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from archc.specs_index import shipped
from tests.parity.agreement import POS, check_flax, check_torch, checked, text_case
from tests.parity.models import (
    Case,
    blank_flax_model,
    emitted,
    flax_inputs,
    flax_model,
    flax_outputs_and_gradients,
    flax_step,
    tiny,
    torch_gradients,
)
from tests.parity.rounding import distance

TEXT = """
## Two stacks, the second of two streams; single layers in the first, one of them in the middle of a run.
model winding(width = 12, heads = 2, vocab = 11) {
    block gate { x = x + scan(decay = sigmoid(x @ W_a[width -> width'] + b_a[width]), input = x) * s[width] }
    block look(n = 4) { x = x + attention(rms_norm(x), heads, mask = window(n)) }
    block pair {
        x = x + rms_norm(v) * g[width]
        v = tanh(v @ W_v[width -> width'] + prev(x))
    }
    x = E[vocab width](tokens)
    x = stack(x, 9, [gate, look, at(5): look(n = 2), last(1): look(n = 3)])
    v = x * c[width]
    x, v = stack(x, v, 3, [pair, at(0): pair])
    logits = rms_norm(x + v) @ U[width -> vocab]
}
"""
LAYERS = """
model layered(width = 8, vocab = 11) {
    block mlp_ { x = x + swiglu(rms_norm(x), 2 * width) }
    x = E[vocab width](tokens)
    x = stack(x, 4, [mlp_])
    logits = rms_norm(x) @ U[width -> vocab]
}
"""
MODELS = [name for name in shipped() if tiny(name).graph.kind == "model"]


@pytest.fixture(scope="module")
def winding() -> Case:
    return text_case(checked(TEXT))


def is_single(model: Any, path: tuple[Any, ...]) -> bool:
    """Whether a weight stays in single precision in training."""
    return any(f".{'.'.join(map(str, path))}".endswith(f".{suffix}") for suffix in model.FP32)


def in_half(case: Case) -> nnx.Module:
    """The model with weights as in training: all in half precision but those of `FP32`."""
    model = flax_model(case)
    weights = [(path, leaf.get_value()) for path, leaf in nnx.to_flat_state(nnx.state(model))]
    halves = [(path, x if is_single(model, path) else x.astype(jnp.bfloat16)) for path, x in weights]
    nnx.update(model, nnx.from_flat_state(halves))
    return model


# ---- stacks and streams -----------------------------------------------------------------------------------------


def test_stacks_streams_and_single_layers_mean_the_same_everywhere() -> None:
    """In double precision; whole, packed and in pieces."""
    check_torch(checked(TEXT))
    check_flax(checked(TEXT))


def test_gradients_of_stacks_and_streams_are_those_of_pytorch(winding: Case) -> None:
    _, found = flax_outputs_and_gradients(winding, POS)
    wanted = torch_gradients(winding, torch.float64, POS)
    assert set(found) == set(wanted)
    assert max(distance(found[name], wanted[name]) for name in wanted) < 1e-4


# ---- remat and unroll -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"remat": True}, {"unroll": True}, {"remat": True, "unroll": True}])
def test_recomputing_and_unrolling_change_only_rounding(winding: Case, options: dict[str, bool]) -> None:
    (plain,), slopes = flax_outputs_and_gradients(winding, POS)
    (logits,), found = flax_outputs_and_gradients(winding, POS, model=flax_model(winding, **options))
    assert distance(logits, np.asarray(plain)) < 1e-6
    assert max(distance(found[name], slopes[name]) for name in slopes) < 1e-5


def lowered(case: Case, gradient: bool, **options: bool) -> str:
    """What is given to the compiler for a model, or for its gradient."""
    graph, state = nnx.split(flax_model(case, **options))

    def total(state: nnx.State, tokens: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(tokens).sum()

    run: Callable[..., Any] = jax.grad(total) if gradient else total
    return jax.jit(run).lower(state, *flax_inputs(case)).as_text()


def test_unrolled_layers_are_no_loop() -> None:
    case = text_case(checked(LAYERS))
    assert "stablehlo.while" in lowered(case, False)
    assert "stablehlo.while" not in lowered(case, False, unroll=True)
    assert "stablehlo.while" not in lowered(case, True, unroll=True)


@pytest.mark.parametrize("unroll", [False, True])
def test_recomputing_layers_runs_their_matrices_again(unroll: bool) -> None:
    case = text_case(checked(LAYERS))
    once, again = (lowered(case, True, remat=remat, unroll=unroll).count("dot_general") for remat in (False, True))
    assert again > once


# ---- precision --------------------------------------------------------------------------------------------------


def test_half_precision_trains_and_decodes_close_by(winding: Case) -> None:
    wanted, slopes = winding.reference(POS)[0], torch_gradients(winding, torch.float64, POS)
    model: Any = in_half(winding)
    (logits,), found = flax_outputs_and_gradients(winding, POS, model=model)
    assert logits.dtype == jnp.bfloat16
    assert 1e-4 < distance(logits, wanted) < 0.03
    assert max(distance(found[name], slopes[name]) for name in slopes) < 0.3
    whole, wanted = (np.concatenate([each[name].ravel() for name in slopes]) for each in (found, slopes))
    assert distance(whole, wanted) < 0.05
    step = flax_step(model)
    (tokens,) = flax_inputs(winding)
    state, parts = model.init_state(*POS.shape, jnp.bfloat16), []
    for piece in (tokens[:, :5], *(tokens[:, i : i + 1] for i in range(5, POS.shape[1]))):
        part, state = step(piece, state)
        parts.append(part)
    assert distance(jnp.concatenate(parts, 1), winding.reference()[0]) < 0.03


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_have_the_precision_of_the_weights_and_states_keep_theirs(name: str, precision: str) -> None:
    """Shapes and types alone, nothing is computed: a state that changed its type would be compiled for anew."""
    dtype = jnp.dtype(precision)
    with jax.enable_x64(precision == "float64"):
        model: Any = blank_flax_model(emitted(tiny(name), "flax"))
        graph, state = nnx.split(model)
        single = jnp.promote_types(dtype, jnp.float32)
        weights = nnx.from_flat_state(
            (path, jax.ShapeDtypeStruct(leaf.get_value().shape, single if is_single(model, path) else dtype))
            for path, leaf in nnx.to_flat_state(state)
        )
        inputs = [jax.ShapeDtypeStruct((2, 5), jnp.int32)] * len(tiny(name).graph.inputs)

        def run(weights: nnx.State, *inputs: jax.Array) -> Any:
            model = nnx.merge(graph, weights)
            before = model.init_state(2, 16, dtype)
            logits, after = model.step(*inputs, before)
            return model(*inputs), logits, before, after

        whole, logits, before, after = jax.eval_shape(run, weights, *inputs)
    assert whole.dtype == logits.dtype == dtype
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
