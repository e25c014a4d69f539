"""Lay out a project with a hand-written model, and run its scripts as separate processes."""

import json
import multiprocessing
import random
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors.numpy import load_file

TEMPLATES = Path(__file__).parents[3] / "templates"
FIXTURES = Path(__file__).parent / "fixtures"
SHARED = ("config.toml", "data.py", "folder.py", "ngram.py", "settings.py", "tokenizer.py")
TORCH = ("checkpoint.py", "compute.py", "generate.py", "train.py")
PRELOADED = (
    "grain",
    "pydantic",
    "safetensors.torch",
    "tensorboard.summary",
    "tokenizers",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.utils.checkpoint",
    "tqdm",
)
SMALL = (
    "--steps 12 --batch 4 --context 32 --warmup 2 --lr 1e-2 --eval-every 6 --eval-sequences 8 --save-every 3".split()
)


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Project:
    """An emitted folder; its scripts run in processes forked from one that has the libraries loaded."""

    folder: Path

    def start(self, script: str, *arguments: object, file_size: int | None = None) -> multiprocessing.Process:
        job = {
            "script": str(self.folder / script),
            "arguments": [str(argument) for argument in arguments],
            "stdout": str(self.folder / "stdout"),
            "stderr": str(self.folder / "stderr"),
            "file_size": file_size,
        }
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        driver = str(FIXTURES / "run.py")
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

    def training(self, *arguments: object) -> list[object]:
        """The arguments of a small training."""
        return ["--data", self.folder / "text", "--threads", 1, *SMALL, *arguments]

    def train(self, *arguments: object, file_size: int | None = None) -> Outcome:
        return self.run("train.py", *self.training(*arguments), file_size=file_size)

    def trained(self, *arguments: object) -> Outcome:
        outcome = self.train(*arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome

    def column(self, name: str, out: str = ".") -> list[float]:
        rows = map(json.loads, (self.folder / out / "metrics.jsonl").read_text().splitlines())
        return [row[name] for row in rows if name in row]

    def losses(self, out: str = ".") -> list[tuple[int, float]]:
        return list(zip(self.column("step", out), self.column("loss", out), strict=True))

    def weights(self, step: int, out: str = ".") -> dict[str, np.ndarray]:
        return load_file(self.folder / out / "checkpoints" / f"step-{step:06}" / "weights.safetensors")

    def kill_after(self, step: int, process: multiprocessing.Process, out: str) -> None:
        """SIGKILL as soon as the metrics reach a step."""
        path = self.folder / out / "metrics.jsonl"
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            assert process.is_alive(), (self.folder / "stderr").read_text()
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def lay_out(folder: Path) -> Project:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    for name, template in [(name, name) for name in SHARED] + [(name, f"torch/{name}") for name in TORCH]:
        text = environment.get_template(f"{template}.j2").render(name="Tiny", context=32)
        (folder / name).write_text(text, "utf-8")
    shutil.copy(FIXTURES / "model.py", folder)
    (folder / "text").mkdir()
    draw = random.Random(0)
    words = ["scan", "the", "gate", "decay", "of", "a", "mixer", "head", "über"]
    for number in range(30):
        text = " ".join(draw.choices(words, k=draw.randint(5, 200)))
        (folder / "text" / f"{number:02}.txt").write_text(text + "\n", "utf-8")
    return Project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project."""
    return lay_out(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project trained once, for tests that only read it."""
    project = lay_out(tmp_path_factory.mktemp("trained"))
    project.trained("--steps", 30)
    return project


@pytest.fixture
def load(trained: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import modules of an emitted folder into this process; forgotten afterwards, as their names are plain words."""
    emitted = {path.stem for path in trained.folder.glob("*.py")}
    monkeypatch.syspath_prepend(trained.folder)
    assert emitted.isdisjoint(sys.modules), "an emitted module is imported already"
    yield import_module
    for name in emitted & set(sys.modules):
        del sys.modules[name]
