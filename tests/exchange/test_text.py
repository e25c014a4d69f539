"""The tokenizer of an imported model: it travels with the weights, and text is what it is to transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import archc
from archc.diagnostics import ArchError
from archc.exchange.run import TEXT
from archc.loading import import_project
from archc.runs import generate
from tests.oracles.families import BERTS, llama

PROMPT = "the hat"
PIECES = ["<s>", "</s>", *(f"{space}{word}" for space in ("", "▁") for word in ("the", "cat", "hat", "a", "t", "s"))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama and a tokenizer as Llama's: words begin with their space, and a token stands before every text."""
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path_factory.mktemp("saved")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    llama(kv=2, vocab=len(PIECES)).theirs().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "run"
    archc.import_hf(saved, folder)
    return folder


@pytest.fixture(scope="module")
def project(run: Path) -> dict[str, ModuleType]:
    """The modules that continue text with it."""
    return import_project(archc.compile(run / "model.arch", backend="torch"), "generate")


def test_a_prompt_is_continued_as_by_transformers(saved: Path, run: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    model = transformers.AutoModelForCausalLM.from_pretrained(saved)
    given = tokenizer(PROMPT, return_tensors="pt")
    assert given.input_ids[0].tolist() == [0, PIECES.index("▁the"), PIECES.index("▁hat")]
    with torch.no_grad():
        wanted = model.generate(given.input_ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=1)
    command = ["generate", str(run), "--prompt", PROMPT, "--tokens", "6", "--temperature", "0", "--threads", "1"]
    archc_ = [sys.executable, "-P", "-c", "from archc.cli import main; main()"]
    done = subprocess.run([*archc_, *command], capture_output=True, text=True, check=True)
    assert done.stdout == tokenizer.decode(wanted[0, 1:]) + "\n"


@pytest.mark.parametrize("backend", ["torch", "flax"])
def test_the_texts_of_a_batch_end_apart_where_transformers_ends_them(
    saved: Path, run: Path, backend: Literal["torch", "flax"], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ("the hat", "a", "s", "the cat")
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    model = transformers.AutoModelForCausalLM.from_pretrained(saved)
    wanted, lengths = [], []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            (row,) = model.generate(given, max_new_tokens=12, do_sample=False, pad_token_id=1).tolist()
        row = row[:-1] if row[-1] == model.generation_config.eos_token_id else row
        wanted.append(tokenizer.decode(row[1:]))
        lengths.append(len(row) - given.shape[1])
    assert len(set(lengths)) == 4
    assert min(lengths) == 0  # one ends at once
    assert max(lengths) == 12  # one never does
    modules = import_project(archc.compile(run / "model.arch", backend=backend), "generate")
    request = modules["request"].Request(prompt=prompts, tokens=12, temperature=0)
    modules["generate"].generate(run, request)
    assert capsys.readouterr().out == "\n\n".join(f"---- {n}\n{text}" for n, text in enumerate(wanted, 1)) + "\n"


def test_a_text_goes_on_past_its_end_where_that_is_asked_for(
    saved: Path, run: Path, project: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    model = transformers.AutoModelForCausalLM.from_pretrained(saved)
    given = tokenizer("s", return_tensors="pt").input_ids
    with torch.no_grad():
        whole = model.generate(given, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=1)
    for ignored, text in ((False, "s"), (True, tokenizer.decode(whole[0, 1:]))):
        request = project["request"].Request(prompt=("s",), tokens=5, temperature=0, ignore_eos=ignored)
        project["generate"].generate(run, request)
        assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, set()),
        ({"generation_config": {"eos_token_id": [3, 5]}, "config": {"eos_token_id": 1}}, {3, 5}),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 4}}, {4}),
        ({"config": {}, "tokenizer_config": {"eos_token": "</s>"}}, {PIECES.index("</s>")}),
        ({"tokenizer_config": {"eos_token": {"content": "</s>", "lstrip": False}}}, {PIECES.index("</s>")}),
        ({"tokenizer_config": {"eos_token": "<never>"}}, set()),
    ],
)
def test_what_ends_a_text_is_said_beside_the_tokenizer(
    run: Path, project: dict[str, ModuleType], tmp_path: Path, files: dict[str, object], ends: set[int]
) -> None:
    shutil.copy(run / "tokenizer.json", tmp_path)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert project["tokenizer"].load_tokenizer(tmp_path).ends == ends


def test_its_files_travel_as_they_stand(saved: Path, run: Path, tmp_path: Path) -> None:
    archc.export_hf(run, tmp_path / "out")
    there = [name for name in TEXT if (saved / name).exists()]
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(there)
    for name in there:
        assert (tmp_path / "out" / name).read_bytes() == (run / name).read_bytes() == (saved / name).read_bytes()


def test_a_run_without_a_tokenizer_says_so(run: Path, tmp_path: Path) -> None:
    for name in ("model.arch", "weights.safetensors", "config.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(ArchError, match=r"E615.*has no tokenizer\.json: its text cannot be read"):
        generate(tmp_path, ())
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ArchError, match=r"of 'tokenizer\.model' transformers makes one"):
        generate(tmp_path, ())


def test_an_imported_encoder_continues_nothing() -> None:
    with pytest.raises(ArchError, match=r"E609.*holds an encoder"):
        generate(BERTS["bert"].imported.run, ())
