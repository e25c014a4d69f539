"""Imported, a model of transformers computes what it did; exported, it is what it was, bit for bit."""

from __future__ import annotations

import json
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import archc
from archc.diagnostics import Source
from archc.emit.initial import stored_shapes
from archc.exchange.checkpoint import tensors
from archc.exchange.family import families
from archc.exchange.importing import convert
from archc.exchange.safetensors import Writer, read_header
from archc.exchange.spec_text import spec_text
from archc.specs_index import program
from archc.text.format import format
from tests.oracles.families import DECODERS, FAMILIES, VOCAB

BOUND = 1e-4


def tokens() -> Tensor:
    return torch.randint(VOCAB, (2, 21), generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_exported_again_it_is_theirs_bit_for_bit(name: str, tmp_path: Path) -> None:
    imported = FAMILIES[name].imported
    archc.export_hf(imported.run, tmp_path)
    before, after = tensors(imported.saved), tensors(tmp_path)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert after[key].element == tensor.element
        np.testing.assert_array_equal(after[key].read(), tensor.read(), key)
    options = FAMILIES[name].options
    again, loaded = FAMILIES[name].model.from_pretrained(tmp_path, output_loading_info=True, **options)
    assert not loaded["missing_keys"] | loaded["unexpected_keys"] | loaded["mismatched_keys"]
    assert again.config.model_type == imported.theirs.config.model_type
    assert_said(config_of(imported.saved), config_of(tmp_path))


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
    imported = FAMILIES[name].imported
    text = (imported.run / "model.arch").read_text()
    assert "import" not in text.split("{")[0]
    if "pooler" not in name:  # no config says that there is none
        assert archc.import_hf(imported.saved / "config.json") == text
    assert format(Source("model.arch", text)) == text
    assert program(text).sizes == ()


def test_half_precision_keeps_its_bits(tmp_path: Path) -> None:
    DECODERS["recurrentgemma"].theirs().to(torch.bfloat16).save_pretrained(tmp_path / "hf", max_shard_size="20KB")
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
    plan = family.moves(checked.graph, family.heads[0])
    Writer(tmp_path / "theirs", {move.theirs: ("F32", move.shape) for move in plan})
    total, largest = (tmp_path / "theirs").stat().st_size, 4 * 4 * width**2
    tracemalloc.start()
    convert(plan, read_header(tmp_path / "theirs"), stored_shapes(checked.graph), tmp_path / "ours")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * largest < total / 4
