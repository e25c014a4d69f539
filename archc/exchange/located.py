"""A JSON file as values that know where they stand, so that a message can point at one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from re import compile
from typing import Any

from archc.diagnostics import Source, Span, error

_SPACE = compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Located:
    """A value of a file and where it stands, its key included; `members` are those of an object, else None.

    Numbers are exact: whole ones int, others Fraction; infinities are floats.
    """

    value: Any
    span: Span
    members: Mapping[str, Located] | None = None


def read_json(source: Source) -> Located:
    """The object that a file holds. `ArchError` E702 where it is no JSON, or no object."""
    try:
        start = _after_space(source.text, 0)
        found, end = _value(source, start, start)
        end = _after_space(source.text, end)
        if end != len(source.text):
            raise json.JSONDecodeError("something after the end", source.text, end)
    except json.JSONDecodeError as why:
        place = Span(source, min(why.pos, max(len(source.text) - 1, 0)), why.pos + 1)
        raise error("E702", f"'{source.name}' is no JSON: {why.msg[0].lower()}{why.msg[1:]}", place) from None
    if found.members is None:
        raise error("E702", f"'{source.name}' holds no object", found.span)
    return found


def _value(source: Source, start: int, key: int) -> tuple[Located, int]:
    """The value at `start` and the offset behind it; its span begins at `key`."""
    if source.text[start : start + 1] == "{":
        members, end = _members(source, start + 1)
        value = _special({name: each.value for name, each in members.items()})
        if not isinstance(value, dict):
            return Located(value, Span(source, key, end)), end
        return Located(value, Span(source, key, end), members), end
    value, end = _DECODER.raw_decode(source.text, start)
    return Located(value, Span(source, key, end)), end


def _members(source: Source, at: int) -> tuple[dict[str, Located], int]:
    """The members of an object whose brace stands before `at`, and the offset behind its end."""
    text = source.text
    found: dict[str, Located] = {}
    at = _after_space(text, at)
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("a name in double quotes is missing", text, at)
        name, end = _DECODER.raw_decode(text, at)
        if name in found:
            raise json.JSONDecodeError(f"'{name}' stands there twice", text, at)
        colon = _after_space(text, end)
        if text[colon : colon + 1] != ":":
            raise json.JSONDecodeError("':' is missing", text, colon)
        found[name], end = _value(source, _after_space(text, colon + 1), at)
        at = _after_space(text, end)
        if text[at : at + 1] == "}":
            return found, at + 1
        if text[at : at + 1] != ",":
            raise json.JSONDecodeError("',' is missing", text, at)
        at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _special(value: dict[str, Any]) -> Any:
    """transformers writes what JSON has no number for as `{"__float__": "Infinity"}`."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


_DECODER = json.JSONDecoder(parse_float=Fraction, object_hook=_special)
