"""The tokenizer of an imported model: it travels with the weights, and text is what it is to transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import archc
from archc.diagnostics import ArchError
from archc.exchange.run import TEXT
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


def test_a_prompt_is_continued_as_by_transformers(saved: Path, run: Path) -> None:
    # tokens of the end are let through: archc stops after as many as were asked for
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
