"""Weights: the names that both backends share, whatever is stacked in memory."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """What the PyTorch twin of the model would hold: every layer another number."""
    shapes = {"E": (260, 32), "scale": (32,)}
    for layer in (0, 2, 4):
        shapes |= {f"layers.{layer}.W_in": (32, 32), f"layers.{layer}.W_out": (32, 32), f"layers.{layer}.decay": (32,)}
    for layer in (1, 3):
        shapes |= {f"layers.{layer}.W_up": (32, 64), f"layers.{layer}.W_down": (64, 32), f"layers.{layer}.scale": (32,)}
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def save(weights, path, dtype=torch.float32):
    save_file({name: torch.from_numpy(weight).to(dtype) for name, weight in weights.items()}, path)


def test_the_weights_of_layers_lie_in_stacks(load, blank, weights, tmp_path):
    checkpoint, stacks, model = load("checkpoint"), load("stacks"), blank
    save(weights, tmp_path / "w.safetensors")
    checkpoint.load_weights(model, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(model.periods[0].W_in[1], weights["layers.2.W_in"])
    np.testing.assert_array_equal(model.periods[1].scale[0], weights["layers.1.scale"])
    np.testing.assert_array_equal(model.tail[0].decay, weights["layers.4.decay"])
    named = checkpoint.named_weights(model)
    assert list(named) == sorted(weights)
    assert all(np.array_equal(named[name], weights[name]) for name in weights)
    assert set(stacks.parameters(model)) >= {"E", "periods.0.decay", "periods.1.W_up", "tail.0.W_out"}


def test_layers_are_told_apart_by_their_numbers(load):
    names = ["layers.10.W", "E", "layers.2.W", "layers.9.W"]
    assert sorted(names, key=load("stacks").in_order) == ["E", "layers.2.W", "layers.9.W", "layers.10.W"]


def test_half_precision_is_widened(load, blank, weights, tmp_path):
    save(weights, tmp_path / "w.safetensors", torch.bfloat16)
    load("checkpoint").load_weights(blank, tmp_path / "w.safetensors")
    assert blank.periods[0].W_out.dtype == np.float32
    np.testing.assert_allclose(blank.periods[0].W_out[0], weights["layers.0.W_out"], rtol=2**-8)


def test_single_precision_is_kept_where_the_model_says_so(load, blank):
    stacks, compute = load("stacks"), load("compute")
    params = {path: np.zeros(value.shape, np.float32) for path, value in stacks.parameters(blank).items()}
    cast = stacks.unstacked(compute.compute_weights(params, "bfloat16"))
    assert {name for name, weight in cast.items() if weight.dtype == np.float32} == {
        "layers.0.decay",
        "layers.2.decay",
        "layers.4.decay",
    }


@pytest.mark.parametrize(
    ("old", "new", "value", "message"),
    [
        ("layers.2.W_in", "layers.2.W_im", None, "'layers.2.W_im'; did you mean 'layers.2.W_in'?"),
        ("scale", "scale", np.zeros(31, np.float32), "'scale' is [31], the model has [32]"),
        ("layers.3.scale", None, None, "1 weights are missing ('layers.3.scale')"),
        (None, "layers.5.W_in", np.zeros(3, np.float32), "1 are not in the model ('layers.5.W_in'"),
    ],
)
def test_a_file_of_another_model_is_refused(load, blank, weights, tmp_path, capsys, old, new, value, message):
    taken = weights.pop(old, None)
    if new:
        weights[new] = taken if value is None else value
    save(weights, tmp_path / "w.safetensors")
    with pytest.raises(SystemExit, match="1"):
        load("checkpoint").load_weights(blank, tmp_path / "w.safetensors")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [(None, "no such file of weights"), (b"abc", "cannot read")])
def test_a_file_without_weights_is_refused(load, blank, tmp_path, capsys, content, message):
    if content:
        (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(SystemExit, match="1"):
        load("checkpoint").load_weights(blank, tmp_path / "w.safetensors")
    assert message in capsys.readouterr().err
