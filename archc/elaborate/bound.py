"""What a name can stand for while a spec is elaborated: numbers with their history, values, axes, callables, blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from archc.diagnostics import Note, Span
from archc.ir.graph import Value
from archc.text import ast


@dataclass(frozen=True)
class Root:
    """Where a number came from: a parameter, the value it got, and what gave it."""

    name: str
    value: str
    giver: str
    span: Span | None

    @property
    def note(self) -> Note:
        """The root as a note of a diagnostic."""
        return Note(f"{self.name} = {self.value}, from {self.giver}", self.span)


@dataclass(frozen=True)
class Num:
    """A number known when compiling; exact as long as its history allows."""

    value: Fraction | float
    roots: tuple[Root, ...] = ()

    @property
    def plain(self) -> int | float:
        """The number as an operand of an op."""
        if isinstance(self.value, Fraction):
            return int(self.value) if self.value.denominator == 1 else float(self.value)
        return self.value

    @property
    def whole(self) -> int | None:
        """The number as a size, if it is one."""
        if isinstance(self.value, Fraction) and self.value.denominator == 1:
            return int(self.value)
        return None

    def __str__(self) -> str:
        if isinstance(self.value, Fraction):
            return f"{self.value.numerator:_}" + (f"/{self.value.denominator}" if self.value.denominator != 1 else "")
        return repr(self.value)


def merge_roots(*numbers: Num) -> tuple[Root, ...]:
    """The histories of several numbers, each root once."""
    return tuple(dict.fromkeys(r for n in numbers for r in n.roots))


def _power(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1 and abs(b) <= 4096:
        return a ** int(b)
    return float(a) ** float(b)


def _sqrt(a: Fraction | float) -> Fraction | float:
    if isinstance(a, Fraction) and a >= 0:
        top, bottom = math.isqrt(a.numerator), math.isqrt(a.denominator)
        if top * top == a.numerator and bottom * bottom == a.denominator:
            return Fraction(top, bottom)
    return math.sqrt(a)


def _divide(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    return a / b


def _sigmoid(a: Fraction | float) -> float:
    return 1 / (1 + math.exp(-a))


ARITHMETIC: dict[str, Callable[[Fraction | float, Fraction | float], Fraction | float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "^": _power,
    "min": min,
    "max": max,
}

FUNCTIONS: dict[str, Callable[[Fraction | float], Fraction | float]] = {
    "ceil": lambda a: Fraction(math.ceil(a)),
    "floor": lambda a: Fraction(math.floor(a)),
    "abs": abs,
    "sqrt": _sqrt,
    "rsqrt": lambda a: 1 / _sqrt(a),
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "sign": lambda a: Fraction((a > 0) - (a < 0)),
    "relu": lambda a: max(a, Fraction(0)),
    "silu": lambda a: a * _sigmoid(a),
    "gelu": lambda a: a * (1 + math.erf(a / math.sqrt(2))) / 2,
    "softplus": lambda a: math.log1p(math.exp(a)),
    "inv_softplus": lambda a: a + math.log(-math.expm1(-a)),
}


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
    """Names and what they stand for. A fn starts a new chain: past a `closed` scope only callables are visible."""

    parent: Scope | None = None
    closed: bool = False
    names: dict[str, Bound] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def find(self, name: str) -> Bound | None:
        """What the name stands for; values of enclosing scopes stop being visible at a closed one."""
        scope: Scope | None = self
        open_ = True
        while scope is not None:
            bound = scope.names.get(name)
            if bound is not None and (open_ or isinstance(bound, Callable_)):
                scope.used.add(name)
                return bound
            open_ = open_ and not scope.closed
            scope = scope.parent
        return None

    def find_callable(self, name: str) -> Callable_ | BlockUse | None:
        """What the name stands for before a parenthesis."""
        scope: Scope | None = self
        while scope is not None:
            bound = scope.names.get(name)
            if isinstance(bound, Callable_ | BlockUse):
                scope.used.add(name)
                return bound
            scope = scope.parent
        return None

    def find_axis(self, name: str) -> int | None:
        """The size of an axis that a visible value has."""
        scope: Scope | None = self
        while scope is not None:
            for label, bound in scope.names.items():
                if isinstance(bound, Value) and name in bound.names:
                    scope.used.add(label)
                    return bound.type.sizes[name]
            if scope.closed:
                return None
            scope = scope.parent
        return None

    def visible(self) -> set[str]:
        """Every name that could have been meant, and every axis."""
        out: set[str] = set()
        scope: Scope | None = self
        open_ = True
        while scope is not None:
            for name, bound in scope.names.items():
                if open_ or isinstance(bound, Callable_):
                    out.add(name)
                if open_ and isinstance(bound, Value):
                    out.update(bound.names)
            open_ = open_ and not scope.closed
            scope = scope.parent
        return out


@dataclass(eq=False)
class Instance:
    """One scope of weights and states: a call of a fn, a layer, the model. Its path names checkpoints."""

    path: str
    weights: dict[str, Value] = field(default_factory=dict)
    first: dict[str, ast.WeightRef] = field(default_factory=dict)
    children: dict[str, Instance] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)

    def below(self, name: str) -> str:
        """The path of something inside."""
        return f"{self.path}.{name}" if self.path else name

    def child(self, name: str) -> Instance:
        """The next instance of that name: `name`, `name_2`, ... in the order of the text."""
        count = self.counts.get(name, 0) + 1
        self.counts[name] = count
        key = name if count == 1 else f"{name}_{count}"
        return self.children.setdefault(key, Instance(self.below(key)))

    def state(self, name: str) -> str:
        """A state name of its own, as a path."""
        unique, count = name, 1
        while unique in self.states or unique in self.weights:
            count += 1
            unique = f"{name}_{count}"
        self.states.add(unique)
        return self.below(unique)
