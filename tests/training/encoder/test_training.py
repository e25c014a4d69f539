"""Encoders are trained to predict masked tokens, resumed exactly and judged on fixed ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.project import Project, one_line, same_weights


def test_it_learns_from_both_sides(trained):
    losses, heldout = trained.values("loss"), trained.values("heldout_loss")
    assert np.isclose(losses[0], np.log(257), rtol=0.05)
    assert losses[-10:].mean() < losses[0] - 2
    assert heldout[-1] < heldout[0]


def test_twelve_steps_equal_six_a_kill_and_six_to_the_last_bit(project):
    outcome = project.trained("--out", project.folder / "whole")
    assert "held-out loss to beat: frequencies of tokens" in outcome.stdout
    process = project.start("train.py", *project.training("--out", project.folder / "parts", "--save-every", 6))
    project.kill_after(7, process, "parts")
    project.trained("--out", project.folder / "parts", "--resume")
    for metric in ("loss", "grad_norm", "heldout_loss"):
        assert project.column(metric, "parts") == project.column(metric, "whole")
    assert same_weights(project.weights(12, "parts"), project.weights(12, "whole"))


def logits(backend, load, training, tokens: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """What the model of a training says of tokens [B, T] in segment 0."""
    blank = np.zeros_like(tokens)
    if backend == "torch":
        with torch.no_grad():
            return training.model(*(torch.tensor(x, dtype=torch.int64) for x in (tokens, blank, pos)))[0].numpy()
    return np.asarray(load("stacks").with_weights(training.graph, training.params)(tokens, blank, pos)[0])


def started(load, tmp_path: Path, trained: Project, *arguments: str):
    """A training in this process, before its first step."""
    given = ["--data", str(trained.folder / "text"), "--context", "32", "--batch", "4", "--eval-sequences", "8"]
    return load("train").Training(load("settings").load_settings([*given, "--out", str(tmp_path / "run"), *arguments]))


def test_the_loss_is_the_mean_over_the_predicted_tokens_alone(backend, load, tmp_path, trained):
    training = started(load, tmp_path, trained)
    state = training.batches.get_state()
    batch = next(training.batches)
    training.batches.set_state(state)
    scores = logits(backend, load, training, batch["tokens"], batch["pos"]).astype(np.float64)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    chosen = batch["targets"] != -1
    assert chosen.sum() == 4 * round(0.15 * 32)
    nats = -np.take_along_axis(scores, np.maximum(batch["targets"], 0)[..., None], -1)[..., 0]
    assert training.advance()["loss"] == pytest.approx(nats[chosen].mean(), rel=1e-5)


def test_held_out_text_is_masked_in_the_same_places_whatever_the_seed(load, tmp_path, trained):
    batches = [started(load, tmp_path / seed, trained, "--seed", seed).heldout for seed in ("0", "1")]
    assert len(batches[0]) == 2
    for one, other in zip(*batches, strict=True):
        assert one.keys() == other.keys() == {"tokens", "targets", "pos"}
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--context 65", "context: input should be less than or equal to 64, not '65'"),
        ("--masked 0.8 --replaced 0.3", "masked = 0.8 and replaced = 0.3 are more than all together"),
        ("--predicted 0", "predicted: input should be greater than 0, not '0'"),
        ("--data task:induction", "data: tasks ask for the next token, which an encoder sees"),
    ],
)
def test_a_mistake_gives_one_line(trained, arguments, message):
    assert message in one_line(trained.train(*arguments.split(), "--out", trained.folder / "mistake"))
