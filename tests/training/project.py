"""Emitted folders whose scripts are run as separate processes, as a user runs them."""

from __future__ import annotations

import json
import multiprocessing
import random
import runpy
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors.numpy import load_file, save_file

from tests.xla import FLAGS

HERE = Path(__file__).parent
TEMPLATES = HERE.parents[1] / "templates"
SHARED = (
    "config.toml", "corpus.py", "data.py", "folder.py", "ngram.py", "options.py", "request.py", "settings.py",
    "sources.py", "tasks.py", "texts.py", "tokenizer.py",
)  # fmt: skip
OWN = {
    "torch": ("checkpoint.py", "compute.py", "generate.py", "train.py"),
    "flax": ("checkpoint.py", "compute.py", "generate.py", "stacks.py", "train.py"),
}
VALUES = {
    "name": "Tiny",
    "context": 32,
    "decodes": True,
    "apart": True,
    "inputs": ("tokens",),
    "outputs": 1,
    "logits": True,
}
PRELOADED = {
    "torch": (
        "safetensors.torch",
        "torch._dynamo",
        "torch.distributed.checkpoint.state_dict",
        "torch.utils.checkpoint",
    ),
    "flax": ("flax.nnx", "optax", "orbax.checkpoint", "safetensors.flax"),
}
LIBRARIES = ("grain", "pydantic", "tensorboard.summary", "tokenizers", "tqdm")
SMALL = "--steps 12 --batch 4 --context 32 --warmup 2 --lr 1e-2 --eval-every 6 --eval-sequences 8 --save-every 3"

Backend = Literal["torch", "flax"]


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Project:
    """An emitted folder; its scripts run in processes forked from one that has the libraries loaded.

    What XLA compiled is kept in ``cache``: every process computes with the same machine code, as on a user's machine.
    """

    folder: Path
    backend: Backend
    cache: Path

    def start(self, script: str, *arguments: object, file_size: int | None = None) -> multiprocessing.Process:
        job = {
            "script": str(self.folder / script),
            "arguments": [str(argument) for argument in arguments],
            "stdout": str(self.folder / "stdout"),
            "stderr": str(self.folder / "stderr"),
            "file_size": file_size,
            "cache": str(self.cache),
            "xla": FLAGS,
        }
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, *PRELOADED[self.backend]])
        driver = str(HERE / self.backend / "fixtures" / "run.py")
        process = context.Process(target=runpy.run_path, args=(driver,), kwargs={"init_globals": {"job": job}})
        process.start()
        return process

    def finish(self, process: multiprocessing.Process) -> Outcome:
        process.join(timeout=120)
        code = process.exitcode
        assert code is not None, "the process hangs"
        process.close()
        return Outcome(code, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text())

    def run(self, script: str, *arguments: object, file_size: int | None = None) -> Outcome:
        return self.finish(self.start(script, *arguments, file_size=file_size))

    def training(self, *arguments: object) -> tuple[object, ...]:
        """The arguments of a small training."""
        return "--data", self.folder / "text", "--threads", 1, *SMALL.split(), *arguments

    def train(self, *arguments: object, file_size: int | None = None) -> Outcome:
        return self.run("train.py", *self.training(*arguments), file_size=file_size)

    def trained(self, *arguments: object) -> Outcome:
        outcome = self.train(*arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome

    def column(self, name: str, out: str = ".") -> dict[int, float]:
        """A metric by step."""
        rows = map(json.loads, (self.folder / out / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row[name] for row in rows if name in row}

    def values(self, name: str, out: str = ".") -> np.ndarray:
        """A metric in the order of the steps."""
        return np.array(list(self.column(name, out).values()))

    def weights(self, step: int, out: str = ".") -> dict[str, np.ndarray]:
        return load_file(self.folder / out / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")

    def write_weights(self, step: int, weights: dict[str, np.ndarray]) -> None:
        save_file(weights, self.folder / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")

    def checkpoints(self, out: str = ".") -> list[str]:
        return sorted(path.name for path in (self.folder / out / "checkpoints").glob("step-*"))

    def wait_for(self, step: int, process: multiprocessing.Process, out: str = ".") -> None:
        """Until the metrics reach a step."""
        path = self.folder / out / "metrics.jsonl"
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            assert process.is_alive(), (self.folder / "stderr").read_text()
            time.sleep(0.005)

    def kill_after(self, step: int, process: multiprocessing.Process, out: str = ".") -> None:
        """SIGKILL as soon as the metrics reach a step."""
        self.wait_for(step, process, out)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def one_line(outcome: Outcome) -> str:
    """The one line of an error."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def same_weights(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """To the last bit."""
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def lay_out(folder: Path, backend: Backend, cache: Path, longest: int | None = None) -> Project:
    """A project with the model written by hand, which knows so many positions, and its text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    for path in (*SHARED, *(f"{backend}/{name}" for name in OWN[backend])):
        text = environment.get_template(f"{path}.j2").render(VALUES | {"longest": longest})
        (folder / Path(path).name).write_text(text, "utf-8")
    shutil.copy(HERE / backend / "fixtures" / "model.py", folder)
    write_text(folder / "text")
    return Project(folder, backend, cache)


def write_text(folder: Path) -> None:
    """Thirty documents of a few words."""
    folder.mkdir()
    draw = random.Random(0)
    words = ["scan", "the", "gate", "decay", "of", "a", "mixer", "head", "über"]
    for number in range(30):
        text = " ".join(draw.choices(words, k=draw.randint(5, 200)))
        (folder / f"{number:02}.txt").write_text(text + "\n", "utf-8")
