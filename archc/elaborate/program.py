"""From files to a checked program: imports, the standard library, sizes, the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from archc.diagnostics import ArchError, Diagnostic, Note, Source, closest, error
from archc.elaborate import functions
from archc.elaborate.bound import Bound, Function, Instance, Num, Poison, Root, Scope
from archc.elaborate.call import Call, Program
from archc.elaborate.frame import Builder, Frame, Shelf
from archc.elaborate.walk import Elaborator
from archc.elaborate.weights import finish_weights
from archc.ir.graph import Graph, Value
from archc.resources import paths, read
from archc.text import ast
from archc.text.parse import parse


@dataclass(frozen=True, eq=False)
class Library:
    """A spec file with everything it imports, parsed."""

    source: Source
    main: ast.File
    files: tuple[ast.File, ...]
    sources: tuple[Source, ...]

    @property
    def models(self) -> tuple[ast.ModelDef, ...]:
        """The models of the file itself."""
        return tuple(i for i in self.main.items if isinstance(i, ast.ModelDef))

    def model(self, name: str | None) -> ast.ModelDef:
        """The model with that name; without one the only model, or the one called like the file."""
        models = self.models
        if not models:
            raise error("E120", f"'{self.source.name}' declares no model")
        if name is None:
            stem = Path(self.source.name).stem
            return next((m for m in models if m.name.text == stem), models[0])
        for model in models:
            if model.name.text == name:
                return model
        hint = closest(name, [m.name.text for m in models])
        raise error("E120", f"'{self.source.name}' has no model '{name}'" + (f"; {hint}" if hint else ""))


def load(source: Source, folder: Path | None) -> Library:
    """Parses a source and its imports. `folder` is the only place that imports may come from (None: no imports)."""
    main = parse(source)
    files: list[ast.File] = []
    sources: list[Source] = []
    problems: list[Diagnostic] = []
    seen: set[Path] = set()

    def read(file: ast.File, here: Path | None) -> None:
        for each in file.imports:
            try:
                path = _resolve(each, here, folder)
                if path in seen:
                    continue
                seen.add(path)
                text = _text(each, path)
                inner = Source(str(path.relative_to(folder.resolve())) if folder else path.name, text)
                parsed = parse(inner)
                read(parsed, path.parent)
                files.append(parsed)
                sources.append(inner)
            except ArchError as failed:
                problems.extend(failed.diagnostics)

    start = (folder / Path(source.name).name).parent.resolve() if folder is not None else None
    read(main, start)
    if problems:
        raise ArchError(problems)
    return Library(source, main, tuple(files), tuple(sources))


def _resolve(each: ast.Import, here: Path | None, folder: Path | None) -> Path:
    if here is None or folder is None:
        raise error("E121", "a spec given as text imports nothing", each.span)
    path = (here / each.path).resolve()
    if Path(each.path).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise error(
            "E122",
            f"import '{each.path}' leaves the folder of the spec",
            each.span,
            help="imports are relative paths inside one folder tree",
        )
    return path


def _text(each: ast.Import, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = closest(path.name, [p.name for p in path.parent.glob("*.arch")]) if path.parent.is_dir() else ""
        raise error("E123", f"no file '{each.path}'" + (f"; {near}" if near else ""), each.span) from None
    except (OSError, UnicodeDecodeError) as why:
        raise error("E123", f"cannot read '{each.path}': {why}", each.span) from None


def elaborate(
    library: Library,
    model: str | None = None,
    size: str | None = None,
    settings: Mapping[str, Fraction | float] | None = None,
) -> Program:
    """Elaborates one model at one size. Raises `ArchError` with everything that is wrong."""
    definition = library.model(model)
    shelf = Shelf()
    glob = _globals(library, shelf)
    scope = Scope(glob, closed=True)
    root = Call(definition, Instance(""))
    builder = Builder(definition.name.text, shelf.ids)
    frame = Frame(Elaborator(), shelf, builder, scope, root)
    numbers = _parameters(definition, size, settings or {}, frame)
    _raise(shelf)
    scope.names["tokens"] = frame.add("input", (), definition.name, {"name": "tokens"}, label="tokens")
    shelf.pos = frame.add("pos", (), definition.name, label="pos")
    defaults = [s for s in definition.body if isinstance(s, ast.Init) and s.name.text == "default"]
    if defaults:
        shelf.default_init = (defaults[0].value, frame)
    result = frame.walker.body(definition.body, frame)
    _raise(shelf)
    names, outputs = _outputs(result, scope, definition, frame)
    functions.unused(definition, scope, frame, frame)
    region = builder.finish(outputs)
    root.region = region
    root.results = root.returned = outputs
    finish_weights(builder, region, frame)
    _raise(shelf)
    inputs = tuple(v.attrs["name"] for v in builder.values if v.op == "input")
    graph = Graph(definition.name.text, definition.kind, region, inputs, names, shelf.weights)
    sizes = tuple(s.name.text for s in definition.body if isinstance(s, ast.SizeDecl))
    return Program(graph, root, definition, numbers, size, (library.source, *library.sources), sizes)


def standard_library() -> tuple[ast.File, ...]:
    """The fns that are always in scope, from specs/std."""
    return tuple(parse(Source(p, read("specs", p))) for p in paths("specs") if p.startswith("std/"))


def _raise(shelf: Shelf) -> None:
    if shelf.diagnostics:
        raise ArchError(shelf.diagnostics)


def _globals(library: Library, shelf: Shelf) -> Scope:
    """std, then imports, then the file itself: later declarations win, two in one file do not."""
    glob = Scope()
    for file in (*standard_library(), *library.files, library.main):
        here: dict[str, ast.FnDef | ast.ModelDef] = {}
        for item in file.items:
            first = here.setdefault(item.name.text, item)
            if first is not item:
                shelf.report(
                    error(
                        "E124",
                        f"'{item.name.text}' is declared twice",
                        item.name.span,
                        Note("first here", first.name.span),
                    )
                )
            if isinstance(item, ast.FnDef):
                glob.names[item.name.text] = Function(item, glob)
    return glob


def _parameters(
    definition: ast.ModelDef, size: str | None, settings: Mapping[str, Fraction | float], frame: Frame
) -> dict[str, Num]:
    """The numbers of the model: from `--set`, else from the size, else the default."""
    names = [p.name.text for p in definition.params]
    chosen = _size_settings(definition, size)
    for key in settings:
        if key not in names:
            hint = closest(key, names)
            frame.shelf.report(
                error(
                    "E125",
                    f"'{definition.name.text}' has no parameter '{key}'" + (f"; {hint}" if hint else ""),
                    definition.name.span,
                    help=f"it has: {', '.join(names)}",
                )
            )
    _check_sizes(definition, names, frame)
    out: dict[str, Num] = {}
    for param in definition.params:
        key = param.name.text
        try:
            out[key] = _parameter(param, chosen.get(key), size, settings.get(key), frame)
            frame.scope.names[key] = out[key]
        except ArchError as failed:
            frame.shelf.report(failed)
            frame.scope.names[key] = Poison()
    frame.call.arguments.update(out)
    return out


def _parameter(
    param: ast.Param, setting: ast.Setting | None, size: str | None, given: Fraction | float | None, frame: Frame
) -> Num:
    key = param.name.text
    if given is not None:
        number = Num(given)
        return Num(given, (Root(key, str(number), "--set", None),))
    node = setting.value if setting is not None else param.default
    if node is None:
        frame.fail("E110", f"'{key}' has no value", param, help="give it a default, or set it in a size")
    bound = frame.number(frame.walker.evaluate(node, frame), node, f"'{key}'")
    giver = f"size {size}" if setting is not None else "its default"
    span = setting.span if setting is not None else param.span
    return Num(bound.value, (Root(key, str(bound), giver, span), *bound.roots))


def _size_settings(definition: ast.ModelDef, size: str | None) -> dict[str, ast.Setting]:
    if size is None:
        return {}
    sizes = {s.name.text: s for s in definition.body if isinstance(s, ast.SizeDecl)}
    if size not in sizes:
        hint = closest(size, sizes)
        raise error(
            "E126",
            f"'{definition.name.text}' has no size '{size}'" + (f"; {hint}" if hint else ""),
            definition.name.span,
            help=f"it has: {', '.join(sizes) or 'none'}",
        )
    return {s.name.text: s for s in sizes[size].settings}


def _check_sizes(definition: ast.ModelDef, names: list[str], frame: Frame) -> None:
    """Every size line sets parameters that exist, whichever size is in use."""
    for statement in definition.body:
        if isinstance(statement, ast.SizeDecl):
            for setting in statement.settings:
                if setting.name.text not in names:
                    hint = closest(setting.name.text, names)
                    frame.shelf.report(
                        error(
                            "E125",
                            f"'{definition.name.text}' has no parameter '{setting.name.text}'"
                            + (f"; {hint}" if hint else ""),
                            setting.name.span,
                            help=f"it has: {', '.join(names)}",
                        )
                    )


def _outputs(
    result: tuple[Bound, ...] | None, scope: Scope, definition: ast.ModelDef, frame: Frame
) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    """What the model gives: `return a, b`, or `logits = ...`."""
    if result is None:
        bound = scope.find("logits")
        if bound is None:
            frame.fail(
                "E127", f"model '{definition.name.text}' gives nothing", definition.name, help="write logits = ..., or return"
            )
        return ("logits",), (frame.value(bound, definition.name, "'logits'"),)
    values = tuple(frame.value(b, definition.name, "an output") for b in result)
    returned = next(s for s in definition.body if isinstance(s, ast.Return))
    names = tuple(v.text if isinstance(v, ast.Name) else f"output_{i}" for i, v in enumerate(returned.values))
    return names, values
