"""How classes are laid out in either framework: methods with their states, what a model offers its callers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from archc.emit.dialect import Dialect
from archc.emit.layout import legend
from archc.emit.texts import ClassText, ModelText, StackText, docstring
from archc.passes.vocabulary import gives_logits

INDENT = "    "


def indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    """Lines moved to the right; empty ones stay empty."""
    return [(INDENT * depth + line).rstrip() for line in lines]


def with_state(text: ClassText, arguments: Sequence[str]) -> list[str]:
    """The arguments of a method, and the state it goes on from if it remembers anything."""
    return [*arguments, *(["state=None"] if text.unit.has_state else [])]


class Classes(ABC):
    """A part of `archc.emit.module.Shape` that the frameworks share.

    `base`: what every class derives from; `keywords`: what every constructor takes; `positions`: the text of 0, 1, ...
    for the tokens of a sequence; `zeros`: that of an input that is not given; `no_tokens`: that of a count for each
    sequence; `state_arguments`: what `init_state` of a model is called with; `below_arguments`: what it hands to those
    below.
    """

    dialect: Dialect
    base: str
    keywords: tuple[str, ...] = ()
    positions: str
    zeros: str
    no_tokens: str
    state_arguments: str
    below_arguments: tuple[str, ...]
    last_below: str = ""

    def class_lines(self, text: ClassText) -> list[str]:
        """A whole class."""
        lines = [f"class {text.unit.name}({self.base}):", *docstring(text.doc, INDENT), *([""] if text.doc else [])]
        lines += [*self.constructor(text), "", *self.methods(text)]
        if text.unit.has_state:
            lines += ["", *self.init_state(text)]
        return lines

    def signature(self, text: ClassText, keywords: Sequence[str]) -> str:
        """What a constructor takes: its numbers, then keywords."""
        numbers = [f"{t.local}: {t.type}" + (f" = {t.default}" if t.default is not None else "") for t in text.taken]
        return ", ".join(["self", *numbers, *self.keywords, *keywords])

    @abstractmethod
    def constructor(self, text: ClassText, keywords: Sequence[str] = (), extra: Sequence[str] = ()) -> list[str]:
        """Numbers, weights and what the class calls, then extra lines; it takes the keywords besides its numbers."""

    def method(self, text: ClassText, name: str, arguments: Sequence[str], lines: Sequence[str]) -> list[str]:
        """A method that may go on from a state."""
        reads_old = any(re.search(r"\bold\b", line) for line in lines)  # a layer may be without a state among others
        body = ["old, new = state or {}, {}" if reads_old else "new = {}"] if "state=None" in arguments else []
        return indented([f"def {name}({', '.join(['self', *arguments])}):", *indented([*body, *lines])])

    def methods(self, text: ClassText) -> list[str]:
        """What a class computes; one that maps pairs has a part per token and a part per block of queries."""
        call = self.dialect.method
        if text.unit.takes_rows:
            tokens = self.method(text, "tokens", with_state(text, text.token_arguments), text.tokens)
            return [*tokens, "", *self.method(text, call, text.arguments, text.lines)]
        return self.method(text, call, with_state(text, text.arguments), text.lines)

    def init_state(self, text: ClassText) -> list[str]:
        """The empty state of a class; shared fns are handed in by the model."""
        *some, last = self.below_arguments
        arguments = [*some, *([last, *text.shared] if text.shared else [last + self.last_below])]
        entries = indented((f'"{key}": {value},' for key, value in text.states), 2)
        return indented([f"def init_state({', '.join(['self', *arguments])}):", INDENT + "return {", *entries, "    }"])

    def public(self, text: ModelText) -> list[str]:
        """The methods of a model for its callers: whole sequences, and the next tokens after a state."""
        inputs = ", ".join(text.arguments)
        first, *others = text.arguments
        optional = ", ".join([first, *(f"{name}=None" for name in others)])
        blank = " (or None: 0)" if others else ""
        first_output = text.program.graph.main.results[0].type
        word = "logits" if gives_logits(text.program.graph) else "values"
        out = f"{word} {legend(first_output)}" if text.results == 1 else "the outputs"
        logits = "[0]" if text.unit.has_state else ""
        lines = [
            f"def {self.dialect.method}(self, {optional}, pos=None):",
            f'    """{inputs} [B, T]{blank} to {out}. pos [B, T]: 0 where a packed document begins."""',
            "    if pos is None:",
            f"        pos = {self.positions}",
            *(line for name in others for line in (f"    if {name} is None:", f"        {name} = {self.zeros}")),
            f"    return self.run({inputs}, pos){logits}",
        ]
        if text.unit.has_state:
            lines += [
                "",
                f"def step(self, {inputs}, state):",
                '    """The next tokens [B, T] after a state (T >= 1): logits [B, T, vocab] and the new state."""',
                f'    pos = state["pos"][:, None] + {self.positions}',
                f"    logits, new = self.run({inputs}, pos, state)",
                '    return logits, new | {"pos": pos[:, -1] + 1}',
            ]
        return indented(lines)

    def run(self, text: ModelText) -> list[str]:
        """The model itself."""
        return self.method(text, "run", with_state(text, [*text.arguments, "pos"]), text.lines)

    def model_state(self, text: ModelText) -> list[str]:
        """The empty state of a model."""
        entries = [f'"pos": {self.no_tokens},', *(f'"{key}": {value},' for key, value in text.states)]
        for stack in text.stacks:
            if stack.has_state:
                given = ", ".join([*self.below_arguments, *(f"self.{n}" for n in stack.shared)])
                entries.append(f'"{stack.name}": {self.layers_state(stack, given)},')
        lines = [
            f"def init_state(self, {self.state_arguments}):",
            '    """The empty state of `batch` sequences of at most `context` tokens."""',
            "    return {",
            *indented(entries, 2),
            "    }",
        ]
        return indented(lines)

    @abstractmethod
    def layers_state(self, stack: StackText, given: str) -> str:
        """The empty states of the layers of a stack, which take the given arguments."""
