"""The arguments of a call of a builtin, as its rule asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from archc.elaborate.axes import axis_names, side
from archc.elaborate.bound import Bound
from archc.elaborate.frame import Frame
from archc.elaborate.numbers import Num
from archc.ir.graph import Operand, Value
from archc.text import ast


@dataclass(frozen=True, eq=False)
class Given:
    """One call of a builtin; `usage` is how it is written."""

    name: str
    node: ast.Call
    frame: Frame
    usage: str
    positional: tuple[ast.Expr, ...]
    named: dict[str, ast.Expr]
    arrow: ast.Arrow | None

    def what(self, index: int) -> str:
        """A positional argument in a sentence."""
        return (
            f"argument {index + 1} of '{self.name}'" if len(self.positional) > 1 else f"the argument of '{self.name}'"
        )

    def bound(self, index: int = 0) -> Bound:
        """Whatever a positional argument is."""
        return self.frame.walker.evaluate(self.positional[index], self.frame)

    def operand(self, index: int = 0) -> Operand:
        """A positional argument as a value or a number."""
        return self.frame.operand(self.bound(index), self.positional[index], self.what(index))

    def value(self, index: int = 0) -> Value:
        """A positional argument as a value."""
        return self.frame.value(self.bound(index), self.positional[index], self.what(index))

    def called(self, name: str, wide: bool = False) -> Operand:
        """A named argument as a value or a number; `wide`: in single precision."""
        node = self.named[name]
        frame = self.frame.at(wide=wide or self.frame.wide)
        return frame.operand(frame.walker.evaluate(node, frame), node, f"'{name}'")

    def number(self, node: ast.Expr, what: str) -> Num:
        """An argument as a number."""
        return self.frame.number(self.frame.walker.evaluate(node, self.frame), node, what)

    def whole(self, node: ast.Expr, what: str) -> int:
        """An argument as a whole number."""
        return self.frame.whole(self.frame.walker.evaluate(node, self.frame), node, what)

    def axes(self, name: str) -> tuple[str, ...]:
        """A named argument as axis names."""
        return axis_names(self.named[name], self.frame).names

    def sides(self, repeats: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The axes left and right of the arrow; a name may stand twice where pieces lie side by side."""
        assert self.arrow is not None
        left = side(self.arrow.left, self.frame, repeats) if self.arrow.left is not None else ()
        return left, side(self.arrow.right, self.frame, repeats)

    def add(self, op: str, *args: Operand, **attrs: object) -> Value:
        """Adds the op at the call; element-wise ones in single precision inside of `fp32(...)`."""
        return self.frame.add(op, args, self.node, attrs)

    def misused(self, message: str, node: ast.Node | None = None) -> NoReturn:
        """Raises E106: not called like this."""
        self.frame.fail("E106", message, node or self.node, help=f"write {self.usage}")
