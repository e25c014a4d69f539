"""What may not stand in the compiler: the names of mixers, the names of places, codes that nobody explains."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from archc.diagnostics import Source
from archc.reports.codes import CODES, COMMANDS
from archc.resources import paths, read
from archc.text.parse import parse

ROOT = Path(__file__).resolve().parents[2]

NOT_MIXERS = {
    "attention",  # the recognised pair program, and the frameworks' fused function for it
    "attend",  # the verb; one linear-attention spec calls its only fn so
    "mix",  # how elements of a value come from others: a sum mixes them
    "unit",  # a class or function of the output; in specs, a norm without a scale
}
"""Names of specs that are also words of the language or of its ops; each with its reason."""


def declared() -> dict[str, str]:
    """Every model and fn that a spec declares, with the file."""
    found = {item.name.text: path for path in paths("specs") for item in parse(Source(path, read("specs", path))).items}
    return {name: path for name, path in found.items() if name not in NOT_MIXERS}


def compiler() -> Iterator[Path]:
    for folder in ("archc", "backends", "templates"):
        yield from sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".j2") and "cache" not in str(p))


def words(path: Path) -> set[str]:
    """Identifiers and the words of strings; comments and documentation may tell where an idea comes from."""
    text = path.read_text("utf-8")
    if path.suffix == ".j2":
        return set(re.findall(r"\w+", re.sub(r"#.*", "", text)))
    documentation = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    found: set[str] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            found.add(token.string)
        if token.type == tokenize.STRING and token.start[0] not in documentation:
            found |= set(re.findall(r"\w+", token.string))
    return found


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def test_nothing_in_the_compiler_names_a_mixer() -> None:
    """A mixer is text in specs/: no pass, rule or template may know one by name."""
    names = declared()
    forbidden = names | {camel(name): path for name, path in names.items() if "_" in name}
    found = [
        f"{path.relative_to(ROOT)}: '{word}' of specs/{forbidden[word]}"
        for path in compiler()
        if not path.stem.startswith("codes")  # examples for `archc explain`
        for word in sorted(words(path) & set(forbidden))
    ]
    assert "\n".join(found) == ""


def test_the_search_would_find_a_mixer(tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text('"""About rg_lru."""\nif name == "rg_lru":\n    pass  # RgLru\n')
    assert "rg_lru" in words(tmp_path / "rule.py")
    (tmp_path / "rule.py").write_text('"""About rg_lru."""\n')
    assert "rg_lru" not in words(tmp_path / "rule.py")


def raised() -> dict[str, Path]:
    """Every code in the compiler's sources, with a file that has it."""
    sources = (p for p in (ROOT / "archc").rglob("*.py") if not p.stem.startswith("codes"))
    return {code: path for path in sources for code in re.findall(r'"([EW]\d{3})"', path.read_text("utf-8"))}


def test_every_code_is_explained_and_every_explained_code_is_raised() -> None:
    assert set(raised()) == set(CODES)


@pytest.mark.parametrize("code", COMMANDS)
def test_a_command_s_mistake_is_told_from_its_remedy(code: str) -> None:
    found = COMMANDS[code]
    assert found.title[0].islower()
    assert not found.title.endswith(".")
    assert found.explanation.endswith(".")


def texts() -> Iterator[Path]:
    """The project's own files: what lies in its folders, and beside them."""
    folders = ("archc", "backends", "benchmarks", "docs", "grammars", "specs", "templates", "tests", ".ci")
    for path in (*ROOT.glob("*.*"), ROOT / "Makefile", *(p for folder in folders for p in (ROOT / folder).rglob("*"))):
        if (
            path.is_file()
            and b"\0" not in path.read_bytes()
            and not any(part.endswith(("cache", "cache__")) for part in path.parts)
        ):
            yield path


def test_no_file_names_a_machine_or_a_registry() -> None:
    """Absolute paths of one machine and hosts of package registries say nothing to anybody else."""
    places = re.compile(
        r"/(?:root|home/\w+|Users/\w+|opt|work)/|pypi\.\w+|pythonhosted|download\.pytorch|--(?:extra-)?index-url"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts()
        if path.suffix in ("", ".py", ".j2", ".md", ".toml", ".txt", ".yaml", ".arch", ".lark")
        and path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if places.search(line)
    ]
    assert found == []
