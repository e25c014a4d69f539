"""Tasks as data: only answers count, longer sequences too, held-out ones are never trained on, and an exact resume."""

import numpy as np
import pytest

from tests.training.project import Project, lay_out, one_line, same_weights

ONLY_TORCH = pytest.mark.parametrize("backend", ["torch"], scope="session")  # what both have in common, word by word
SIZE = "--context 32 --batch 4 --eval-sequences 8 --warmup 2 --lr 1e-2 --threads 1"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, backend, cache) -> Project:
    """Only laid out; its modules are what is looked at."""
    return lay_out(tmp_path_factory.mktemp("tasks"), backend, cache)


def settings(load, *arguments: object):
    return load("settings").load_settings([*SIZE.split(), *map(str, arguments)])


def source(load, task: str, *arguments: object):
    return load("sources").open_source(settings(load, "--data", task, *arguments), 256)


def rows(batches) -> set[bytes]:
    return {row.tobytes() for batch in batches for row in batch["tokens"]}


def judged(batches) -> tuple[float, float]:
    """Loss and accuracy over the answers, from logits alone."""
    nats, right = [], []
    for batch in batches:
        scores = batch["logits"].reshape(*batch["targets"].shape, -1).astype(np.float64)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        for row, place in np.argwhere(batch["targets"] != -1):
            answer = batch["targets"][row, place]
            nats.append(-scores[row, place, answer])
            right.append(scores[row, place].argmax() == answer)
    return np.mean(nats), np.mean(right)


LOGITS = {
    "torch": "train.predict(training.model, *(train.to_tensors(batch, training.device)[i] for i in (0, 2))).detach()",
    "flax": "predict(training.graph, 'float32', training.params, batch)",
}
JUDGE = """
import json, sys
import numpy as np
import train
training = train.Training(train.load_settings(sys.argv[1:]))
{compiled}
def seen(batches):
    return [{{**batch, "logits": np.asarray({logits})}} for batch in batches]
state = training.batches.get_state()
first = seen([next(training.batches)])
training.batches.set_state(state)
row = training.advance()
np.save("seen.npy", np.array([first, seen(training.heldout), [row | training.evaluate()]], dtype=object))
"""
COMPILED = {"torch": "", "flax": "predict = train.jax.jit(train.predict, static_argnums=(0, 1))"}


def test_loss_and_accuracy_are_of_the_answers_at_every_length(project):
    script = JUDGE.format(logits=LOGITS[project.backend], compiled=COMPILED[project.backend])
    (project.folder / "judge.py").write_text(script)
    arguments = ("--data", "task:recall:pairs=3", *SIZE.split(), "--eval-lengths", 64)
    outcome = project.run("judge.py", *arguments)
    assert outcome.code == 0, outcome.stderr
    first, heldout, (row,) = np.load(project.folder / "seen.npy", allow_pickle=True)
    assert (first[0]["targets"] != -1).sum() == 4 * 3
    np.testing.assert_array_equal(first[0]["pos"], [range(32)] * 4)
    assert row["loss"] == pytest.approx(judged(first)[0], rel=1e-5)
    for length, sequences, name in ((32, 8, "heldout"), (64, 4, "heldout_64")):
        chosen = [batch for batch in heldout if batch["tokens"].shape[1] == length]
        assert sum((batch["targets"] != -1).any(1).sum() for batch in chosen) == sequences
        loss, accuracy = judged(chosen)
        assert row[f"{name}_loss"] == pytest.approx(loss, rel=1e-5)
        assert row[f"{name}_accuracy"] == pytest.approx(accuracy)
    assert {name for name in row if "_" in name and name.startswith("heldout")} == {
        f"heldout{at}_{what}" for at in ("", "_64") for what in ("loss", "accuracy")
    }


