"""The text of the emitted files: as ruff would have it, short, and free of what only a template knows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [("check",), ("format", "--check")])
def test_ruff_has_nothing_to_say(project, command):
    shutil.copy(ROOT / "pyproject.toml", project.folder)
    (project.folder / "model.py").write_text('"""The model."""\n')
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", str(project.folder)]
    outcome = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_every_file_is_short_and_begins_with_what_it_is_for(project):
    for path in project.folder.glob("*.py"):
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 300, path.name
        assert lines[0].startswith('"""'), path.name
        assert "{{" not in path.read_text("utf-8"), path.name
