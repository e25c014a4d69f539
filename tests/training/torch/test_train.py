"""Training: it learns, resumes to the last bit, survives a kill at any moment and says in one line what is wrong."""

import json
import shutil
import signal
import tomllib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.project import one_line, same_weights

KILLS = {
    "before the weights": "checkpoint.save_file = kill",
    "before the state": "checkpoint.dcp.save = kill",
    "before the progress": "folder.Progress.save = kill",
    "before the rename": "folder.sync = kill",
    "while the old one is removed": "folder.shutil.rmtree = lambda path, **_: path in old and path.exists() and kill()",
}


def test_a_short_training_learns(trained):
    losses = trained.values("loss")
    assert np.isclose(losses[0], np.log(256), rtol=0.1)
    assert losses[-1] < losses[0] - 2
    heldout = trained.values("heldout_loss")
    assert heldout[-1] < heldout[0] - 0.5


def test_twelve_steps_equal_six_a_kill_and_six_to_the_last_bit(project):
    project.trained("--out", project.folder / "whole")
    process = project.start("train.py", *project.training("--out", project.folder / "parts", "--save-every", 6))
    project.kill_after(7, process, "parts")
    project.trained("--out", project.folder / "parts", "--resume")
    assert project.column("loss", "parts") == project.column("loss", "whole")
    assert project.column("heldout_loss", "parts") == project.column("heldout_loss", "whole")
    assert same_weights(project.weights(12, "parts"), project.weights(12, "whole"))


def test_a_termination_saves_and_the_rest_follows_exactly(project):
    project.trained("--steps", 60, "--out", project.folder / "whole")
    process = project.start("train.py", *project.training("--steps", 60, "--out", project.folder / "parts"))
    project.wait_for(5, process, "parts")
    process.terminate()
    outcome = project.finish(process)
    assert outcome.code == 0
    assert "stopped after step" in outcome.stdout
    project.trained("--steps", 60, "--out", project.folder / "parts", "--resume")
    assert project.column("loss", "parts") == project.column("loss", "whole")
    assert same_weights(project.weights(60, "parts"), project.weights(60, "whole"))


@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_while_a_checkpoint_is_written_leaves_one_that_loads(project, moment):
    project.trained("--steps", 6, "--keep", 1)
    before = project.weights(6)
    script = f"""
import os, signal, sys
import checkpoint, folder, train
from pathlib import Path
old = [Path("checkpoints/.partial-step-000006").absolute()]
def kill(*arguments, **named): os.kill(os.getpid(), signal.SIGKILL)
{KILLS[moment]}
train.main(sys.argv[1:])
"""
    (project.folder / "killed.py").write_text(script)
    outcome = project.run("killed.py", *project.training("--keep", 1, "--save-every", 9, "--resume"))
    assert outcome.code == -signal.SIGKILL
    left = sorted(path.name for path in (project.folder / "checkpoints").glob("step-*"))
    assert left == ["step-000009" if moment == "while the old one is removed" else "step-000006"]
    assert left != ["step-000006"] or same_weights(project.weights(6), before)
    project.trained("--keep", 1, "--resume")
    assert list(project.column("loss")) == list(range(1, 13))
    remaining = {path.name for path in (project.folder / "checkpoints").iterdir() if path.name.startswith("step-")}
    assert remaining == {"step-000012"}


