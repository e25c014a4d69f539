"""Every config, every folder of weights that cannot be imported, every model that cannot be exported: what is said."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archc
from archc.diagnostics import ArchError, Source
from archc.emit.initial import stored_shapes
from archc.exchange.codes import CODES
from archc.exchange.fields import read_config
from archc.exchange.safetensors import Writer, read_header
from archc.exchange.spec_text import spec_text
from archc.specs_index import program

CASES = sorted((Path(__file__).parent / "errors").glob("*.json"))
CONFIG = {
    "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 11,
    "intermediate_size": 24,
}  # fmt: skip


def refused(path: Path, monkeypatch: pytest.MonkeyPatch, out: Path | None = None) -> str:
    """What is said of a config or a folder, named as from beside it."""
    monkeypatch.chdir(path.parent)
    with pytest.raises(ArchError) as caught:
        archc.import_hf(path.name, out)
    return str(caught.value) + "\n"


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_message_of_a_config_is_the_one_beside_it(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(case, monkeypatch)
    assert said == case.with_suffix(".txt").read_text()
    for message in re.findall(r"error\[E\d+\]: (.*)", said):
        assert not message.endswith(".")
        assert message[0] == "'" or not message[0].isupper()


def test_what_other_systems_accept_in_silence_is_refused() -> None:
    silent = {
        "kind_of_layer_misspelt": "did you mean 'recurrent'?",
        "option_misspelt": "did you mean 'attention_window_size'?",
        "width_and_heads_do_not_divide": "100/7",
        "pattern_of_4_layers_of_9": "'num_hidden_layers' is 9",
        "letter_unknown": "no layer is written 'X'",
        "no_layers": "lists no layers",
    }
    folder = CASES[0].parent
    assert all(text in (folder / f"{name}.txt").read_text() for name, text in silent.items())


# --- weights -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model in two shards, all zeros."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    shards(model, shapes())
    return model


def shapes() -> dict[str, tuple[int, ...]]:
    config = read_config(Source("config.json", json.dumps(CONFIG)))
    graph = program(spec_text("llama", config.sizes)).graph
    family = config.family
    return {move.theirs: move.shape for move in family.moves(graph, config.head)}


def shards(folder: Path, tensors: dict[str, tuple[int, ...]], element: Any = "F32") -> None:
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, inside in parts.items():
        Writer(folder / file, {name: (element, tensors[name]) for name in inside})
    index = {name: file for file, inside in parts.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = refused(folder, monkeypatch, folder.parent / "run")
    assert not (folder.parent / "run").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    return text


def test_a_whole_folder_is_taken(folder: Path) -> None:
    archc.import_hf(folder, folder.parent / "run")
    assert len(read_header(folder.parent / "run" / "weights.safetensors")) == len(shapes())


def test_missing_weights_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = shapes()
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    shards(folder, tensors)
    expected = "the weights lack 'model.norm.weight', 'model.layers.1.mlp.up_proj.weight'"
    assert said(folder, monkeypatch).startswith(f"error[E708]: {expected}")


def test_tensors_that_nothing_takes_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(folder, shapes() | {"model.layers.0.self_attn.q_proj.bias": (16,)})
    expected = "error[E709]: nothing in the spec takes 'model.layers.0.self_attn.q_proj.bias'\n"
    assert said(folder, monkeypatch) == expected


def test_tensors_of_another_shape_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(folder, shapes() | {"lm_head.weight": (12, 16)})
    assert said(folder, monkeypatch) == "error[E710]: 'lm_head.weight' is [12, 16]; by the config it is [11, 16]\n"


def test_a_turned_matrix_is_not_taken_for_one_that_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(folder, shapes() | {"model.layers.0.mlp.up_proj.weight": (16, 24)})
    assert "is [16, 24]; by the config it is [24, 16]" in said(folder, monkeypatch)


def test_buffers_without_anything_learned_are_passed_over(folder: Path) -> None:
    shards(folder, shapes() | {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)})
    archc.import_hf(folder, folder.parent / "run")


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_tensor_may_be_there_twice_if_it_is_the_same(
    folder: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    for file in folder.glob("*.safetensors"):
        for name, tensor in read_header(file).items():
            if name == "lm_head.weight" and not same:
                bits = np.memmap(file, np.dtype("<u4"), "r+", tensor.offset, tensor.shape)
                bits[3, 5] = 7
    if same:
        archc.import_hf(folder, folder.parent / "run")
        assert "U" not in read_header(folder.parent / "run" / "weights.safetensors")
    else:
        assert said(folder, monkeypatch) == "error[E709]: nothing in the spec takes 'lm_head.weight'\n"


def test_a_missing_shard_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "b.safetensors").unlink()
    assert said(folder, monkeypatch) == "error[E711]: the index names 'b.safetensors', which is not in 'model'\n"


@pytest.mark.parametrize("left", [4, 40, 2000])
def test_a_file_that_was_cut_off_is_named(folder: Path, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(whole[:left])
    assert said(folder, monkeypatch).startswith("error[E711]: 'model/a.safetensors' ")


def test_no_weights_and_pickled_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in folder.glob("*safetensors*"):
        file.unlink()
    assert "has neither model.safetensors nor" in said(folder, monkeypatch)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "'pytorch_model.bin' is pickled" in said(folder, monkeypatch)


def test_other_kinds_of_elements_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "a.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"I32"', 1))
    assert "has elements of the kind I32" in said(folder, monkeypatch)


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(tmp_path / "model", monkeypatch) == "error[E701]: no config 'model'\n"
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert "is no folder; weights are read from one" in refused(tmp_path / "config.json", monkeypatch, tmp_path / "run")


def test_a_folder_that_holds_something_is_left_alone(folder: Path) -> None:
    run = folder.parent / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("years")
    with pytest.raises(ArchError, match="E605"):
        archc.import_hf(folder, run)
    assert [p.name for p in run.iterdir()] == ["thesis.tex"]
    archc.import_hf(folder, run, force=True)
    assert sorted(p.name for p in run.iterdir()) == ["config.json", "model.arch", "thesis.tex", "weights.safetensors"]


# --- and out -----------------------------------------------------------------------------------------


def exported(run: Path, old: str = "", new: str = "") -> str:
    text = (run / "model.arch").read_text()
    assert old in text
    (run / "model.arch").write_text(text.replace(old, new))
    with pytest.raises(ArchError) as caught:
        archc.export_hf(run, run.parent / "out")
    assert not (run.parent / "out").exists()
    return str(caught.value)


@pytest.fixture
def run(folder: Path) -> Path:
    archc.import_hf(folder, folder.parent / "run")
    return folder.parent / "run"


def test_equations_that_were_changed_are_not_exported(run: Path) -> None:
    expected = "error[E713]: no model of transformers is known to compute 'llama'"
    assert exported(run, "swiglu(rms_norm(x, eps = eps), hidden)", "geglu(rms_norm(x, eps = eps), hidden)").startswith(
        expected
    )


def test_a_number_that_transformers_fixes_is_named(tmp_path: Path) -> None:
    sizes = {"width": 80, "depth": 3, "vocab": 11, "heads": 4, "window": 5}
    text = spec_text("recurrentgemma", {name: Fraction(n) for name, n in sizes.items()})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.arch").write_text(text)
    stored = stored_shapes(program(text).graph)
    Writer(tmp_path / "run" / "weights.safetensors", {name: ("F32", shape) for name, shape in stored.items()})
    found = exported(tmp_path / "run")
    assert found.startswith("error[E713]: 'scale' is 8.94427190999916; transformers computes 8.9375 there")


def test_weights_of_another_model_are_not_exported(run: Path) -> None:
    assert "E711" in exported(run, "vocab = 11", "vocab = 12")


def test_a_folder_without_weights_is_not_exported(run: Path) -> None:
    (run / "weights.safetensors").unlink()
    assert "error[E714]" in exported(run)


# --- codes -------------------------------------------------------------------------------------------


def test_every_code_has_a_test() -> None:
    here = Path(__file__)
    texts = [*(path.with_suffix(".txt") for path in CASES), here, here.with_name("test_patterns.py")]
    shown = "".join(path.read_text() for path in texts)
    assert set(re.findall(r"E7\d\d", shown)) == set(CODES)


@pytest.mark.parametrize("code", [code for code, each in CODES.items() if each.wrong.startswith("{")])
def test_the_wrong_example_of_a_code_has_it_and_the_right_one_has_not(code: str, tmp_path: Path) -> None:
    found = []
    for text in (CODES[code].wrong, CODES[code].right):
        (tmp_path / "config.json").write_text(text)
        try:
            archc.import_hf(tmp_path)
            found.append(set[str]())
        except ArchError as wrong:
            found.append({d.code for d in wrong.diagnostics})
    assert code in found[0]
    assert code not in found[1]
