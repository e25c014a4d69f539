"""`archc train` and `archc generate`, from a spec of one's own to a text, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SPEC = """
model small(width = 16, vocab = 256, depth = 2) {
    block layer { x = x + tanh(scan(decay = sigmoid(x @ W_a[width -> width']), input = x)) * s[width] }
    x = E[vocab width](tokens)
    x = stack(x, depth, [layer])
    logits = x @ U[width -> vocab]
}
"""
ENCODER = """
encoder small(width = 16, vocab = 257, length = 25) {
    x = E[vocab width](tokens) + P[length width](pos + 1)
    x = x + attention(x, 2, mask = everything)
    logits = x @ U[width -> vocab]
}
"""
ARCHC = [sys.executable, "-P", "-c", "from archc.cli import main; main()"]
QUICK = ["--context", "16", "--batch", "2", "--eval-sequences", "2", "--baselines", "false", "--threads", "1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.arch").write_text(SPEC)
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text number {number} is short\n" * 20)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ARCHC, *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "train", "small.arch", "--backend", "torch", "--data", "texts", *QUICK, *arguments)


def test_a_spec_is_trained_resumed_and_sampled(folder: Path) -> None:
    done = train(folder, "--steps", "3")
    assert done.returncode == 0, done.stderr
    out = folder / "runs" / "small-torch"
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]

    done = train(folder, "--steps", "5", "--resume")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5]

    for place in (out, out / "checkpoints" / "step-000005"):
        done = run(folder, "generate", str(place), "--prompt", "text", "--tokens", "5")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("text")


def test_an_encoder_is_trained_with_masked_tokens_and_generates_nothing(folder: Path) -> None:
    (folder / "small.arch").write_text(ENCODER)
    done = train(folder, "--steps", "2")
    assert done.returncode == 0, done.stderr
    run_folder = Path("runs") / "small-torch"
    for place in (run_folder, run_folder / "checkpoints" / "step-000002"):
        done = run(folder, "generate", str(place), "--prompt", "text")
        assert done.returncode == 1
        assert f"error[E609]: '{place}' holds an encoder: it fills in masked tokens" in done.stderr


def test_a_sequence_is_no_longer_than_the_model_has_positions_for(folder: Path) -> None:
    (folder / "small.arch").write_text(ENCODER)
    done = run(folder, "compile", "small.arch", "--backend", "torch", "-o", "long", "--context", "25")
    assert done.returncode == 1
    assert "error[E612]: 'small' has positions for 24 tokens, not for 25" in done.stderr
    for context, given in ((24, ()), (7, ("--context", "7"))):
        assert run(folder, "compile", "small.arch", "--backend", "torch", "-o", f"c{context}", *given).returncode == 0
        assert f"context = {context} " in (folder / f"c{context}" / "config.toml").read_text()


def test_another_model_is_not_trained_into_a_run_that_exists(folder: Path) -> None:
    assert train(folder, "--steps", "1", "-o", "run").returncode == 0
    done = train(folder, "--steps", "1", "-o", "run", "--set", "width=8")
    assert done.returncode == 1
    assert "error[E605]: 'run' holds a training of another model or version of archc" in done.stderr
    assert "Traceback" not in done.stderr


MISTAKES = {
    "unreadable data": (["--data", "nothing"], "nothing"),
    "a misspelt task": (["--data", "task:indction"], "unknown task 'indction'; did you mean 'induction'?"),
    "a misspelt field": (["--stpes", "3"], "did you mean '--steps'"),
    "a field out of range": (["--batch", "0"], "batch"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_training_ends_in_one_message_and_exit_code_1(folder: Path, mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    done = train(folder, "--steps", "1", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_checkpoint_is_refused(folder: Path) -> None:
    assert train(folder, "--steps", "1", "-o", "run").returncode == 0
    (weights,) = (folder / "run" / "checkpoints").glob("*/weights.safetensors")
    weights.write_bytes(b"no weights")
    done = run(folder, "generate", "run", "--prompt", "x")
    assert done.returncode == 1
    assert "weights.safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_ends_a_training_with_a_checkpoint(folder: Path) -> None:
    """The signal reaches both processes, as from a terminal; the training finishes its step and saves."""
    command = [*ARCHC, "train", "small.arch", "--backend", "torch", "--data", "texts", *QUICK, "--steps", "1000000"]
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, text=True)
    metrics = folder / "runs" / "small-torch" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "stopped after step" in out
    assert list((metrics.parent / "checkpoints").glob("step-*"))
