"""Output folders are written whole or not at all, and nobody else's files are lost."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from archc.diagnostics import ArchError
from archc.emit.artifact import Artifact
from archc.emit.write import MANIFEST, write

OLD = (Artifact("model.py", "old\n"), Artifact("kernels/scan.py", "old scan\n"), Artifact("gone.py", "gone\n"))
NEW = (Artifact("model.py", "new\n"), Artifact("kernels/conv.py", "new conv\n"))


def contents(folder: Path) -> dict[str, str]:
    """Path -> text of all files but the manifest."""
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in folder.rglob("*")
        if p.is_file() and p.name != MANIFEST and "__pycache__" not in p.parts
    }


def expected(artifacts: tuple[Artifact, ...]) -> dict[str, str]:
    return {a.path: a.text for a in artifacts}


def test_a_folder_holds_the_artifacts_and_a_manifest_of_their_sha256(tmp_path: Path) -> None:
    write(OLD, tmp_path / "deep" / "out")
    assert contents(tmp_path / "deep" / "out") == expected(OLD)
    lines = (tmp_path / "deep" / "out" / MANIFEST).read_text().splitlines()
    assert f"{hashlib.sha256(b'old scan' + bytes([10])).hexdigest()}  kernels/scan.py" in lines


def test_a_second_compile_replaces_what_the_first_wrote_and_removes_what_is_no_longer_made(tmp_path: Path) -> None:
    write(OLD, tmp_path / "out")
    write(NEW, tmp_path / "out")
    assert contents(tmp_path / "out") == expected(NEW)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_same_artifacts_again_touch_nothing_even_among_foreign_files(tmp_path: Path) -> None:
    write(OLD, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = (tmp_path / "out" / "model.py").stat().st_mtime_ns
    write(OLD, tmp_path / "out")
    assert (tmp_path / "out" / "model.py").stat().st_mtime_ns == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(NEW, tmp_path / "out")
    assert contents(tmp_path / "out") == expected(NEW)


def test_foreign_and_edited_files_are_named_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(OLD, out)
    (out / "notes.txt").write_text("mine")
    (out / "model.py").write_text("edited\n")
    with pytest.raises(
        ArchError, match=r"edited since archc wrote them: model\.py; and files not written by archc: notes\.txt"
    ):
        write(NEW, out)
    assert contents(out) == expected(OLD) | {"notes.txt": "mine", "model.py": "edited\n"}


def test_force_overwrites_only_what_is_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(OLD, out)
    (out / "model.py").write_text("edited\n")
    (out / "gone.py").write_text("edited, and no longer made\n")
    (out / "kernels" / "mine.py").write_text("mine")
    (out / "checkpoints" / "step-1").mkdir(parents=True)
    (out / "checkpoints" / "step-1" / "weights").write_text("weights")
    (out / "link").symlink_to("checkpoints/step-1")
    write(NEW, out, force=True)
    kept = {
        "gone.py": "edited, and no longer made\n",
        "kernels/mine.py": "mine",
        "checkpoints/step-1/weights": "weights",
    }
    assert contents(out) == expected(NEW) | kept
    assert (out / "link").is_symlink()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_byte_code_that_python_left_is_no_foreign_file_and_does_not_survive_its_source(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(OLD, out)
    (out / "kernels" / "__pycache__").mkdir()
    (out / "kernels" / "__pycache__" / "scan.pyc").write_bytes(b"")
    write(NEW, out)
    assert not (out / "kernels" / "__pycache__").exists()


@pytest.mark.parametrize("place", ["file", "inside", "folder for a file", "file for a folder"])
def test_a_folder_that_cannot_be_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out = tmp_path / "out"
    match place:
        case "file":
            out.write_text("mine")
        case "inside":
            out.mkdir()
            monkeypatch.chdir(out)
        case "folder for a file":
            (out / "model.py").mkdir(parents=True)
        case "file for a folder":
            out.mkdir()
            (out / "kernels").write_text("mine")
    with pytest.raises(ArchError, match="E606"):
        write(NEW, out, force=True)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_leaves_the_old_output_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    out = tmp_path / "out"
    write(OLD, out)
    calls = iter(range(100))
    real = os.fsync

    def fsync(handle: int) -> None:
        if next(calls) == after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write(NEW, out)
    assert contents(out) in (expected(OLD), expected(NEW))
    assert after >= 5 or contents(out) == expected(OLD)
    assert not list(tmp_path.glob(".out.archc-new"))


KILLED = """
import os, sys
from pathlib import Path
from archc.emit.artifact import Artifact
from archc.emit.write import write

count = int(sys.argv[1])

def watch(event, arguments):
    global count
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        if any("out" in str(a) for a in arguments):
            if count == 0:
                os._exit(9)
            count -= 1

artifacts = [Artifact("model.py", "new\\n"), Artifact("kernels/conv.py", "new conv\\n")]
sys.addaudithook(watch)
write(artifacts, Path("out"), force=True)
"""


def test_a_kill_at_any_moment_leaves_the_old_output_or_the_new_one_and_every_foreign_file(tmp_path: Path) -> None:
    """Killed before its n-th change to the disk, for every n; the next compile finishes what was begun."""
    complete = False
    for moment in range(200):
        here = tmp_path / str(moment)
        out = here / "out"
        write(OLD, out)
        (out / "kernels" / "mine.py").write_text("mine")
        code = subprocess.run([sys.executable, "-P", "-c", KILLED, str(moment)], cwd=here, check=False).returncode
        complete = code == 0
        if out.exists():
            found = contents(out)
            found.pop("kernels/mine.py", None)
            assert found in (expected(OLD), expected(NEW)), moment
        else:
            assert contents(here / ".out.archc-old") == expected(OLD) | {"kernels/mine.py": "mine"}, moment
        write(NEW, out, force=True)
        assert contents(out) == expected(NEW) | {"kernels/mine.py": "mine"}, moment
        assert [p.name for p in here.iterdir()] == ["out"], moment
        if complete:
            break
    assert complete
    assert moment > 15
