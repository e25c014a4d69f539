"""A spec with everything it refers to: its imports, each file with a scope of its own, over the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from archc.diagnostics import ArchError, Diagnostic, Note, Source, closest, closest_file, error
from archc.elaborate.bound import Function, Scope
from archc.resources import paths, read
from archc.text import ast
from archc.text.parse import parse


@dataclass(frozen=True, eq=False)
class Library:
    """A spec file with everything it imports, parsed; `imports` says which file an import statement means."""

    source: Source
    main: ast.File
    files: tuple[ast.File, ...]
    sources: tuple[Source, ...]
    imports: dict[ast.Import, ast.File]

    @property
    def models(self) -> tuple[ast.ModelDef, ...]:
        """The models of the file itself."""
        return tuple(i for i in self.main.items if isinstance(i, ast.ModelDef))

    def model(self, name: str | None) -> ast.ModelDef:
        """The model with that name; without one the one called like the file, else the only one. Raises E120."""
        models = self.models
        if not models:
            help = "add 'model name(...) { ... }'; fns alone are imported by the file of a model"
            raise error("E120", f"'{self.source.name}' declares no model", help=help)
        if problems := list(_twice(self.main)):
            raise ArchError(problems)
        if name is None:
            stem = Path(self.source.name).stem
            found = next((m for m in models if m.name.text == stem), models[0] if len(models) == 1 else None)
            if found is None:
                have = ", ".join(m.name.text for m in models)
                raise error(
                    "E120",
                    f"'{self.source.name}' declares several models",
                    models[1].name.span,
                    help=f"name one: {have}",
                )
            return found
        for model in models:
            if model.name.text == name:
                return model
        known = [m.name.text for m in models]
        hint = closest(name, known)
        message = f"'{self.source.name}' has no model '{name}'" + (f"; {hint}" if hint else "")
        raise error("E120", message, help=f"it has: {', '.join(known)}")

    def scope(self) -> Scope:
        """The fns that the file sees: its own, then those of the files it imports, then std.

        Every file has its own scope, so that a fn of one never changes what a fn of another means. Raises `ArchError`:
        E124 for two declarations of one name in a file, E128 for a name that two imported files declare.
        """
        std = standard_scope()
        scopes = {file: Scope(std) for file in (self.main, *self.files)}
        problems: list[Diagnostic] = []
        for file, scope in scopes.items():
            problems += _twice(file)
            scope.names.update({fn.name.text: Function(fn, scope) for fn in _fns(file)})
        for file, scope in scopes.items():
            problems += self._import_into(file, scope, scopes)
        if problems:
            raise ArchError(problems)
        return scopes[self.main]

    def _import_into(self, file: ast.File, scope: Scope, scopes: dict[ast.File, Scope]) -> Iterator[Diagnostic]:
        """Adds what imported files declare; a fn of the file's own goes before."""
        own = {fn.name.text for fn in _fns(file)}
        origin: dict[str, tuple[ast.FnDef, ast.Import]] = {}
        for statement in file.imports:
            other = self.imports[statement]
            for fn in _fns(other) if other is not file else ():
                name = fn.name.text
                first, _ = origin.setdefault(name, (fn, statement))
                if first is not fn and name not in own:
                    notes = (Note("here", first.name.span), Note("and here", fn.name.span))
                    yield Diagnostic("E128", f"two imported files declare '{name}'", statement.span, notes)
                if name not in own:
                    scope.names[name] = Function(fn, scopes[other])


def _fns(file: ast.File) -> tuple[ast.FnDef, ...]:
    return tuple(i for i in file.items if isinstance(i, ast.FnDef))


def _twice(file: ast.File) -> Iterator[Diagnostic]:
    first: dict[str, ast.FnDef | ast.ModelDef] = {}
    for item in file.items:
        known = first.setdefault(item.name.text, item)
        if known is not item:
            note = Note("first here", known.name.span)
            yield Diagnostic("E124", f"'{item.name.text}' is declared twice", item.name.span, (note,), "rename one")


@cache
def standard_files() -> tuple[ast.File, ...]:
    """The files of specs/std, parsed once per process."""
    return tuple(parse(Source(p, read("specs", p), standard=True)) for p in paths("specs") if p.startswith("std/"))


@cache
def standard_scope() -> Scope:
    """The fns that are always in scope; one name space for all files of std."""
    scope = Scope()
    for file in standard_files():
        scope.names.update({fn.name.text: Function(fn, scope) for fn in _fns(file)})
    return scope


# --- reading -----------------------------------------------------------------------------------------


def load(source: Source, folder: Path | None) -> Library:
    """Parses a source and its imports.

    `folder` is where the source lies, and the only tree that imports may come from (None: no imports). A file is read
    once however often it is imported; files may import one another. Raises `ArchError` with all that is wrong.
    """
    return _Reader(folder.resolve() if folder is not None else None).read(source)


class _Reader:
    """Reads files by need; remembers them by their resolved path."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.known: dict[Path, ast.File] = {}
        self.imports: dict[ast.Import, ast.File] = {}
        self.sources: list[Source] = []
        self.problems: list[Diagnostic] = []

    def read(self, source: Source) -> Library:
        """The library that begins with a source."""
        main = parse(source)
        if self.root is not None:
            self.known[self.root / Path(source.name).name] = main
        self._follow(main, self.root)
        if self.problems:
            raise ArchError(self.problems)
        files = tuple(dict.fromkeys(f for f in self.imports.values() if f is not main))
        return Library(source, main, files, tuple(self.sources), self.imports)

    def _follow(self, file: ast.File, here: Path | None) -> None:
        for each in file.imports:
            try:
                path = self._resolve(each, here)
                if path not in self.known:
                    self._open(each, path)
                self.imports[each] = self.known[path]
            except ArchError as failed:
                self.problems += failed.diagnostics

    def _open(self, each: ast.Import, path: Path) -> None:
        assert self.root is not None
        source = Source(path.relative_to(self.root).as_posix(), _text(each, path))
        try:
            parsed = parse(source)
        except ArchError as failed:
            note = Note("imported here", each.span)
            raise ArchError(replace(d, notes=(*d.notes, note)) for d in failed.diagnostics) from None
        self.known[path] = parsed
        self.sources.append(source)
        self._follow(parsed, path.parent)

    def _resolve(self, each: ast.Import, here: Path | None) -> Path:
        if here is None or self.root is None:
            help = "write it to a file, and give the path of the file"
            raise error("E121", "a spec given as text imports nothing", each.span, help=help)
        path = (here / each.path).resolve()
        if Path(each.path).is_absolute() or not path.is_relative_to(self.root):
            help = "imports are relative paths inside one folder tree"
            raise error("E122", f"import '{each.path}' leaves the folder of the spec", each.span, help=help)
        return path


def _text(each: ast.Import, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        near = closest_file(path)
        where = "the path begins at the folder of this file"
        if each.path in {file.span.source.name for file in standard_files()}:
            where = "the standard library needs no import"
        raise error("E123", f"no file '{each.path}'" + (f"; {near}" if near else ""), each.span, help=where) from None
    except UnicodeDecodeError:
        raise error("E123", f"'{each.path}' is not UTF-8 text", each.span) from None
    except OSError as why:
        raise error("E123", f"cannot read '{each.path}': {(why.strerror or str(why)).lower()}", each.span) from None