@ONLY_TORCH
def test_twelve_steps_equal_six_a_kill_and_six_to_the_last_bit(project):
    arguments = ("--data", "task:recall:pairs=4", *SIZE.split(), "--eval-every", 6, "--steps", 12, "--save-every", 6)
    whole = project.run("train.py", *arguments, "--out", project.folder / "whole")
    assert whole.code == 0, whole.stderr
    assert "guessing one of 4 answers 1.3863 nats, accuracy 25.0%" in whole.stdout
    process = project.start("train.py", *arguments, "--out", project.folder / "parts")
    project.kill_after(7, process, "parts")
    assert project.run("train.py", *arguments, "--out", project.folder / "parts", "--resume").code == 0
    for metric in ("loss", "heldout_loss", "heldout_accuracy", "heldout_64_loss", "heldout_256_accuracy"):
        assert project.column(metric, "parts") == project.column(metric, "whole")
    assert same_weights(project.weights(12, "parts"), project.weights(12, "whole"))
    other = (*arguments, "--data", "task:recall:pairs=5", "--out", project.folder / "parts", "--resume")
    assert "was trained with data = task:recall:vocab=256,pairs=4" in one_line(project.run("train.py", *other))
    said = project.run("generate.py", "parts", "--prompt", "7 200 7", "--tokens", 2, "--temperature", 0)
    assert [int(word) for word in said.stdout.split()][:3] == [7, 200, 7]
    assert "the tokenizer has no tokens for '7 seven'" in one_line(
        project.run("generate.py", "parts", "--prompt", "7 seven")
    )


@ONLY_TORCH
@pytest.mark.parametrize("task", ["selective_copying:items=4", "induction", "recall:pairs=4", "phone_book:digits=2"])
def test_no_sequence_is_trained_on_twice_or_held_out(load, task):
    found = source(load, f"task:{task}", "--eval-lengths", 32)
    stream = found.training()
    trained = [next(stream) for _ in range(100)]
    assert len(rows(trained)) == 400
    heldout = found.heldout()
    assert len(rows(heldout)) == 8
    assert not rows(trained) & rows(heldout)
    other = source(load, f"task:{task}", "--eval-lengths", 32, "--seed", 1)
    assert rows(other.heldout()) == rows(heldout)
    assert not rows([next(stream)]) & rows(trained)
    stream = other.training()
    assert not rows(next(stream) for _ in range(100)) & (rows(trained) | rows(heldout))


@ONLY_TORCH
def test_lengths_are_multiples_of_the_context_or_as_asked(load):
    assert settings(load, "--data", "task:induction").lengths == (32, 64, 128, 256)
    assert settings(load, "--data", "task:induction", "--eval-lengths", 48, 8).lengths == (8, 32, 48)
    assert settings(load).lengths == (32,)
    assert settings(load, "--eval-lengths", 64).lengths == (32, 64)


@ONLY_TORCH
def test_lengths_end_where_the_positions_of_the_model_do(tmp_path, backend, cache):
    project = lay_out(tmp_path, backend, cache, longest=100)
    (tmp_path / "lengths.py").write_text("import sys, settings\nprint(settings.load_settings(sys.argv[1:]).lengths)\n")
    assert project.run("lengths.py", "--data", "task:induction", "--context", 25).stdout == "(25, 50, 100)\n"
    said = one_line(project.run("lengths.py", "--data", "task:induction", "--eval-lengths", 101))
    assert "eval_lengths: input should be less than or equal to 100, not '101'" in said


MISTAKES = {
    "task:phonebook": "unknown task 'phonebook'; did you mean 'phone_book'?",
    "task:": "unknown task ''; there are selective_copying, induction, recall, phone_book",
    "task:recall:pears=3": "unknown field 'pears' in task:recall; did you mean 'pairs'?",
    "task:induction:length=9": "unknown field 'length' in task:induction; it has vocab",
    "task:induction:vocab": "task:induction:vocab: input should be a valid integer",
    "task:recall:pairs=128": "has no sequences of 32 tokens: vocab = 256 has 127 keys for 128 pairs",
    "task:recall:pairs=127": "has no sequences of 32 tokens: 127 pairs and their questions take 508 tokens",
    "task:induction:vocab=257": "task:induction:vocab=257 has 257 tokens, the model only 256",
    "task:induction --tokenizer bpe:300": "task:induction:vocab=16 has tokens of its own",
    "task:induction text": "data: a task stands alone",
}


@ONLY_TORCH
@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_gives_one_line(load, capsys, arguments):
    with pytest.raises(SystemExit, match="1"):
        source(load, *arguments.split())
    found = capsys.readouterr().err
    assert MISTAKES[arguments] in found
    assert found.count("\n") == 1
    assert "error: " in found
