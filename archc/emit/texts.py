"""What the classes of model.py are made of, as text: the emitter fills them, a backend puts them in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from re import search
from textwrap import wrap
from typing import Protocol

from archc.elaborate.call import Program
from archc.emit.code import Code
from archc.emit.dialect import Dialect
from archc.emit.numbers import Taken
from archc.emit.units import Unit


class Shape(Protocol):
    """How a framework lays out classes: the part of a module that is not an expression."""

    dialect: Dialect

    def class_lines(self, text: ClassText) -> list[str]:
        """A whole class."""

    def model_lines(self, text: ModelText) -> list[str]:
        """The class of the model itself."""


@dataclass(eq=False)
class ClassText:
    """What a class is made of, as text: the backend puts it in order."""

    unit: Unit
    doc: str
    taken: list[Taken]
    computed: list[tuple[str, Code]]
    kept: list[tuple[str, str]]
    weights: list[tuple[str, Code, bool]]
    children: list[tuple[str, str]]
    arguments: list[str]
    lines: list[str]
    states: list[tuple[str, str]]
    results: int
    tokens: list[str] = field(default_factory=list)
    token_arguments: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


@dataclass(eq=False)
class ModelText(ClassText):
    """The model: a class with stacks of layers."""

    program: Program = field(kw_only=True)
    stacks: list[StackText] = field(kw_only=True)
    constants: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class StackText:
    """A stack of layers: constructors of one period (of `layer`), overrides by index, the streams, what blocks take
    besides, the attributes of the model that have shared fns."""

    name: str
    depth: str
    pattern: list[str]
    replaced: dict[int, str]
    streams: tuple[str, ...]
    extra: list[str]
    shared: list[str]
    units: list[Unit]
    count: int

    @property
    def arguments(self) -> list[str]:
        """What a layer is called with, without its part of the state."""
        return [*self.streams, *self.extra, *(["pos"] if any(u.needs_pos for u in self.units) else [])]

    @property
    def uses_layer(self) -> bool:
        """Whether the layers know their index: then no two of them are the same."""
        return any(search(r"\blayer\b", made) for made in (*self.pattern, *self.replaced.values()))

    @property
    def has_state(self) -> bool:
        """Whether any layer remembers something."""
        return any(u.has_state for u in self.units)


def docstring(doc: str, indent: str) -> list[str]:
    """A doc text as the lines of a docstring."""
    lines = [part for line in doc.splitlines() for part in (wrap(line, 120 - len(indent) - 6) or [""])]
    if not lines:
        return []
    if len(lines) == 1:
        return [f'{indent}"""{lines[0]}"""']
    return [f'{indent}"""{lines[0]}', *(f"{indent}{line}".rstrip() for line in lines[1:]), f'{indent}"""']
