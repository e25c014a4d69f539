"""Every command, and every way in which a user can get one wrong: one clear message, exit code 1, no traceback."""

from __future__ import annotations

import errno
import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

Run = Any  # the fixture of conftest.py

SMALL = """\
model small(width = 8, vocab = 11) {
    x = E[vocab width](tokens)
    logits = x @ U[width -> vocab]
    size wide: width = 16
}
model other(width = 4, vocab = 5) {
    logits = E[vocab width](tokens) @ U[width -> vocab]
}
"""
WRONG = "model wrong(width = 8, vocab = 11) {\n    x = E[vocab width](tokens)\n    logits = y @ U[width -> vokab]\n}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.arch").write_text(SMALL)
    (tmp_path / "wrong.arch").write_text(WRONG)
    (tmp_path / "body.arch").write_text("encoder body(width = 8, vocab = 11) { return E[vocab width](tokens) }\n")
    (tmp_path / "latin.arch").write_bytes("## schön\n".encode("latin-1"))
    (tmp_path / "folder.arch").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years")
    (tmp_path / "model.py").write_text("mine")
    (tmp_path / "gru").mkdir()
    (tmp_path / "gru" / "model.arch").write_text(SMALL)
    return tmp_path


MISTAKES = {
    "check grifin": "error[E601]: no spec 'grifin' comes with archc\n  = help: did you mean 'griffin'?",
    "check gru:tiny": "error[E617]: 'gru' is a spec that comes with archc and a folder with a model\n"
    "  = help: write ./gru for the folder",
    "check griffin:tinny": "error[E126]: 'griffin' has no size 'tinny'; did you mean 'tiny'?",
    "check smal.arch": "error[E602]: no file 'smal.arch'\n  = help: did you mean 'small.arch'?",
    "check ./nothing/here.arch": "error[E602]: no file './nothing/here.arch'",
    "check small.arch#othr": "error[E120]: 'small.arch' has no model 'othr'; did you mean 'other'?",
    "check latin.arch": "error[E603]: 'latin.arch' is not UTF-8 text: byte 0xf6 at 6",
    "check folder.arch": "error[E603]: cannot read 'folder.arch': is a directory",
    "check wrong.arch": "wrong.arch:3:14: error[E",
    "report griffin:tiny --set width": "error[E604]: cannot read '--set width'",
    "report griffin:tiny --set width=nan": "error[E604]: cannot read '--set width=nan'",
    "report griffin:tiny --set width=1/0": "error[E604]: cannot read '--set width=1/0'",
    "report griffin:tiny --set width=8 --set width=9": "error[E604]: --set gives 'width' twice",
    "report griffin:tiny --set widht=8": "'griffin' has no parameter 'widht'; did you mean 'width'?",
    "report griffin:tiny --seq 0": "error: argument --seq: '0' is no whole number above zero",
    "report griffin:tiny --seq many": "error: argument --seq: 'many' is no whole number above zero",
    "compile griffin:tiny --backend torch": "error: the following arguments are required: -o/--out",
    "compile griffin:tiny --backend keras -o out": "error: argument --backend: invalid choice: 'keras'",
    "compile griffin:tiny --backend torch -o thesis": "error[E605]: 'thesis' has files not written by archc: thesis",
    "compile griffin:tiny --backend torch -o model.py": "error[E606]: 'model.py' is a file, not a folder",
    "compile griffin:tiny --backend torch -o .": "error[E605]: '.' has files not written by archc",
    "compile griffin:tiny --backend torch -o . --force": "error[E606]: '.' cannot be replaced from inside of it",
    "compile griffin:tiny --backend torch -o /proc/out": "error[E607]: cannot read or write '/proc/",
    "generate nowhere": "error[E609]: no run folder or checkpoint 'nowhere'",
    "generate run --prompt x": "error[E609]: 'run' is no run folder: it has no generate.py",
    "train body.arch --backend torch": "'body' gives no logits for its tokens: its first output is a token[width=8]",
    "graph small.arch -o small.png": "error[E611]: cannot draw '.png' files",
    "graph small.arch -o nowhere/small.svg": "error[E607]: cannot read or write 'nowhere/small.svg': no such file",
    "fmt wrong.arch nothing.arch": "error[E602]: no file 'nothing.arch'",
    "import hf nowhere": "error[E701]: no config 'nowhere'",
    "import hf thesis -o out": "error[E701]: no config 'thesis/config.json'",
    "import hf latin.arch": "error[E702]: 'latin.arch' is not UTF-8 text",
    "import pattern M-X": "<pattern>:1:3: error[E715]: no layer is written 'X'",
    "import pattern M-M -o small.arch": "error[E605]: 'small.arch' is there already",
    "import gguf model": "error: argument what: invalid choice: 'gguf'",
    "export hf run -o out": "error[E714]: 'run' has no model.arch and weights.safetensors",
    "export hf run": "error: the following arguments are required: -o/--out",
    "explain E999": "error[E610]: no diagnostic has the code 'E999'",
    "kernels griffin:tiny": "error: the following arguments are required: --target",
    "kernels griffin:tiny --target h100": "error[E613]: no target 'h100'\n  = help: there are sm_80 (A100), ",
    "kernels griffin:tiny --target sm_95": "error[E613]: no target 'sm_95'\n  = help: did you mean 'sm_90'?",
    "kernels griffin:tiny --target sm_90 --dtype int8": "error: argument --dtype: invalid choice: 'int8'",
    "chekc griffin": "error: argument COMMAND: invalid choice: 'chekc'",
    "check --fromat json griffin": "error: unknown argument '--fromat'; did you mean '--format'?",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_ends_in_one_message_and_exit_code_1(folder: Path, archc: Run, command: str) -> None:
    done = archc(*command.split())
    assert done.returncode == 1
    assert MISTAKES[command] in done.stderr
    assert done.stdout == ""
    assert (folder / "thesis" / "thesis.tex").read_text() == "years"


def test_an_example_is_named_where_no_suggestion_is_made(folder: Path, archc: Run) -> None:
    twice = SMALL.replace("(tokens)", "(tokens)\n    y = sum(x, over = width, over = width)\n    z = rms_nrm(x)", 1)
    (folder / "twice.arch").write_text(twice)
    done = archc("check", "twice.arch#small")
    assert done.returncode == 1
    codes = {line.split("error[")[1][:4] for line in done.stderr.splitlines() if "error[" in line}
    assert len(codes) == 2
    assert "E101" in codes
    (other,) = codes - {"E101"}
    assert done.stderr.endswith(f"\n\n'archc explain {other}' says more\n")
    assert "explain E101" not in done.stderr


def test_diagnostics_come_as_json_too(folder: Path, archc: Run) -> None:
    done = archc("check", "wrong.arch", "--format", "json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert {d["span"]["line"] for d in found} == {3}
    assert {"file", "line", "column", "end_line", "end_column"} == set(found[0]["span"])


def test_check_sums_up_what_is_right(folder: Path, archc: Run) -> None:
    done = archc("check", "small.arch:wide", "small.arch#other", "griffin:tiny")
    assert done.returncode == 0, done.stderr
    assert "OK small:wide\n  352 parameters, 0 of them no embeddings" in done.stdout
    assert "OK other\n  40 parameters" in done.stdout
    assert "6 layers: (recurrent x 2, local) x 2" in done.stdout
    assert archc("check", "small.arch", "--format", "json").stdout == "[]\n"


def test_a_config_becomes_a_spec(folder: Path, archc: Run) -> None:
    (folder / "config.json").write_text('{"model_type": "mistral", "num_hidden_layers": 3, "sliding_window": null}')
    printed = archc("import", "hf", "config.json").stdout
    assert "depth = 3" in printed
    assert archc("import", "hf", "config.json", "-o", "mine.arch").returncode == 0
    assert (folder / "mine.arch").read_text() == printed
    assert "OK mistral" in archc("check", "mine.arch").stdout


def test_a_pattern_becomes_a_spec(folder: Path, archc: Run) -> None:
    assert archc("import", "pattern", "M-M*-", "-o", "hybrid.arch").returncode == 0
    assert "5 layers: mamba, mlp, mamba, attention, mlp" in archc("check", "hybrid.arch").stdout


def test_settings_change_what_is_reported(folder: Path, archc: Run) -> None:
    done = archc("report", "small.arch", "--set", "width=1e2", "--json")
    assert json.loads(done.stdout)["params"]["total"] == 2 * 100 * 11


def test_every_shipped_spec_is_listed(archc: Run) -> None:
    names = {line.split()[0] for line in archc("specs").stdout.splitlines() if not line.startswith(" ")}
    assert {"griffin", "recurrentgemma", "hawk", "mqa_transformer", "mamba", "llama", "pythia", "dcformer"} <= names
    assert "std" not in names


def test_format_shows_then_writes_then_has_nothing_to_do(folder: Path, archc: Run) -> None:
    untidy = SMALL.replace("    x = E", "  x   =   E")
    (folder / "small.arch").write_text(untidy)
    shown = archc("fmt", "--diff", "small.arch")
    assert "-  x   =   E[vocab width](tokens)\n+    x = E[vocab width](tokens)" in shown.stdout
    assert archc("fmt", "--check", "small.arch").returncode == 1
    assert (folder / "small.arch").read_text() == untidy
    assert archc("fmt", "small.arch").returncode == 0
    assert (folder / "small.arch").read_text() == SMALL
    done = archc("fmt", "--check", "small.arch")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("ending", ["svg", "dot", "mmd", "json"])
def test_a_graph_is_drawn_by_the_ending_of_its_file(folder: Path, archc: Run, ending: str) -> None:
    assert archc("graph", "griffin:tiny", "-o", f"griffin.{ending}").returncode == 0
    text = (folder / f"griffin.{ending}").read_text()
    match ending:
        case "svg":
            assert ET.fromstring(text).tag.endswith("svg")
        case "json":
            assert json.loads(text)["name"] == "griffin"
        case "dot":
            assert text.startswith('digraph "griffin"')
        case "mmd":
            assert text.startswith("flowchart")


def test_a_code_is_explained_with_a_wrong_and_a_right_example(archc: Run) -> None:
    text = archc("explain", "e007").stdout
    assert text.startswith("E007: a product before @")
    assert "wrong:" in text
    assert "right:" in text


def test_a_full_disk_ends_in_one_message_and_exit_code_1(
    folder: Path, archc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = archc("compile", "small.arch", "--backend", "torch", "-o", "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error[E607]: cannot read or write: no space left on device\n"
    assert not list(folder.glob("*out*"))


def test_ctrl_c_ends_with_130(archc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(spec: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("archc.specs_index.find", interrupted)
    done = archc("check", "griffin:tiny")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_bug_is_not_hidden(archc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("archc.specs_index.find", broken)
    with pytest.raises(AssertionError, match="a bug"):
        archc("check", "griffin:tiny")


@pytest.mark.parametrize("backend", ["torch", "flax"])
def test_compiling_twice_gives_the_same_bytes(folder: Path, archc: Run, backend: str) -> None:
    for out in ("one", "two"):
        assert archc("compile", "griffin:tiny", "--backend", backend, "-o", out).returncode == 0
    one, two = (
        {p.relative_to(folder / out): p.read_bytes() for p in (folder / out).rglob("*") if p.is_file()}
        for out in ("one", "two")
    )
    assert one == two
    assert Path("model.py") in one
