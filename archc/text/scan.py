"""A broken text in outline: its words and marks, where statements seem to begin, which brackets are open.

The parser cannot say this about a text that it refuses. Nothing here judges; it only finds what a message points at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

RESERVED = ("block", "fn", "frozen", "init", "input", "loop", "return", "shared", "size", "tied")
"""The words that open a statement of a body."""
TOP_LEVEL = ("encoder", "fn", "import", "model")
"""The words that open a declaration of a file."""
OPENERS = {")": "(", "]": "[", "}": "{"}
CLOSERS = {opener: closer for closer, opener in OPENERS.items()}

_SCRAP = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<string>"[^"\n]*")|(?P<open_string>"[^\n]*)
    |(?P<number>\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<word>[A-Za-z_]\w*)
    |(?P<mark>->|\.\.|[=!<>]=|[-+*/^@=<>,:(){}\[\]'])|(?P<unknown>[^\s])""",
    re.ASCII | re.VERBOSE,
)
_WANTS_MORE = {"+", "-", "*", "/", "^", "@", "=", ",", "->", ":", "==", "!=", "<", "<=", ">", ">=", "and", "or", "not"}


def blanks(text: str) -> str:
    """As many blanks, on as many lines."""
    return re.sub(r"[^\n]", " ", text)


@dataclass(frozen=True)
class Scrap:
    """A word, number, string, mark, unknown character or the end; `fresh` if it is the first on its line."""

    kind: str
    text: str
    start: int
    end: int
    fresh: bool

    @property
    def wants_more(self) -> bool:
        """Whether a value has to follow."""
        return self.text in _WANTS_MORE

    @property
    def ends_value(self) -> bool:
        """Whether a value may end here."""
        return self.kind in ("word", "number") or self.text in (")", "]", "'")


@dataclass(frozen=True)
class Outline:
    """The scraps of a text, the last of kind `end`."""

    text: str

    @cached_property
    def scraps(self) -> tuple[Scrap, ...]:
        """Everything but comments."""
        return tuple(self._scan())

    def _scan(self) -> Iterator[Scrap]:
        end = 0
        for found in _SCRAP.finditer(self.text):
            if found.lastgroup != "comment":
                fresh = end == 0 or "\n" in self.text[end : found.start()]
                yield Scrap(found.lastgroup or "", found[0], found.start(), found.end(), fresh)
                end = found.end()
        yield Scrap("end", "", end, end, True)

    def index(self, offset: int) -> int:
        """The scrap at an offset, or the next one."""
        return next((i for i, s in enumerate(self.scraps) if s.end > offset), len(self.scraps) - 1)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The scraps that begin a statement, or are a `}`, or are the end."""
        found: list[int] = []
        inside = 0
        for i, scrap in enumerate(self.scraps):
            if self._begins(i, inside > 0, self.scraps[found[-1]].text if found else ""):
                found.append(i)
                inside = 0
            inside += {"(": 1, "[": 1, ")": -1, "]": -1}.get(scrap.text, 0)
        return tuple(found)

    def _begins(self, i: int, inside: bool, statement: str) -> bool:
        """`inside` brackets, only what cannot be an argument begins one; `statement` is the first word before."""
        scrap, before = self.scraps[i], self.scraps[i - 1]
        if i == 0 or before.text in ("{", "}") or scrap.text == "}" or scrap.kind == "end":
            return True
        if not scrap.fresh or scrap.kind != "word" or scrap.text in ("and", "or", "not"):
            return False
        if inside:
            return before.text not in (",", "(", "[") and self._assigns(i)
        if before.text == ",":
            return statement == "return" and self._assigns(i)
        return not before.wants_more or self._assigns(i)

    def _assigns(self, i: int) -> bool:
        """Whether `name =`, `a, b =` or a reserved word and its object stand here."""
        after = self.scraps[i + 1]
        if self.scraps[i].text in {*RESERVED, *TOP_LEVEL}:
            return after.kind in ("word", "number", "string")
        while after.text == "," and self.scraps[i + 2].kind == "word":
            i += 2
            after = self.scraps[i + 1]
        return after.text == "="

    def start_of(self, i: int) -> int:
        """The scrap that begins the statement in which scrap `i` stands."""
        return max(s for s in self.starts if s <= i)

    def end_of(self, start: int) -> int:
        """The last scrap of the statement that begins at scrap `start`; of a declaration, its `{`."""
        return min((s for s in self.starts if s > start), default=len(self.scraps)) - 1

    def open_before(self, i: int, since: int = 0) -> list[int]:
        """The brackets of any kind opened since scrap `since` and still open before scrap `i`, innermost last."""
        pending: list[int] = []
        for k in range(since, i):
            text = self.scraps[k].text
            if text in CLOSERS:
                pending.append(k)
            elif pending and OPENERS.get(text) == self.scraps[pending[-1]].text:
                pending.pop()
        return pending

    def closing(self, opener: int) -> int | None:
        """The scrap that closes a brace, or None."""
        depth = 0
        for k in range(opener, len(self.scraps)):
            depth += {"{": 1, "}": -1}.get(self.scraps[k].text, 0)
            if depth == 0:
                return k
        return None

    def indent(self, i: int) -> int:
        """How far the line of a scrap is indented."""
        line = self.text[self.text.rfind("\n", 0, self.scraps[i].start) + 1 :]
        return len(line) - len(line.lstrip(" \t"))

    def misplaced_brace(self) -> tuple[int, int] | None:
        """The first `{` that indentation says was not closed, and the scrap before which its `}` is missing."""
        pending: list[int] = []
        for i, scrap in enumerate(self.scraps):
            closes = scrap.text == "}"
            if pending and scrap.fresh and i in self.starts:
                limit = self.indent(pending[-1])
                if self.indent(i) < limit + (not closes) or scrap.kind == "end":
                    return pending[-1], i
            if closes and pending:
                pending.pop()
            elif scrap.text == "{":
                pending.append(i)
        return None

    def early_brace(self, i: int) -> tuple[int, int] | None:
        """A `}` before scrap `i` that is indented deeper than its `{`, and that `{`: it seems to be one too many."""
        pending: list[int] = []
        for k in range(i):
            if self.scraps[k].text == "{":
                pending.append(k)
            elif self.scraps[k].text == "}" and pending:
                opener = pending.pop()
                if self.scraps[k].fresh and self.indent(k) > self.indent(opener):
                    return k, opener
        return None
