"""Generation: the seed decides the text, a batch its prompts' own texts, the state changes nothing."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

PROMPTS = ("the gate", "sc", "a mixer of ü")
ORACLE = """
import sys, torch
from pathlib import Path
from generate import load_model
model = load_model(Path("checkpoints/step-000030"), torch.float32, torch.device("cpu"))
tokens = list(sys.argv[1].encode())
for _ in range(16):
    tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
print(bytes(tokens).decode(errors="replace"))
"""


def generate(project, *arguments, prompts=PROMPTS[:1], code=0):
    named = [part for prompt in prompts for part in ("--prompt", prompt)]
    outcome = project.run("generate.py", ".", *named, "--tokens", 16, "--threads", 1, *arguments)
    assert outcome.code == code, outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome


def texts(outcome) -> list[str]:
    """The texts of a batch."""
    lines = outcome.stdout.split("---- ")[1:]
    return [line.partition("\n")[2].rstrip("\n") for line in lines]


def test_the_seed_decides_the_text(trained):
    first, again, other = (generate(trained, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other
    assert first.startswith("the gate")


def test_a_batch_gives_the_texts_of_its_prompts_alone(trained):
    together = texts(generate(trained, prompts=PROMPTS))
    alone = [generate(trained, prompts=[prompt]).stdout.rstrip("\n") for prompt in PROMPTS]
    assert together == alone


def test_a_repeated_prompt_draws_anew(trained):
    first, second = texts(generate(trained, prompts=["the", "the"]))
    assert first != second


@pytest.mark.parametrize("greedy", [("--temperature", 0), ("--top-k", 1), ("--top-p", 1e-6)])
def test_the_likeliest_tokens_are_those_of_the_whole_sequence(trained, greedy):
    (trained.folder / "oracle.py").write_text(ORACLE)
    oracle = trained.run("oracle.py", PROMPTS[0])
    assert generate(trained, *greedy).stdout == oracle.stdout != ""


def test_half_precision_generates(trained):
    assert generate(trained, "--dtype", "bfloat16").stdout.startswith("the gate")


def test_a_checkpoint_is_as_good_as_its_run(trained):
    outcome = trained.run(
        "generate.py", "checkpoints/step-000030", "--prompt", "the gate", "--tokens", 16, "--threads", 1
    )
    assert outcome.stdout == generate(trained).stdout


def test_the_text_ends_where_the_context_is_full(trained):
    outcome = generate(trained, "--tokens", 40, "--temperature", 0)
    assert outcome.stderr == "stopped after 24 tokens: the context is full; --context makes it longer\n"
    longer = generate(trained, "--tokens", 40, "--temperature", 0, "--context", 48)
    assert longer.stderr == ""
    assert longer.stdout.startswith(outcome.stdout.rstrip("\n"))
    assert len(longer.stdout.encode()) >= 8 + 40


def test_a_prompt_longer_than_the_context_is_refused(trained):
    outcome = generate(trained, prompts=["x" * 32], code=1)
    assert outcome.stderr == "error: the prompt has 32 tokens and the context 32; --context makes it longer\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "no such run folder or checkpoint: absent"),
        (("text",), "text holds no checkpoint"),
        ((".", "--top-p", 0), "top_p: input should be greater than 0, not '0'"),
        ((".", "--tokns", 9), "unknown argument '--tokns'; did you mean '--tokens'?"),
        ((".", "--prompt", "\udcff"), "prompt '\\udcff' is not UTF-8 text"),
        ((), "the following arguments are required: run"),
    ],
)
def test_a_mistake_gives_one_line(trained, arguments, message):
    outcome = trained.run("generate.py", *arguments)
    assert outcome.code == 1
    assert outcome.stderr.startswith(f"error: {message}")
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop("mean.W"), "1 weights are missing ('mean.W')"),
        (
            lambda weights: weights.update({"mean.w": weights.pop("mean.W")}),
            "1 weights are missing ('mean.W'); 1 are not in the model ('mean.w'; did you mean 'mean.W'?)",
        ),
        (
            lambda weights: weights.update(E=np.zeros((9, 32), np.float32)),
            "1 have another shape ('E' is [9, 32], the model has [256, 32])",
        ),
    ],
)
def test_weights_of_another_model_are_refused_by_name(trained, tmp_path, edit, message):
    shutil.copytree(trained.folder / "checkpoints" / "step-000030", tmp_path / "other")
    path = tmp_path / "other" / "weights.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)
    outcome = trained.run("generate.py", tmp_path / "other")
    assert outcome.code == 1
    assert outcome.stderr == f"error: {path} does not fit this model: {message}\n"


def test_damaged_weights_are_one_line(trained, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x10" * 100)
    outcome = trained.run("generate.py", tmp_path)
    assert outcome.code == 1
    assert outcome.stderr.startswith(f"error: cannot read {tmp_path / 'weights.safetensors'}: ")
    assert outcome.stderr.count("\n") == 1


def test_tied_weights_are_stored_once_and_stay_tied(load, tmp_path):
    checkpoint = load("checkpoint")

    def tied() -> torch.nn.Module:
        model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
        model["head"].weight = model["embed"].weight
        return model

    model, other = tied(), tied()
    weights = checkpoint.named_weights(model)
    assert list(weights) == ["embed.weight"]
    save_file({name: weight.numpy() for name, weight in weights.items()}, tmp_path / "weights.safetensors")
    checkpoint.load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(other["head"].weight, model["embed"].weight)
    assert other["head"].weight is other["embed"].weight


def test_draws_follow_the_softmax_within_top_k_and_top_p(load):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    sample, request = load("generate").sample, load("request").Request
    generators = [torch.Generator().manual_seed(0)]

    def frequencies(**options) -> np.ndarray:
        draws = [sample(logits[None], request(**options), generators).item() for _ in range(4000)]
        return np.bincount(draws, minlength=5) / 4000

    weights = np.exp(logits.numpy() / 0.5)
    np.testing.assert_allclose(frequencies(temperature=0.5), weights / weights.sum(), atol=0.03)
    weights = np.exp(logits.numpy()) * [1, 1, 1, 0, 0]
    np.testing.assert_allclose(frequencies(temperature=1, top_k=3), weights / weights.sum(), atol=0.03)
    # the probabilities are 0.55, 0.20, 0.12, ...: two of them reach 0.7, one does not
    weights = np.exp(logits.numpy()) * [1, 1, 0, 0, 0]
    np.testing.assert_allclose(frequencies(temperature=1, top_p=0.7), weights / weights.sum(), atol=0.03)
