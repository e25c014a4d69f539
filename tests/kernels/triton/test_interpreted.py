"""The Triton kernels without a GPU, in processes where Triton interprets: it decides that when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
ROOT = Path(__file__).parents[3]
FILES = sorted(FOLDER.glob("test_*.py"))
PROCESSES = 2  # each takes seconds to begin


def names(files: list[Path]) -> str:
    return "+".join(path.stem.removeprefix("test_") for path in files)


@pytest.mark.parametrize("files", [FILES[first::PROCESSES] for first in range(PROCESSES)], ids=names)
def test_the_interpreted_kernels_are_right(files: list[Path]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, files)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
