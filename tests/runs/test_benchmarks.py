"""Every benchmark runs to its end at a small size and prints what it is for; what it measured is not looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xla import FLAGS

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--width=64", "--depth=3", "--vocab=64", "--shapes=2x24"]
ARGUMENTS = {
    "torch_vs_transformers": [*SMALL, "--new=4"],
    "flax_vs_torch": [*SMALL, "--models=llama", "--new=4"],
    "compiler": ["--models=llama", "--depth=1", "--growth=2"],
    "memory": [*SMALL, "--models=llama"],
    "buckets": ["--lengths=32", "--buckets=4", "--rounds=1", "--short=0", "--backends=torch"],
    "scans": ["--lengths=20", "--channels=8", "--kinds", "diagonal", "constant", "read"],
    "tasks": ["--tasks=recall", "--models=attention", "--steps=2", "--seeds", "0"],
}


def test_every_script_is_run_here() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text("utf-8")}
    assert scripts == set(ARGUMENTS)


@pytest.mark.parametrize("script", ARGUMENTS)
def test_a_benchmark_prints_what_it_compares(script: str) -> None:
    words = [sys.executable, "-m", f"benchmarks.{script}", "--threads=1", *ARGUMENTS[script]]
    timed = script != "tasks"
    words += ["--repeats=1"] * timed
    quick = os.environ | {"XLA_FLAGS": FLAGS}
    done = subprocess.run(words, cwd=ROOT, env=quick, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("ratio" if timed else "accuracy") in done.stdout
