"""Lay out a project with a hand-written model, and run its scripts as separate processes."""

import json
import multiprocessing
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flax import nnx
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors.numpy import load_file, save_file

TEMPLATES = Path(__file__).parents[3] / "templates"
FIXTURES = Path(__file__).parent / "fixtures"
SHARED = ("config.toml", "data.py", "folder.py", "ngram.py", "settings.py", "tokenizer.py")
FLAX = ("checkpoint.py", "compute.py", "generate.py", "stacks.py", "train.py")
PRELOADED = (
    "flax.nnx",
    "grain",
    "optax",
    "orbax.checkpoint",
    "pydantic",
    "safetensors.flax",
    "tensorboard.summary",
    "tokenizers",
    "tqdm",
)
SMALL = "--steps 12 --batch 4 --context 32 --warmup 2 --lr 1e-2 --eval-every 6 --eval-sequences 8 --save-every 3"


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
    cache: Path

    def start(self, script: str, *arguments: object) -> multiprocessing.Process:
        job = {
            "script": str(self.folder / script),
            "arguments": [str(argument) for argument in arguments],
            "stdout": str(self.folder / "stdout"),
            "stderr": str(self.folder / "stderr"),
            "cache": str(self.cache),
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

    def run(self, script: str, *arguments: object) -> Outcome:
        return self.finish(self.start(script, *arguments))

    def training(self, *arguments: object) -> tuple[object, ...]:
        return *SMALL.split(), "--threads", 1, "--data", self.folder / "text", *arguments

    def train(self, *arguments: object) -> Outcome:
        return self.run("train.py", *self.training(*arguments))

    def trained(self, *arguments: object) -> Outcome:
        outcome = self.train(*arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome

    def column(self, name: str, out: str = ".") -> dict[int, float]:
        """A metric by step."""
        rows = map(json.loads, (self.folder / out / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row[name] for row in rows if name in row}

    def weights(self, step: int, out: str = ".") -> dict[str, np.ndarray]:
        return load_file(self.folder / out / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")

    def write_weights(self, step: int, weights: dict[str, np.ndarray]) -> None:
        save_file(weights, self.folder / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")

    def checkpoints(self, out: str = ".") -> list[str]:
        return sorted(path.name for path in (self.folder / out / "checkpoints").glob("step-*"))

    def wait_for(self, step: int, process: multiprocessing.Process) -> None:
        """Until the metrics reach a step."""
        path = self.folder / "metrics.jsonl"
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            assert process.is_alive(), (self.folder / "stderr").read_text()
            time.sleep(0.005)

    def kill_after(self, step: int, process: multiprocessing.Process) -> None:
        """SIGKILL as soon as the metrics reach a step."""
        self.wait_for(step, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def lay_out(folder: Path, cache: Path) -> Project:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    for name, template in [(name, name) for name in SHARED] + [(name, f"flax/{name}") for name in FLAX]:
        text = environment.get_template(f"{template}.j2").render(name="Tiny", context=32)
        (folder / name).write_text(text, "utf-8")
    shutil.copy(FIXTURES / "model.py", folder)
    (folder / "text").mkdir()
    draw = random.Random(0)
    words = ["scan", "the", "gate", "decay", "of", "a", "mixer", "head", "über"]
    for number in range(30):
        text = " ".join(draw.choices(words, k=draw.randint(5, 200)))
        (folder / "text" / f"{number:02}.txt").write_text(text + "\n", "utf-8")
    return Project(folder, cache)


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """A folder for what XLA compiles, away from the projects: its path is in none of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> Project:
    """A fresh project."""
    return lay_out(tmp_path, cache)


@pytest.fixture
def copied(trained: Project, tmp_path: Path, cache: Path) -> Project:
    """A project of one's own that stands at step 12."""
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, cache)


@pytest.fixture
def load(trained: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import modules of an emitted folder into this process; forgotten afterwards, as their names are plain words."""
    emitted = {path.stem for path in trained.folder.glob("*.py")}
    monkeypatch.syspath_prepend(trained.folder)
    assert emitted.isdisjoint(sys.modules), "an emitted module is imported already"
    yield import_module
    for name in emitted & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def blank(load: Callable[[str], ModuleType]) -> nnx.Module:
    """The model of the project without values."""
    return nnx.eval_shape(lambda: load("model").Model(rngs=nnx.Rngs(0)))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Project:
    """A project trained once, for tests that only read it."""
    project = lay_out(tmp_path_factory.mktemp("trained"), cache)
    project.trained()
    return project