@pytest.mark.parametrize("room", [20_000, 80_000])
def test_a_full_disk_keeps_the_checkpoints_before(project, room):
    project.trained("--steps", 6)
    outcome = project.train("--resume", file_size=room)  # less than the weights; less than the optimizer's state
    assert "cannot write" in one_line(outcome)
    assert "File too large" in outcome.stderr
    assert sorted(path.name for path in (project.folder / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    project.trained("--resume")


def test_a_full_disk_while_tokenising_leaves_no_corpus(project):
    assert "File too large" in one_line(project.train(file_size=4000))
    assert list((project.folder / "data").iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_training_and_names_step_and_weight(project):
    message = one_line(project.train("--lr", "1e30", "--warmup", 0, "--save-every", 1, "--clip", 0))
    assert "step 2" in message
    assert "gradient of E" in message
    assert [path.name for path in (project.folder / "checkpoints").iterdir()] == ["step-000001"]


def test_accumulation_changes_only_rounding(project):
    project.trained("--out", project.folder / "one")
    project.trained("--out", project.folder / "four", "--accumulate", 4)
    np.testing.assert_allclose(project.values("loss", "four"), project.values("loss", "one"), rtol=2e-4)


def test_bfloat16_computes_close_by_and_stores_single_precision(project):
    project.trained("--out", project.folder / "full")
    project.trained("--out", project.folder / "half", "--dtype", "bfloat16")
    full, half = project.values("loss", "full"), project.values("loss", "half")
    assert (full != half).any()
    np.testing.assert_allclose(half, full, rtol=0.03)
    assert {weight.dtype.name for weight in project.weights(12, "half").values()} == {"float32"}


def test_weight_decay_leaves_its_exceptions_alone(project):
    one = ("--steps", 1, "--warmup", 1, "--lr", 0.1)
    project.trained(*one, "--weight-decay", 0, "--out", project.folder / "none")
    project.trained(*one, "--weight-decay", 0.5, "--out", project.folder / "half")
    project.trained("--steps", 1, "--warmup", 1, "--lr", 0, "--out", project.folder / "start")
    none, half, start = (project.weights(1, out) for out in ("none", "half", "start"))
    for name, weight in start.items():
        decayed = 0.0 if name in {"E", "mean.decay", "scale"} else 0.1 * 0.5 * weight
        np.testing.assert_allclose(none[name] - half[name], decayed, atol=1e-6)


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_its_floor(project):
    project.trained("--warmup", 4, "--lr", 1.0, "--lr-floor", 0.2, "--weight-decay", 0)
    rates = project.values("lr")
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
    angles = np.linspace(0, np.pi, 9)[1:]
    np.testing.assert_allclose(rates[4:], 0.6 + 0.4 * np.cos(angles))


def test_the_gradient_norm_is_clipped_but_reported_whole(project):
    project.trained("--steps", 2, "--warmup", 0, "--clip", 1e-9, "--eps", 1.0, "--weight-decay", 0)
    assert project.values("grad_norm").min() > 1e-3
    before, after = project.values("loss")
    assert abs(before - after) < 0.5


def test_a_loss_taken_in_pieces_is_the_same(project):
    (project.folder / "pieces.py").write_text("import sys, train\ntrain.LOGITS = 10_000\ntrain.main(sys.argv[1:])\n")
    outcome = project.run("pieces.py", *project.training("--out", project.folder / "pieces"))
    assert outcome.code == 0, outcome.stderr
    project.trained("--out", project.folder / "whole")
    np.testing.assert_allclose(project.values("loss", "pieces"), project.values("loss", "whole"), rtol=1e-4)


def test_utilisation_is_speed_times_the_flops_of_a_token_over_the_peak(project):
    project.trained("--steps", 2, "--peak-flops", 1e9)
    flops = 6.0 * (4 * 32 * 32 + 256 * 32)
    expected = project.values("tokens_per_second") * flops / 1e9
    np.testing.assert_allclose(project.values("mfu"), expected)


def test_tensorboard_shows_each_step_once_after_a_resume(project):
    process = project.start("train.py", *project.training("--steps", 40))
    project.kill_after(7, process)
    project.trained("--resume")
    board = EventAccumulator(str(project.folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    events = [(event.step, event.tensor_proto.float_val[0]) for event in board.Tensors("loss")]
    assert events == [(step, pytest.approx(loss)) for step, loss in project.column("loss").items()]


def test_only_the_last_checkpoints_are_kept(project):
    project.trained("--keep", 2)
    assert sorted(path.name for path in (project.folder / "checkpoints").iterdir()) == ["step-000009", "step-000012"]


def test_the_command_line_wins_over_a_file_and_the_file_over_the_defaults(project):
    (project.folder / "mine.toml").write_text("steps = 5\nwarmup = 5\nlr = 0.5\nweight_decay = 0.0\n")
    text = project.folder / "text"
    sizes = ("--steps", 2, "--context", 32, "--batch", 2, "--lr_floor", 0.5)
    arguments = ("mine.toml", "--data", text, *sizes, "--no_such", 1)
    assert "unknown argument '--no_such'" in one_line(project.run("train.py", *arguments))
    outcome = project.run("train.py", *arguments[:-2])
    assert outcome.code == 0, outcome.stderr
    np.testing.assert_allclose(project.values("lr"), [0.1, 0.2])


def test_every_field_is_in_the_configuration_and_its_meaning_in_the_help(project, load):
    fields = set(load("settings").Settings.model_fields)
    assert set(tomllib.loads((project.folder / "config.toml").read_text())) == fields
    outcome = project.run("train.py", "--help")
    assert outcome.code == 0
    for line in (project.folder / "config.toml").read_text().splitlines():
        name, _, rest = line.partition(" = ")
        if name in fields:
            assert f"--{name.replace('_', '-')}" in outcome.stdout
            value, _, meaning = rest.partition("# ")
            now = f" ({tomllib.loads(f'now = {value}')['now']})".lower() if value[0] not in '["' else ""
            assert " ".join(f"{meaning}{now}".split()) in " ".join(outcome.stdout.split())


MISTAKES = {
    "--steps none": "steps: input should be a valid integer, unable to parse string as an integer, not 'none'",
    "--step 3": "unknown argument '--step'; did you mean '--steps'?",
    "--batch 4 --accumulate 3": "accumulate = 3 does not divide batch = 4",
    "--dtype float8": "dtype: input should be 'float32' or 'bfloat16', not 'float8'",
    "--device cuda:7": "device 'cuda:7' can't be used",
    "--data absent.txt": "no such data file or folder: absent.txt",
    "--data model.safetensors": "model.safetensors is not UTF-8 text",
    "--data bad.jsonl": 'bad.jsonl:2 is not a JSON object with a "text" field that is a string',
    "--data empty": "no text files in empty",
    "--data short.txt": "the held-out text has 1 tokens, fewer than context + 1 = 33",
    "--tokenizer absent.json": "no such tokenizer file: absent.json",
    "--tokenizer bad.jsonl": "bad.jsonl is not a file of the tokenizers library",
    "--tokenizer bpe:many": "tokenizer 'bpe:many': write bpe:SIZE",
    "--tokenizer bpe:100": "bpe:100 is too small",
    "--tokenizer bpe:270": "the tokenizer has 270 tokens, the model only 256",
    "--out short.txt": "Not a directory",
    "absent.toml": "no such configuration file: absent.toml",
    "bad.toml": "bad.toml is not TOML",
    "unknown.toml": "unknown field 'step' in the configuration; did you mean 'steps'?",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_gives_one_line(project, arguments):
    (project.folder / "model.safetensors").write_bytes(b"\xff\x00\xfe")
    (project.folder / "bad.jsonl").write_text('{"text": "a"}\n{"words": "a"}\n')
    (project.folder / "empty").mkdir()
    (project.folder / "short.txt").write_text("a few words only")
    (project.folder / "bad.toml").write_text("steps = = 1")
    (project.folder / "unknown.toml").write_text("step = 1")
    assert MISTAKES[arguments] in one_line(project.train(*arguments.split()))


def test_a_folder_that_holds_a_training_is_not_trained_over(trained):
    assert "already holds step-000030; give --resume" in one_line(trained.train())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--batch", 8), "batch = 4, this run has batch = 8"),
        (("--seed", 1), "seed = 0, this run has seed = 1"),
        (("--heldout", 0.1), "this run has data = "),
    ],
)
def test_a_resume_with_another_configuration_is_refused(trained, change, message):
    assert message in one_line(trained.train("--resume", *change))


def test_a_resume_takes_the_optimizer_as_it_is_now_configured(project):
    project.trained("--steps", 3)
    shutil.copytree(project.folder / "checkpoints", project.folder / "other" / "checkpoints")
    project.trained("--steps", 4, "--resume", "--weight-decay", 0)
    project.trained("--steps", 4, "--resume", "--weight-decay", 0.5, "--out", project.folder / "other")
    none, half = project.weights(4), project.weights(4, "other")
    assert np.array_equal(none["scale"], half["scale"])
    assert not np.array_equal(none["mean.W"], half["mean.W"])


def test_a_resume_with_another_model_is_refused(project):
    project.trained("--steps", 3)
    text = (project.folder / "model.py").read_text()
    (project.folder / "model.py").write_text(text.replace("VOCAB, DIM = 256, 32", "VOCAB, DIM = 256, 16"))
    assert "was trained with model = Tiny-" in one_line(project.train("--resume"))


@pytest.mark.parametrize("name", ["weights.safetensors", "progress.json", "state/.metadata"])
def test_a_damaged_checkpoint_is_one_line(project, name):
    project.trained("--steps", 3)
    path = project.folder / "checkpoints" / "step-000003" / name
    path.write_bytes(path.read_bytes()[:40])
    assert "step-000003" in one_line(project.train("--resume"))


def test_metrics_of_a_torn_line_are_mended(project):
    project.trained("--steps", 3)
    with (project.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    project.trained("--resume")
    rows = [json.loads(line) for line in (project.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
