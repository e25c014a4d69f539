"""Every syntax error of a text: explain the first, take its statement out, read again."""

from __future__ import annotations

from lark import UnexpectedInput, UnexpectedToken

from archc.diagnostics import Diagnostic, Source, Span
from archc.text.grammar import parser
from archc.text.mistakes import explain
from archc.text.refusal import Mistake, Refusal
from archc.text.scan import Outline, blanks

MOST = 20
"""How many errors are reported at most; the text behind them is not read."""
_STUB = "fn a(){"


def syntax_errors(source: Source) -> tuple[Diagnostic, ...]:
    """The syntax errors of a text in their order; empty if it parses.

    Repairs never move anything: a statement becomes blanks, the head of a declaration becomes the head of an empty
    one, so the offsets that the parser reports stay offsets of the source.
    """
    text = source.text
    found: list[Diagnostic] = []
    while len(found) < MOST:
        try:
            parser().parse(text)
            break
        except UnexpectedInput as refused:
            outline = Outline(text)
            if len(outline.scraps) == 1:
                found += [] if found else [_nothing(source)]
                break
            mistake = explain(_refusal(source, outline, refused))
            if mistake.diagnostic in found:
                break
            found.append(mistake.diagnostic)
            repaired = _repair(outline, mistake)
            if repaired == text:
                break
            text = repaired
    return tuple(sorted(found, key=lambda d: d.span.start if d.span else 0))


def _nothing(source: Source) -> Diagnostic:
    return Diagnostic("E001", "the file declares nothing", Span(source, 0, 0), help="a spec needs a fn or a model")


def _refusal(source: Source, outline: Outline, refused: UnexpectedInput) -> Refusal:
    offset = refused.pos_in_stream
    ended = isinstance(refused, UnexpectedToken) and refused.token.type == "$END"
    at = len(outline.scraps) - 1 if ended or offset is None else outline.index(offset)
    state = getattr(refused, "interactive_parser", None)
    accepts = frozenset(state.accepts()) if state else frozenset()
    return Refusal(source, outline, at, accepts, state.parser_state.value_stack if state else ())


def _repair(outline: Outline, mistake: Mistake) -> str:
    """The text without the statement at fault."""
    text = outline.text
    if mistake.patch:
        offset, patch = mistake.patch
        return text[:offset] + patch + text[offset + len(patch) :]
    first = outline.start_of(mistake.drop)
    last = outline.end_of(first)
    start, end = outline.scraps[first].start, outline.scraps[last].end
    if outline.scraps[last].text == "{" and first != last:
        if end - start >= len(_STUB):
            return text[:start] + _STUB + blanks(text[start + len(_STUB) : end]) + text[end:]
        closing = outline.closing(last)
        end = outline.scraps[closing].end if closing else len(text)
    return text[:start] + blanks(text[start:end]) + text[end:]
