"""The rooms of the compiler: nobody imports upwards, nothing of a framework comes along."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}

LAYERS = (
    ("resources", "version"),
    ("diagnostics",),
    ("grammars", "specs", "templates"),
    ("text",),
    ("ir",),
    ("ops",),
    ("elaborate",),
    ("passes", "reference"),
    ("fuse",),
    ("emit",),
    ("backends",),
    ("specs_index", "formatting"),
    ("exchange",),
    ("reports",),
    ("api", "loading"),
    ("arguments",),
    ("runs", "offline"),
    ("cli", "__init__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
KERNELS = tuple(FOLDERS["archc.backends"].glob("*/kernels"))


def modules() -> Iterator[tuple[str, Path]]:
    """Every Python file that is installed, by its dotted name."""
    for name, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([name, *parts]).removesuffix(".__init__"), path


MODULES = list(modules())


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, those for type checkers too; `from a import b` gives both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Import():
                yield from (each.name for each in node.names)
            case ast.ImportFrom(module=str(module)):
                yield from (f"{module}.{each.name}" for each in node.names)


def room(module: str) -> str:
    """The first name below archc."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_package_is_listed() -> None:
    on_disk = {
        ".".join([name, *init.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for init in folder.rglob("__init__.py")
    }
    assert sorted(on_disk) == sorted(SETUPTOOLS["packages"])


def test_every_room_has_its_place() -> None:
    assert {room(name) for name, _ in MODULES} == set(LEVEL)


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_nobody_imports_upwards(name: str, path: Path) -> None:
    upwards = [each for each in imports(path) if each.startswith("archc.") and LEVEL[room(each)] > LEVEL[room(name)]]
    assert upwards == []


def test_nobody_imports_in_a_circle() -> None:
    """Nor for type checkers; `archc.fuse.reasons` names a type of `archc.fuse.scans`, which asks it for reasons."""
    names = {name for name, _ in MODULES}
    homes = {name: {home(each, names) for each in imports(path)} - {name, ""} for name, path in MODULES}
    homes["archc.fuse.reasons"].discard("archc.fuse.scans")
    TopologicalSorter(
        {name: {h for h in found if not name.startswith(f"{h}.")} for name, found in homes.items()}
    ).prepare()


def home(name: str, modules: set[str]) -> str:
    """The module that an imported name is or lies in; nothing for others."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("path", [p for folder in KERNELS for p in sorted(folder.glob("*.py"))], ids=str)
def test_a_kernel_imports_its_framework_and_other_kernels_only(path: Path) -> None:
    allowed = {"torch": {"torch", "triton"}, "flax": {"jax", "flax"}}[path.parents[1].name]
    outside = {each.split(".")[0] for each in imports(path)} - allowed - {"kernels"} - sys.stdlib_module_names
    assert outside == set()


def test_the_compiler_imports_no_framework() -> None:
    """Checking, reporting, drawing, compiling for both backends, import and export leave torch and jax alone."""
    program = """
import sys
import archc
from archc.reports.text import tables
from archc.reports.pictures import draw
program = archc.check("griffin:tiny")
tables(archc.report("griffin:tiny"))
draw(program.graph, ".svg")
archc.compile("griffin:tiny", backend="torch")
archc.import_pattern("M-*")
import archc.exchange.importing, archc.exchange.exporting
found = {name.partition(".")[0] for name in sys.modules} & {"torch", "jax", "flax", "transformers"}
assert not found, found
"""
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


COMMANDS = (
    "--help",
    "explain E301",
    "specs",
    "check griffin:tiny",
    "report griffin:tiny",
    "compile griffin:tiny --backend flax",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_nothing_large_that_it_does_not_need(command: str, tmp_path: Path) -> None:
    """The reference needs NumPy, pictures networkx, reports as JSON pydantic."""
    program = """
import sys
from archc.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
large = {"torch", "jax", "flax", "numpy", "networkx", "pydantic"}
found = {name.partition(".")[0] for name in sys.modules} & large
assert not found, found
"""
    out = ["-o", str(tmp_path / "out")] if command.startswith("compile") else []
    subprocess.run([sys.executable, "-P", "-c", program, *command.split(), *out], check=True)


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_a_module_opens_with_a_sentence(name: str, path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert text
    assert text.split("\n\n")[0].rstrip().endswith((".", ";", "`"))
