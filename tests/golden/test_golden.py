"""The emitted text itself: a few whole models kept as files, and the linter's opinion of every emitted file.

After an intended change: `python -m tests.golden.update`, then read the difference.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archc.specs_index import shipped
from tests.golden.update import BACKENDS, GOLDEN, HERE, emitted


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_reads_as_it_did(name: str, backend: str) -> None:
    kept = (HERE / f"{name}_{backend}.py.txt").read_text(encoding="utf-8")
    assert emitted(name, backend)["model.py"] == kept


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_emitted_file_is_clean_and_laid_out(tmp_path: Path, backend: str) -> None:
    for name in shipped():
        for path, text in emitted(name, backend).items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--no-cache", "--line-length", "120", str(tmp_path)]
    checked = subprocess.run(
        [*ruff, "check", "--select", "B,E,F,PT,UP", *options], capture_output=True, text=True, check=False
    )
    laid_out = subprocess.run([*ruff, "format", "--check", *options], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert laid_out.returncode == 0, laid_out.stdout
