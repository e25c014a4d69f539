"""Random specs that parse, written as carelessly as the grammar allows, and the comparison of trees without spans."""

from __future__ import annotations

from dataclasses import fields
from random import Random
from typing import Any

from hypothesis import strategies as st

from archc.text import ast

NAMES = ("x", "dim", "W_q", "size", "input", "fn", "window", "block_3", "default", "longer_name_of_a_value")
BREAKABLE = {*"+-*/^@=,:([{<", "->", "==", ">=", "!=", "and", "or", "not", "return"}
BINARY = {"or": (1, 1, 2), "and": (2, 2, 3), "<": (4, 5, 5), "!=": (4, 5, 5), "+": (5, 5, 6), "-": (5, 5, 6)}
BINARY |= {"*": (6, 6, 8), "/": (6, 6, 8), "^": (9, 10, 8)}
UNARY = {"not": (3, 3), "-": (8, 8)}
END = "\n"
"""Among the words of a text: the end of a statement."""


def shape(node: Any) -> Any:
    """A tree without its spans, to be compared."""
    if isinstance(node, tuple):
        return tuple(shape(each) for each in node)
    if isinstance(node, ast.Node):
        return type(node).__name__, *(shape(getattr(node, f.name)) for f in fields(node) if f.name != "span")
    return node


def texts() -> st.SearchStrategy[str]:
    """Whole files."""
    return st.integers(0, 2**64).map(lambda seed: Writer(Random(seed)).file())


