"""What a name can stand for while a spec is elaborated: numbers, values, axes, callables, blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from archc.elaborate.numbers import Num
from archc.ir.graph import Value
from archc.text import ast


@dataclass(frozen=True)
class Axes:
    """A list of axis names: the value of `over =` and `per =`."""

    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Builtin:
    """A function of the language."""

    name: str


@dataclass(frozen=True, eq=False)
class Function:
    """A `fn` and the scope it was declared in."""

    definition: ast.FnDef
    scope: Scope


@dataclass(frozen=True, eq=False)
class SharedFunction:
    """`shared f = name(...)`: a fn, arguments given beforehand, and the one instance that all calls use."""

    function: Function
    given: dict[str, Bound]
    instance: Instance


@dataclass(frozen=True, eq=False)
class BlockUse:
    """A block with arguments, as an entry of a stack."""

    definition: ast.BlockDef
    scope: Scope
    given: dict[str, Bound] = field(default_factory=dict)
    site: ast.Expr | None = None


@dataclass(frozen=True, eq=False)
class Repeated:
    """`mamba * 3` in the list of a stack."""

    entry: BlockUse
    times: int


@dataclass(frozen=True, eq=False)
class Replaced:
    """`at(7, 15): attention` in the list of a stack."""

    node: ast.Override
    how: str
    numbers: tuple[Num, ...]
    entry: BlockUse


@dataclass(frozen=True, eq=False)
class Poison:
    """What a name is bound to after its statement failed: using it raises nothing new."""


Callable_ = Builtin | Function | SharedFunction
Bound = Num | Value | Axes | Callable_ | BlockUse | Repeated | Replaced | Poison | tuple["Bound", ...]


@dataclass(eq=False)
class Scope:
    """Names and what they stand for. A fn starts a new chain: past a `closed` scope only callables are visible.

    `unread` holds the assignments that nothing has read yet.
    """

    parent: Scope | None = None
    closed: bool = False
    names: dict[str, Bound] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    unread: dict[str, ast.Ident] = field(default_factory=dict)

    def _reach(self) -> Iterator[tuple[Scope, bool]]:
        """This scope and those around it; whether their values are visible from here."""
        scope: Scope | None = self
        inside = True
        while scope is not None:
            yield scope, inside
            inside = inside and not scope.closed
            scope = scope.parent

    def read(self, name: str) -> None:
        """Notes that a name of this scope is used."""
        self.used.add(name)
        self.unread.pop(name, None)

    def find(self, name: str) -> Bound | None:
        """What the name stands for; values of enclosing scopes stop being visible at a closed one."""
        for scope, inside in self._reach():
            bound = scope.names.get(name)
            if bound is not None and (inside or isinstance(bound, Callable_)):
                scope.read(name)
                return bound
        return None

    def find_callable(self, name: str) -> Callable_ | BlockUse | None:
        """What the name stands for before a parenthesis."""
        for scope, _ in self._reach():
            bound = scope.names.get(name)
            if isinstance(bound, Callable_ | BlockUse):
                scope.read(name)
                return bound
        return None

    def find_axis(self, name: str) -> dict[int, str]:
        """The sizes that visible values have along an axis, each with the name of one such value."""
        found: dict[int, str] = {}
        for scope, inside in self._reach():
            if not inside:
                break
            for label, bound in scope.names.items():
                if isinstance(bound, Value) and name in bound.names:
                    if not found:
                        scope.read(label)
                    found.setdefault(bound.type.sizes[name], label)
        return found

    def visible(self) -> set[str]:
        """Every name that could have been meant, and every axis."""
        out: set[str] = set()
        for scope, inside in self._reach():
            for name, bound in scope.names.items():
                if inside or isinstance(bound, Callable_):
                    out.add(name)
                if inside and isinstance(bound, Value):
                    out.update(bound.names)
        return out

    def callables(self) -> set[str]:
        """Every name that could stand before a parenthesis."""
        return {n for s, _ in self._reach() for n, b in s.names.items() if isinstance(b, Callable_ | BlockUse)}


@dataclass(eq=False)
class Instance:
    """One scope of weights and states: a call of a fn, a layer, the model. Its path names checkpoints."""

    path: str
    weights: dict[str, Value] = field(default_factory=dict)
    first: dict[str, ast.WeightRef] = field(default_factory=dict)
    children: dict[str, Instance] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    again: bool = False

    def below(self, name: str) -> str:
        """The path of something inside."""
        return f"{self.path}.{name}" if self.path else name

    def rewind(self) -> None:
        """Makes the next run of the same body meet the same children."""
        self.counts.clear()
        self.again = True

    def child(self, name: str, label: bool = False) -> Instance | None:
        """The next instance of that name: `name`, `name_2`, ... in the order of the text; None if the name is taken."""
        count = self.counts.get(name, 0) + 1
        self.counts[name] = count
        key = name if count == 1 else f"{name}_{count}"
        known = self.children.get(key)
        if known is not None and self.again:
            known.rewind()
            return known
        if known is not None or key in self.weights or (label and count > 1):
            return None
        return self.children.setdefault(key, Instance(self.below(key)))

    def state(self, name: str) -> str:
        """A state name of its own, as a path."""
        unique, count = name, 1
        while unique in self.states or unique in self.weights:
            count += 1
            unique = f"{name}_{count}"
        self.states.add(unique)
        return self.below(unique)
