"""Imported, a model of transformers computes what it did; exported, it is what it was, bit for bit."""

from __future__ import annotations

import json
import tracemalloc
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

import archc
from archc.diagnostics import Source
from archc.emit.initial import stored_shapes
from archc.exchange.checkpoint import tensors
from archc.exchange.family import families
from archc.exchange.importing import convert
from archc.exchange.rows import moves
from archc.exchange.safetensors import Writer, read_header
from archc.exchange.spec_text import spec_text
from archc.specs_index import program
from archc.text.format import format
from tests.exchange.conftest import FAMILIES, save
from tests.oracles.families import VOCAB

BOUND = 1e-4
ENCODERS = ("bert", "longformer")  # with an input besides the tokens: which sentence, whether global
FLAX = ("mistral", "gpt")  # both backends read one checkpoint


def tokens() -> Tensor:
    """None of them is that of padding, which has no position in some models."""
    return torch.randint(2, VOCAB, (2, 21), generator=torch.Generator().manual_seed(2))


@cache
def imported(name: str) -> tuple[PreTrainedModel, Path]:
    """Theirs, and the folder with it as they save it (`hf`) and as it was imported (`run`)."""
    folder = Path(mkdtemp(prefix="archc-test-"))
    model = save(name, folder / "hf")
    archc.import_hf(folder / "hf", folder / "run")
    return model, folder


@cache
def expected(name: str) -> Tensor:
    found = imported(name)[0](tokens())
    logits: Tensor = found.prediction_logits if name == "bert" else found.logits
    return logits.detach()


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@torch.no_grad()
def test_the_imported_model_has_their_logits(name: str) -> None:
    ours = archc.load(imported(name)[1] / "run", backend="torch")
    others = [torch.zeros_like(tokens())] * (name in ENCODERS)
    found = ours(tokens(), *others)
    found = found[0] if name == "bert" else found
    torch.testing.assert_close(found, expected(name), atol=BOUND, rtol=0)


@pytest.mark.parametrize("name", FLAX)
def test_the_imported_model_has_their_logits_in_flax(name: str) -> None:
    ours = archc.load(imported(name)[1] / "run", backend="flax")
    found = np.asarray(ours(tokens().numpy()))
    np.testing.assert_allclose(found, expected(name).numpy(), atol=BOUND, rtol=0)


def test_exported_again_it_is_theirs_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, folder = imported(name)
    archc.export_hf(folder / "run", tmp_path)
    before, after = tensors(folder / "hf"), tensors(tmp_path)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert after[key].element == tensor.element
        np.testing.assert_array_equal(after[key].read(), tensor.read(), key)
    again, loaded = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not loaded["missing_keys"] | loaded["unexpected_keys"] | loaded["mismatched_keys"]
    assert again.config.to_dict().items() >= {"model_type": model.config.model_type}.items()
    assert_said(
        json.loads((folder / "hf" / "config.json").read_text()), json.loads((tmp_path / "config.json").read_text())
    )


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def assert_said(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What their config says, ours says; ours says more, of what is so by default."""
    for key, value in before.items():
        if isinstance(value, dict):
            assert_said(value, after[key])
        elif value is not None:
            assert after[key] == value, key


def test_the_spec_stands_alone_and_is_laid_out(name: str) -> None:
    text = (imported(name)[1] / "run" / "model.arch").read_text()
    assert "import" not in text.split("{")[0]
    assert archc.import_hf(imported(name)[1] / "hf" / "config.json") == text
    assert format(Source("model.arch", text)) == text
    assert program(text).sizes == ()


def test_half_precision_keeps_its_bits(tmp_path: Path) -> None:
    save("recurrentgemma", tmp_path / "hf", torch.bfloat16)
    archc.import_hf(tmp_path / "hf", tmp_path / "run")
    kinds = {tensor.element for tensor in read_header(tmp_path / "run" / "weights.safetensors").values()}
    assert kinds == {"BF16"}
    archc.export_hf(tmp_path / "run", tmp_path / "out")
    before, after = tensors(tmp_path / "hf"), tensors(tmp_path / "out")
    assert all(np.array_equal(before[key].read(), after[key].read()) for key in before)
    assert config_of(tmp_path / "out")["dtype"] == "bfloat16"
    loaded = archc.load(tmp_path / "run").state_dict()["E"]
    assert loaded.dtype == torch.float32
    theirs = torch.from_numpy(before["model.embed_tokens.weight"].read().view("<i2").copy()).view(torch.bfloat16)
    assert torch.equal(loaded, theirs.float())


def test_a_model_of_ones_own_is_exported_too(tmp_path: Path) -> None:
    """Its name is its author's, its sizes are any, and no config of theirs lies beside it."""
    text = spec_text("pythia", {name: Fraction(n) for name, n in {"width": 32, "depth": 3, "heads": 4}.items()})
    (tmp_path / "model.arch").write_text(text.replace("model pythia", "model mine"))
    model = archc.load(tmp_path / "model.arch", vocab=VOCAB)
    (tmp_path / "model.arch").write_text(text.replace("model pythia", "model mine").replace("50_432", str(VOCAB)))
    save_file(dict(model.state_dict()), tmp_path / "weights.safetensors")
    archc.export_hf(tmp_path, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, model(tokens()), atol=BOUND, rtol=0)


def test_no_second_copy_is_in_memory(tmp_path: Path) -> None:
    """NumPy tells tracemalloc what it allocates; files that are mapped are none of that."""
    width, depth = 128, 6
    sizes = {"width": width, "depth": depth, "vocab": 64, "heads": 4, "hidden": 4 * width}
    checked = program(spec_text("pythia", {name: Fraction(n) for name, n in sizes.items()}))
    family = next(f for f in families() if f.name == "pythia")
    plan = moves(checked.graph, family.outer, family.layers, family.prefix)
    Writer(tmp_path / "theirs", {move.theirs: ("F32", move.shape) for move in plan})
    total, largest = (tmp_path / "theirs").stat().st_size, 4 * 4 * width**2
    tracemalloc.start()
    convert(plan, read_header(tmp_path / "theirs"), stored_shapes(checked.graph), tmp_path / "ours")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * largest < total / 4
