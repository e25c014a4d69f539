"""The text of a spec at other sizes, as a person would write it: the shipped one with new defaults, in one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby

from archc.diagnostics import ArchError, Source, Span
from archc.elaborate import Library, elaborate
from archc.elaborate.numbers import Num
from archc.exchange.family import Variant
from archc.specs_index import find, library
from archc.text import ast
from archc.text.format import format
from archc.text.parse import parse


def spec_text(
    name: str, sizes: Mapping[str, Fraction], variants: Sequence[Variant] = (), blocks: Sequence[str] | None = None
) -> str:
    """The shipped spec `name` with these defaults for its parameters and no sizes; what it imports stands in it.

    A default that is an expression stays where it comes to the same number. `blocks`: the period of layers.
    """
    shipped = find(name)
    text = shipped.source.text
    for variant in variants:
        text = _varied(text, variant)
    shelf = library(replace(shipped, source=Source(shipped.source.name, text)))
    text = _alone(shelf, shelf.model(None))
    source = Source(f"{name}.arch", text)
    model = next(item for item in parse(source).items if isinstance(item, ast.ModelDef))
    changes = [*_defaults(source, model, sizes)]
    if blocks is not None:
        changes += _layers(model, blocks)
    text = _changed(text, changes)
    return format(Source(source.name, text if blocks is None else _used(text)))


def _used(text: str) -> str:
    """The text without blocks, fns and parameters that nothing reads: where a kind of layer has none, its own go."""
    while True:
        file = parse(Source("spec", text))
        models = [item for item in file.items if isinstance(item, ast.ModelDef)]
        unread = _unread(text)
        cuts: list[Change] = []
        for node in file.walk():
            match node:
                case ast.BlockDef() if node.name.span.start in unread:
                    cuts.append((_line(node.span), ""))
                case ast.Param() if node.span.start in unread:
                    cuts.append(((node.span.start, _behind(text, node.span)), ""))
        if not cuts:
            fns = {item.name.text: item for item in file.items if isinstance(item, ast.FnDef)}
            called = _called(models, fns)
            return _changed(text, [(_with_comments(fn.span), "") for name, fn in fns.items() if name not in called])
        text = _changed(text, cuts)


def _unread(text: str) -> set[int]:
    """Where what nothing reads is declared; what else is wrong is said where the text is checked."""
    try:
        elaborate(library(find(text)))
    except ArchError as found:
        return {d.span.start for d in found.diagnostics if d.code == "E111" and d.span is not None}
    return set()


def _called(todo: Sequence[ast.Node], fns: Mapping[str, ast.FnDef]) -> set[str]:
    """Those of the fns that some declarations call, directly or not."""
    found: set[str] = set()
    nodes = list(todo)
    while nodes:
        for node in nodes.pop().walk():
            name = node.callee.text if isinstance(node, ast.Call) else node.text if isinstance(node, ast.Name) else ""
            if name in fns and name not in found:
                found.add(name)
                nodes.append(fns[name])
    return found


# --- one file ----------------------------------------------------------------------------------------


def _alone(shelf: Library, model: ast.ModelDef) -> str:
    """The text of a spec without its sizes, the fns of its imports that it needs behind it."""
    text = shelf.source.text
    cuts = [(_line(item.span), "") for item in (*shelf.main.imports, *_sizes(model))]
    return "\n\n".join([_changed(text, cuts).strip(), *_needed(shelf)]) + "\n"


def _sizes(model: ast.ModelDef) -> Iterator[ast.SizeDecl]:
    return (s for s in model.body if isinstance(s, ast.SizeDecl))


def _needed(shelf: Library) -> list[str]:
    """The fns of imported files that the file calls, directly or not, in the order of the files."""
    own = {item.name.text for item in shelf.main.items}
    fns = {item.name.text: item for file in shelf.files for item in file.items if isinstance(item, ast.FnDef)}
    others = {name: fn for name, fn in fns.items() if name not in own}
    wanted = _called(shelf.main.items, others)
    places = {name: _with_comments(fn.span) for name, fn in others.items() if name in wanted}
    return [others[name].span.source.text[start:end] for name, (start, end) in places.items()]


def _with_comments(span: Span) -> tuple[int, int]:
    """The offsets of a declaration and the comment lines above it."""
    lines = span.source.text[: span.start].splitlines(keepends=True)
    start = span.start
    while lines and lines[-1].startswith("#"):
        start -= len(lines.pop())
    return start, span.end


def _varied(text: str, variant: Variant) -> str:
    """A variant of the text; the data names what stands there once."""
    for old, new in variant.replace:
        assert text.count(old) == 1, f"'{old}' stands {text.count(old)} times in the spec"
        text = text.replace(old, new)
    text += variant.also and f"\n{variant.also}"
    model = next(item for item in parse(Source("variant", text)).items if isinstance(item, ast.ModelDef))
    return _changed(text, [((p.span.start, _behind(text, p.span)), "") for p in _named(model, variant.without)])


def _named(model: ast.ModelDef, names: Iterable[str]) -> list[ast.Param]:
    return [p for p in model.params if p.name.text in tuple(names)]


def _behind(text: str, span: Span) -> int:
    """The offset behind a parameter, its comma and the space after that."""
    end = span.end
    while text[end] in ", \n":
        end += 1
    return end


# --- numbers and layers ------------------------------------------------------------------------------

Change = tuple[tuple[int, int], str]


def _defaults(source: Source, model: ast.ModelDef, sizes: Mapping[str, Fraction]) -> Iterator[Change]:
    """New defaults where the present ones come to another number."""
    plain = {p.name.text for p in model.params if isinstance(p.default, ast.Number)}
    present = _at(source, {name: value for name, value in sizes.items() if name in plain})
    for param in model.params:
        name, node = param.name.text, param.default
        if name not in sizes or node is None:
            continue
        now = node.value if isinstance(node, ast.Number) else present[name].value if name in present else None
        if not isinstance(node, ast.Number) and sizes[name].denominator != 1 and now is None:
            continue  # no size of an axis: the check will say so of the expression
        if now != sizes[name]:
            yield (node.span.start, node.span.end), number_text(sizes[name])


def _at(source: Source, sizes: Mapping[str, Fraction]) -> Mapping[str, Num]:
    """The parameters of a spec at some sizes; none where it is no model at them, which its own check will say."""
    try:
        return elaborate(library(find(source.text)), None, None, sizes).settings
    except ArchError:
        return {}


def number_text(number: Fraction) -> str:
    """A number as specs write it.

    >>> [number_text(Fraction(text)) for text in ("128256", "4096", "1e-5", "50.5")]
    ['128_256', '4096', '1e-5', '50.5']
    """
    if number.denominator == 1:
        return f"{number.numerator:_}" if number >= 10_000 else str(number.numerator)
    text = repr(float(number))
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa.removesuffix('.0')}{e}{int(exponent)}" if e else text


def _layers(model: ast.ModelDef, blocks: Sequence[str]) -> Iterator[Change]:
    """The list of the stack, unless it says the same already."""
    for node in model.walk():
        if isinstance(node, ast.Call) and node.callee.text == "stack":
            entries = node.args[-1].value
            assert isinstance(entries, ast.ListExpr)
            present = [e.text for e in entries.entries if isinstance(e, ast.Name)]
            if list(period(blocks)) != present:
                yield (entries.span.start, entries.span.end), period_text(blocks)


def period(blocks: Sequence[str]) -> tuple[str, ...]:
    """The shortest list that gives the blocks when it is repeated and cut.

    >>> period(["a", "a", "b", "a", "a", "b", "a"])
    ('a', 'a', 'b')
    """
    lengths = range(1, len(blocks) + 1)
    shortest = next(n for n in lengths if all(b == blocks[i % n] for i, b in enumerate(blocks)))
    return tuple(blocks[:shortest])


def period_text(blocks: Sequence[str]) -> str:
    """A list of layers as a spec writes it.

    >>> period_text(["a", "a", "a", "b"])
    '[a * 3, b]'
    """
    runs = [(name, len(list(run))) for name, run in groupby(period(blocks))]
    return "[" + ", ".join(name if n == 1 else f"{name} * {n}" for name, n in runs) + "]"


def _changed(text: str, changes: Iterable[Change]) -> str:
    for (start, end), new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _line(span: Span) -> tuple[int, int]:
    """The offsets of the whole lines that a statement stands on."""
    text = span.source.text
    end = text.find("\n", span.end)
    return text.rfind("\n", 0, span.start) + 1, len(text) if end < 0 else end + 1
