"""Element-wise equations as statements: one line for each value that the spec names or that is needed twice.

What an op is called is the backend's to say (`Say`); names are the spec's, made unlike one another, unlike Python's
words and unlike whatever the text around them uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from types import MappingProxyType

from archc.emit.code import UNARY, Code, infix, minus
from archc.fuse.dag import NUMBER, SPECIAL, Equations, depends
from archc.ops.node import Node

Say = Callable[[str, Sequence[Code]], Code]
"""The expression of an op, by its name, on operands."""

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
LONG = 88
"""Characters from which on an expression inside of another gets a line of its own."""


@dataclass(frozen=True)
class Statements:
    """Lines `name = expression`, expressions of the outputs, and the names of x, w and n (`_` for one not needed).

    parameters: all of these for a function to take, the one not needed as `_name`.
    """

    lines: tuple[str, ...]
    outputs: tuple[str, ...]
    x: tuple[str, ...]
    w: tuple[str, ...]
    n: tuple[str, ...]
    parameters: tuple[str, ...]

    def result(self, gradient: bool = False) -> str:
        """The outputs as they are returned; those of a gradient end in a tuple for x and one for w."""
        if not gradient:
            return ", ".join(self.outputs)
        end = len(self.outputs) - len(self.w)
        start = end - len(self.x)
        return ", ".join([*self.outputs[:start], row(self.outputs[start:end]), row(self.outputs[end:])])


def operator(op: str, args: Sequence[Code]) -> Code | None:
    """The expression of an op that Python has an operator for."""
    if op == "neg":
        return minus(args[0])
    return infix(INFIX[op], *args) if op in INFIX else None


def logic(op: str, args: Sequence[Code]) -> Code | None:
    """The same of `and`, `or`, `not` on arrays."""
    if op == "not":
        return Code(f"~{args[0].atom}", UNARY)
    return infix("&" if op == "and" else "|", *args) if op in ("and", "or") else None


def may_be_flat(exponent: Code) -> bool:
    """Whether a power with this exponent, perhaps between 0 and 1, may have an infinite slope at 0."""
    return exponent.number is None or 0 < exponent.number < 1


def number(value: float) -> Code:
    """A number, always a floating-point one."""
    return Code(repr(value), UNARY if value < 0 else 100)


def statements(
    equations: Equations,
    say: Say,
    zeros: Callable[[str], Code],
    reserved: Iterable[str],
    *,
    spread: bool = True,
    loads: Mapping[Node, str] = MappingProxyType({}),
) -> Statements:
    """The equations in the words of a backend; `zeros(x)` is the expression of zeros like a value of that name.

    Outputs that depend on no token (numbers, weights alone) are spread like the first input, unless whoever calls the
    equations does that. `reserved` are the names that the text around uses. `loads` are the leaves that a line of their
    own reads where they are needed first, and what it reads them with.
    """
    return _Writer(equations, say, zeros, reserved, loads).written(spread)


class _Writer:
    """Names and lines made so far."""

    def __init__(
        self,
        equations: Equations,
        say: Say,
        zeros: Callable[[str], Code],
        reserved: Iterable[str],
        loads: Mapping[Node, str],
    ) -> None:
        self.equations, self.say, self.zeros, self.loads = equations, say, zeros, loads
        self.taken = {*reserved, *(n.name.removeprefix(SPECIAL) for n in (*equations.given, equations.first))}
        handed = frozenset(self.taken)
        self.names = {leaf: self.free(leaf.name) for leaf in (*equations.x, *equations.w)}
        self.names |= {leaf: self.free(leaf.name.removeprefix(NUMBER)) for leaf in equations.n}
        order = equations.nodes
        self.uses: dict[Node, int] = {}
        for node in (*equations.outputs, *(a for n in order for a in n.args)):
            self.uses[node] = self.uses.get(node, 0) + 1
        self.wished = {n: self.free(equations.names[n]) for n in order if n in equations.names and n.args}
        own = [*self.names.values(), *self.wished.values()]
        assert handed.isdisjoint(own), "a generated name hides one of the text around"
        assert len(set(own)) == len(own), "two values have one name"
        arrays = (*equations.x, *equations.w, *equations.given, equations.first)
        self.arrays = depends([*equations.outputs, *arrays], arrays)
        self.codes: dict[Node, Code] = {}
        self.lines: list[str] = []
        self.temporaries = 1
        self.read: set[Node] = set()

    def free(self, wish: str) -> str:
        """The wished name, or one like it that nothing else has."""
        base = wish + "_" if iskeyword(wish) else wish
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def written(self, spread: bool) -> Statements:
        for node in self.equations.nodes:
            self.codes[node] = self.code(node)
        tokens = (*self.equations.x, *self.equations.given)
        varying = depends(self.equations.outputs, tokens) if spread else {*self.equations.outputs}
        outputs = tuple(self.codes[o].text if o in varying else self.spread(o).text for o in self.equations.outputs)
        leaves = self.equations.x, self.equations.w, self.equations.n
        parameters = (name if leaf in self.read else self.free(f"_{name}") for leaf, name in self.names.items())
        x, w, n = (tuple(map(self.called, each)) for each in leaves)
        return Statements(tuple(self.lines), outputs, x, w, n, tuple(parameters))

    def called(self, leaf: Node) -> str:
        """The name of a leaf where it is needed."""
        return self.names[leaf] if leaf in self.read else "_"

    def code(self, node: Node) -> Code:
        """The expression of a node, after the lines that it needs."""
        if node.op == "number":
            return number(node.value)
        if node.op == "leaf":
            self.need(node)
            return Code(self.leaf(node), plain=node in self.equations.n)
        args = [self.codes[a] for a in node.args]
        alone = [a not in self.arrays for a in node.args]
        if node.op == "where" and all(alone[1:]):
            args[1] = self.spread(node.args[1])  # a choice between numbers alone would not know its precision
        elif (node.op == "pow" and alone[0]) or (node.op not in (*INFIX, "neg") and all(alone)):
            args[0] = self.spread(node.args[0])
        code = operator(node.op, args) or self.say(node.op, args)
        named = node in self.wished
        if not named and self.uses[node] == 1 and (len(code.text) < LONG or node in self.equations.outputs):
            return code
        name = self.wished[node] if named else self.free(f"t{self.temporaries}")
        self.temporaries += not named
        self.lines.append(f"{name} = {code.text}")
        return Code(name)

    def leaf(self, node: Node) -> str:
        """The name of a leaf."""
        return self.names.get(node, node.name.removeprefix(SPECIAL))

    def need(self, leaf: Node) -> None:
        """Notes that a leaf is read, from here on."""
        if leaf in self.loads and leaf not in self.read:
            self.lines.append(f"{self.names[leaf]} = {self.loads[leaf]}")
        self.read.add(leaf)

    def spread(self, node: Node) -> Code:
        """What varies with no token, like the first input."""
        like = (*self.equations.x, *self.equations.given)[0]
        self.need(like)
        zeros = self.zeros(self.leaf(like))
        return zeros if node.is_number(0) else infix("+", zeros, self.codes[node])


def unpacked(source: str, names: Sequence[str]) -> list[str]:
    """The line that takes a tuple apart, if anything in it is needed.

    >>> unpacked("xs", ["u", "_"]), unpacked("ws", ["b"]), unpacked("ws", [])
    (['u, _ = xs'], ['b = ws[0]'], [])
    """
    if all(n == "_" for n in names):
        return []
    return [f"{names[0]} = {source}[0]"] if len(names) == 1 else [f"{', '.join(names)} = {source}"]


def called_in(text: str, functions: Iterable[str]) -> list[str]:
    """Which of the functions a text calls by their bare names.

    >>> called_in("return jnp.tanh(x) + expm1(x)", ["tanh", "expm1"])
    ['expm1']
    """
    return [name for name in functions if re.search(rf"(?<![\w.]){name}\(", text)]


def row(items: Sequence[str]) -> str:
    """A tuple.

    >>> row(["a"]), row([])
    ('(a,)', '()')
    """
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def function(
    name: str, params: Sequence[str], doc: Sequence[str], lines: Iterable[str], result: str, decorator: str = ""
) -> str:
    """The text of a function."""
    head = [decorator] if decorator else []
    body = ['"""' + doc[0] + ('"""' if len(doc) == 1 else ""), *doc[1:], *(['"""'] if len(doc) > 1 else [])]
    body += [*lines, f"return {result}"]
    return "\n".join([*head, f"def {name}({', '.join(params)}):", *(f"    {x}".rstrip() for x in body)]) + "\n"
