"""Numbers and sizes as text: which names a unit takes, which it computes, and how the spec's arithmetic reads in
Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from archc.elaborate.attributes import attribute
from archc.elaborate.bound import Axes, Bound
from archc.elaborate.call import Call
from archc.elaborate.numbers import Num
from archc.emit.code import Code, call, infix, minus, number_name, python_name
from archc.emit.units import Unit, argument_of, is_number_mask
from archc.ir.graph import Value
from archc.text import ast

Place = Literal["init", "forward"]

_INFIX = {"+": "+", "-": "-", "*": "*", "/": "/", "^": "**"}
_MATH = {"ceil", "floor", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh"}


def literal(value: Fraction | float | int) -> str:
    """A number as Python writes it, with the digits grouped as the spec does."""
    if isinstance(value, int) or (isinstance(value, Fraction) and value.denominator == 1):
        whole = int(value)
        return f"{whole:_}" if abs(whole) >= 100_000 else str(whole)
    return repr(float(value))


def written(node: ast.Number) -> str:
    """A literal of the spec as Python text."""
    if "e" in node.text or "E" in node.text or "." in node.text:
        return node.text if node.value.denominator != 1 or "e" in node.text.lower() else literal(node.value)
    return node.text


@dataclass(eq=False)
class Numbers:
    """The numbers of one unit: `needed` grows while its text is rendered; `read_off` are sizes that a function finds in
    the shape of an argument, `model` the numbers that the model has
    and whether they are whole (blocks see them)."""

    unit: Unit
    model: Mapping[str, bool] = field(default_factory=dict)
    needed: dict[Place, dict[str, None]] = field(default_factory=lambda: {"init": {}, "forward": {}})
    lets: dict[str, ast.Expr] = field(default_factory=dict)
    read_off: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        call = self.unit.first
        for statement in call.definition.body:
            if isinstance(statement, ast.Let) and isinstance(call.facts.get(statement.value), Num):
                self.lets[statement.targets[0].text] = statement.value
        for param in call.definition.params:
            computed = param.default is not None and not isinstance(param.default, ast.Number)
            if param.name.text in call.defaulted and computed and isinstance(call.arguments[param.name.text], Num):
                assert param.default is not None
                self.lets[param.name.text] = param.default
        for node in call.definition.walk():
            if isinstance(node, ast.AxisDecl) and node.size is not None and node.size in call.facts:
                if isinstance(call.arguments.get(node.axis.name), Num):
                    continue  # the name is that of the parameter
                self.lets.setdefault(node.axis.name, node.size)

    # --- text ----------------------------------------------------------------------------------------

    def symbol(self, name: str, place: Place) -> Code:
        """A number by its name: an attribute in the methods of a class, a local elsewhere."""
        self.needed[place].setdefault(name)
        kept = place == "forward" and self.unit.is_class
        return Code(f"self.{self.attribute(name)}" if kept else self.local(name))

    def local(self, name: str) -> str:
        """A number as a variable: of the constructor, or of a function."""
        return number_name(name) if self.unit.is_class else python_name(name)

    def attribute(self, name: str) -> str:
        """A number as an attribute, beside weights and calls."""
        instance = self.unit.first.instance
        taken = {*map(attribute, instance.weights), *instance.children}
        found = attribute(name)
        while found in taken:
            found += "_"
        return found

    def size(self, axis: str, value: int, place: Place) -> Code:
        """The size of an axis: by name where the unit knows it, else as it is given in place.

        An axis may be of one size in one weight and of another in the next; its name stands for the first.
        """
        name, call = axis.rstrip("'"), self.unit.first
        if not self.knows(name):
            return Code(literal(value))
        bound = call.facts.get(self.lets[name]) if name in self.lets else call.arguments.get(name)
        if not isinstance(bound, Num) or bound.value == value:
            return self.symbol(name, place)
        sizes = (n.size for n in call.definition.walk() if isinstance(n, ast.AxisDecl) and n.axis.name == name)
        given = ((node, call.facts.get(node)) for node in sizes if node is not None)
        found = next((node for node, size in given if isinstance(size, Num) and size.value == value), None)
        return Code(literal(value)) if found is None else self.text(found, place)

    def knows(self, name: str) -> bool:
        """Whether a name stands for a number or an axis here."""
        call = self.unit.first
        if name in self.lets or isinstance(call.arguments.get(name), Num):
            return True
        if any(isinstance(b, Value) and name in b.names for b in call.arguments.values()):
            return True
        if call.region is not None and any(name in p.names for p in call.region.params):
            return name in self.model
        return any(isinstance(n, ast.Name) and n.text == name and isinstance(b, Num) for n, b in call.facts.items())

    def text(self, node: ast.Expr, place: Place) -> Code:
        """An expression of numbers."""
        bound = self.unit.first.facts.get(node)
        match node:
            case ast.Number():
                return Code(written(node))
            case ast.Name():
                return self.symbol(node.text, place)
            case ast.Unary():
                return minus(self.text(node.value, place))
            case ast.Binary():
                return self._binary(node, bound, place)
            case ast.Call() if node.callee.text in _MATH:
                (arg,) = node.args
                assert isinstance(arg.value, ast.Expr)
                return call(f"math.{node.callee.text}", self.text(arg.value, place))
            case ast.Call() if node.callee.text in ("min", "max", "abs"):
                return call(
                    node.callee.text, *(self.text(a.value, place) for a in node.args if isinstance(a.value, ast.Expr))
                )
        assert isinstance(bound, Num)
        return Code(literal(bound.value))

    def _binary(self, node: ast.Binary, bound: Bound | None, place: Place) -> Code:
        left, right = self.text(node.left, place), self.text(node.right, place)
        if node.op == "/" and isinstance(bound, Num) and self._whole_result(node):
            if all(self._whole(part) for part in (node.left, node.right)):
                return infix("//", left, right)
            return call("int", infix("/", left, right))
        return infix(_INFIX[node.op], left, right)

    def _whole_result(self, node: ast.Expr) -> bool:
        """Whether the expression comes to a whole number in every call that the unit serves."""
        bounds = [c.facts.get(node) for c in self.unit.calls]
        return all(not isinstance(b, Num) or b.whole is not None for b in bounds)

    def _whole(self, node: ast.Expr) -> bool:
        """Whether every number of the expression is whole in every call that the unit serves."""
        bounds = [c.facts.get(n) for c in self.unit.calls for n in node.walk()]
        return all(not isinstance(b, Num) or b.whole is not None for b in bounds)

    # --- what the unit takes -------------------------------------------------------------------------

    def close(self) -> None:
        """Adds to the needed names those that the computed ones need."""
        for name in self.needed["forward"]:
            if self.unit.is_class:
                self.needed["init"].setdefault(name)
        place: Place = "init" if self.unit.is_class else "forward"
        done: set[str] = set()
        while True:
            todo = [n for n in self.needed[place] if n in self.lets and n not in done]
            if not todo:
                return
            for name in todo:
                done.add(name)
                self.text(self.lets[name], place)

    def computed(self) -> list[tuple[str, Code]]:
        """`name = text` lines for the computed numbers that are needed, in the order of the spec."""
        place: Place = "init" if self.unit.is_class else "forward"
        return [(self.local(n), self.text(e, place)) for n, e in _ordered(self.lets) if n in self.needed[place]]

    def taken(self) -> list[Taken]:
        """The numbers that the unit takes: required ones first, in the order in which the spec has them."""
        place: Place = "init" if self.unit.is_class else "forward"
        names = [n for n in self._order() if n in self.needed[place] and n not in self.lets]
        names += [n for n in self.needed[place] if n not in names and n not in self.lets]
        out = [self._taken(n) for n in names if n not in self.read_off]
        return [t for t in out if t.default is None] + [t for t in out if t.default is not None]

    def _order(self) -> list[str]:
        out: list[str] = []
        for param in self.unit.definition.params:
            if param.pattern is not None:
                out += [a.text for a in param.pattern.axes]
            bound = self.unit.first.arguments.get(param.name.text)
            if isinstance(bound, Value):
                out += [n.rstrip("'") for n in bound.names]
            if isinstance(bound, Axes):
                out += [n.rstrip("'") for n in bound.names]
            out.append(param.name.text)
        return list(dict.fromkeys(out))

    def _taken(self, name: str) -> Taken:
        for param in self.unit.definition.params:
            if param.name.text == name:
                bound = self.unit.first.arguments[name]
                if is_number_mask(bound):
                    return Taken(name, self.local(name), "int | None", None, param)
                default = written(param.default) if isinstance(param.default, ast.Number) else None
                if isinstance(self.unit.definition, ast.ModelDef):
                    assert isinstance(bound, Num)
                    default = literal(bound.value)
                numbers = [c.arguments.get(name) for c in self.unit.calls]
                whole = all(isinstance(n, Num) and n.whole is not None for n in numbers)
                return Taken(name, self.local(name), "int" if whole else "float", default, param)
        whole = self.model.get(name, True)
        return Taken(name, self.local(name), "int" if whole else "float", None, None)


@dataclass(frozen=True)
class Taken:
    """A number that a unit takes: name, argument, type, default as text, and the parameter of the spec if it is one."""

    name: str
    local: str
    type: str
    default: str | None
    param: ast.Param | None


def _ordered(lets: dict[str, ast.Expr]) -> list[tuple[str, ast.Expr]]:
    """Lets so that each stands after those it uses."""
    out: dict[str, ast.Expr] = {}

    def add(name: str, seen: tuple[str, ...]) -> None:
        if name in out or name not in lets or name in seen:
            return
        for node in lets[name].walk():
            if isinstance(node, ast.Name):
                add(node.text, (*seen, name))
        out[name] = lets[name]

    for name in lets:
        add(name, ())
    return list(out.items())


def number_node(call: Call, value: Value, index: int) -> ast.Expr | None:
    """The expression that an argument, a number, was written as."""
    node = call.nodes.get(value)
    match node:
        case ast.Binary():
            found: ast.Expr | None = (node.left, node.right)[index]
        case ast.Call():
            positional = [a.value for a in node.args if a.name is None and isinstance(a.value, ast.Expr)]
            named = [a.value for a in node.args if a.name is not None and isinstance(a.value, ast.Expr)]
            place = index + (node.callee.text == "clip" and value.op == "minimum")  # clip is both: its last bound
            found = (positional or named)[place] if place < len(positional or named) else None
        case _:
            found = None
    return found if found is not None and isinstance(call.facts.get(found), Num) else None


def number_from(call: Call, value: Value, index: int) -> ast.Expr | None:
    """The same in words of the call, also of a value of a fn that it calls: there it must be what the fn was given, or
    minus that.
    """
    node = call.nodes.get(value)
    if node is not None and node not in call.calls:
        return number_node(call, value, index)
    for site, below in call.calls.items():
        match number_from(below, value, index):
            case ast.Name(text=name):
                return argument_of(site, below, name)
            case ast.Unary(op="-", value=ast.Name(text=name)) as minus_it:
                given = argument_of(site, below, name)
                return given and replace(minus_it, value=given)
    return None


def axis_order(call: Call) -> list[str]:
    """The axes of the arguments in the order of first appearance: equal places in equal units mean the same axis."""
    out: dict[str, None] = {}
    for param in call.definition.params:
        bound = call.arguments.get(param.name.text)
        if isinstance(bound, Value | Axes) and not (isinstance(bound, Value) and bound.op == "mask"):
            out.update(dict.fromkeys(bound.names))
    return list(out)
