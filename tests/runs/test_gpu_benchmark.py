"""The benchmark for GPUs on a machine without one: it says so, and can show that all of it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_ends_with_one_sentence(tmp_path: Path) -> None:
    done = benchmark("--out", tmp_path / "results")
    assert done.returncode == 1
    assert (
        done.stderr == "error: there is no GPU that torch can use here; --dry-run shows on a CPU that everything runs\n"
    )
    assert not done.stdout
    assert not (tmp_path / "results").exists()


DRY_RUN = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
from benchmarks.gpu.__main__ import main
from tests.kernels.triton.quick import quickened
with quickened():
    sys.exit(main(["--dry-run", *sys.argv[1:]]))
"""


def test_every_stage_runs_on_a_cpu_and_every_contender_computes_the_same(tmp_path: Path) -> None:
    stages = ("smoke", "ceilings", "race", "steps", "decoding", "sweep")
    words = [sys.executable, "-c", DRY_RUN, "--out", str(tmp_path), "--stages", *stages]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "dry-run.json").read_text("utf-8"))
    assert [json.loads(line) for line in (tmp_path / "dry-run.jsonl").read_text("utf-8").splitlines()] == rows
    assert {row["stage"] for row in rows} == set(stages)
    assert not [row for row in rows if "failed" in row or not row.get("right", True)]
    found = [row for row in rows if row["stage"] == "race"]
    assert {row["contender"] for row in found} == {"archc", "eager", "plain"}
    assert all(row["error"] < 1e-2 for row in found)  # of bfloat16, which each rounds at other places
    assert len({row["case"] for row in found}) == 8
    table = (tmp_path / "dry-run.md").read_text("utf-8")
    assert [line[3:].lower() for line in table.splitlines() if line.startswith("## ")] == list(stages)


def test_a_kernel_that_is_wrong_ends_it_before_anything_is_timed(tmp_path: Path) -> None:
    program = (
        "import os, sys; os.environ['TRITON_INTERPRET'] = '1'\n"
        "from benchmarks.gpu import __main__, smoke\n"
        "smoke.CASES = ()\n"
        "smoke.language = lambda place: [('a scan', 1.0)]\n"
        f"sys.exit(__main__.main(['--dry-run', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: a kernel is wrong here, so that nothing was timed\n"
    assert "| a scan | 1 | **no** |" in (tmp_path / "dry-run.md").read_text("utf-8")