class Writer:
    """Writes a file word by word, then puts white space, line breaks and comments between the words."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.comments = 0

    def file(self) -> str:
        items = [self.declaration(("fn", "model", "encoder"), 2) for _ in range(self.rng.randint(1, 2))]
        words = ["import", '"std/#1.arch"', END] if self.rng.random() < 0.3 else []
        return self.spaced([*words, *self.joined(items, END)])

    def joined(self, parts: list[list[str]], word: str) -> list[str]:
        return [w for i, part in enumerate(parts) for w in ([word] if i else []) + part]

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def some(self, make: Any, word: str, least: int = 0, most: int = 3) -> list[str]:
        return self.joined([make() for _ in range(self.rng.randint(least, most))], word)

    # --- statements

    def declaration(self, words: tuple[str, ...], depth: int) -> list[str]:
        word = self.rng.choice(words)
        params = ["(", *self.some(self.param, ","), ")"]
        return [word, self.name(), *params, *self.body(depth)]

    def param(self) -> list[str]:
        pattern = ["[", *self.rng.choice([[], [".."]]), *self.some(lambda: [self.name()], " ")[:3:2], "]"]
        default = ["=", *self.expression(1, 1)]
        return [self.name(), *self.rng.choice([[], pattern]), *self.rng.choice([[], default])]

    def body(self, depth: int) -> list[str]:
        return ["{", *self.some(lambda: self.statement(depth), END), "}"]

    def statement(self, depth: int) -> list[str]:
        name = self.rng.choice(("x", "y_1", "window", "encoder"))
        if depth and self.rng.random() < 0.3:
            state = [name, "[", *self.axes(), "]", *self.rng.choice([[], ["=", "0"]])]
            return self.rng.choice(
                [self.declaration(("fn", "block"), depth - 1), ["block", name, *self.body(depth - 1)],
                 ["loop", *state, *self.body(depth - 1)]]
            )  # fmt: skip
        setting = lambda: [self.name(), "=", *self.expression(1, 1)]  # noqa: E731
        value = self.expression(1, 3)
        return self.rng.choice(
            [
                [name, "=", *value],
                [name, ",", self.name(), "=", *value],
                ["return", *value],
                ["init", self.name(), "=", *value],
                ["shared", self.name(), "=", *self.call(1)],
                [self.rng.choice(("frozen", "tied", "input")), *self.some(lambda: [self.name()], ",", 1)],
                ["size", self.rng.choice(("tiny", "9b", "x-l.5")), ":", *self.some(setting, ",", 1)],
            ]
        )

    # --- expressions

    def expression(self, level: int, depth: int) -> list[str]:
        """An expression that may stand where the grammar asks for one that binds as tightly as `level`."""
        kinds = [k for k, v in BINARY.items() if v[0] >= level] + [f"{k} _" for k, v in UNARY.items() if v[0] >= level]
        kind = self.rng.choice([*kinds, "atom", "atom", "(", *(["@"] if level <= 7 else [])]) if depth else "atom"
        if kind in BINARY:
            _, left, right = BINARY[kind]
            return [*self.expression(left, depth - 1), kind, *self.expression(right, depth - 1)]
        match kind:
            case "@":
                return [*self.expression(7, depth - 1), "@", *self.weight(depth - 1)]
            case "(":
                return ["(", *self.expression(1, depth - 1), ")"]
            case "atom":
                return self.atom(depth)
            case _:
                word = kind.split()[0]
                return [word, *self.expression(UNARY[word][1], depth - 1)]

    def atom(self, depth: int) -> list[str]:
        plain = [[self.name()], [self.rng.choice(("0", "256_000", "1e-5", "0.02"))]]
        if not depth:
            return self.rng.choice(plain)
        label = self.rng.choice([[], [self.name(), ":"]])
        lookup = [*self.weight(0), "(", *self.expression(1, depth - 1), ")"]
        return self.rng.choice([*plain, [*label, *self.call(depth)], self.weight(depth), lookup, self.bracketed(depth)])

    def call(self, depth: int) -> list[str]:
        comma = self.rng.choice([[], [","]])
        arguments = self.some(lambda: self.argument(depth - 1), ",")
        return [self.name(), "(", *arguments, *(comma if arguments else []), ")"]

    def argument(self, depth: int) -> list[str]:
        arrow = [*self.plain_axes(0), "->", *self.plain_axes(1)]
        value = self.expression(1, max(depth, 0))
        return self.rng.choice([value, value, [self.name(), "=", *value], arrow])

    def weight(self, depth: int) -> list[str]:
        made = ["->", *self.axes(depth)] if self.rng.random() < 0.4 else []
        return [self.name(), "[", *self.axes(depth), *made, "]"]

    def axes(self, depth: int = 0) -> list[str]:
        def axis() -> list[str]:
            size = ["=", *self.expression(1, depth)] if self.rng.random() < 0.2 else []
            return [self.name(), *["'"] * self.rng.choice((0, 0, 1, 2)), *size]

        return [w for _ in range(self.rng.randint(0, 3)) for w in axis()]

    def plain_axes(self, least: int) -> list[str]:
        return [self.name() for _ in range(self.rng.randint(least, 3))]

    def bracketed(self, depth: int) -> list[str]:
        def entry() -> list[str]:
            override = [*self.call(depth - 1), ":", *self.expression(1, depth - 1)]
            return self.rng.choice([self.expression(1, depth - 1), override, [*self.plain_axes(2), self.name()]])

        return ["[", *self.some(entry, ","), "]"]

    # --- white space

    def comment(self) -> str:
        self.comments += 1
        return f"{self.rng.choice(('#', '##', '# x = (', '#  '))} {self.comments}{self.rng.choice(('', ' ', '#'))}"

    def spaced(self, words: list[str]) -> str:
        lines = self.trivia() + "".join(
            w + self.gap(w, after) for w, after in zip(words, [*words[1:], ""], strict=True)
        )
        return lines + self.rng.choice(("", "\n", "\n\n", " # end", "\n# end\n\n"))

    def gap(self, word: str, after: str) -> str:
        if word in (END, " ") or after == "":
            return self.trivia() if word == END else ""
        if after == END:
            return self.rng.choice(("", "", "  ", " " + self.comment()))
        legal = (not after[0].isalpha() and after[0] != "_") or word in BREAKABLE or after in ("and", "or")
        if legal and self.rng.random() < 0.12:
            return self.rng.choice((" " + self.comment(), "")) + "\n" + self.trivia()
        touching = (word[-1].isalnum() or word[-1] == "_") and (after[0].isalnum() or after[0] == "_")
        return self.rng.choice((" ", "  ", "\t") if touching else ("", " ", "  "))

    def trivia(self) -> str:
        """Blank and comment lines, then an indentation."""
        lines = [self.rng.choice(("", self.comment())) for _ in range(self.rng.choice((0, 0, 0, 1, 2, 3)))]
        return "".join(f"{self.indent()}{line}\n" for line in lines) + self.indent()

    def indent(self) -> str:
        return " " * self.rng.choice((0, 2, 4, 7))
