"""What a syntax error is, in the user's words: one small rule per kind of mistake, the first that fits speaks."""

from __future__ import annotations

from collections.abc import Callable

from archc.diagnostics import Diagnostic, Span, closest
from archc.text.foreign import BETWEEN, WORDS, instead_of
from archc.text.refusal import Mistake, Refusal
from archc.text.scan import CLOSERS, OPENERS, RESERVED, TOP_LEVEL, blanks

Rule = Callable[[Refusal], Mistake | None]


def explain(refusal: Refusal) -> Mistake:
    """The mistake behind a refusal."""
    for rule in _RULES:
        if found := rule(refusal):
            return found
    return _unexpected(refusal)


# --- characters --------------------------------------------------------------------------------------


def _unknown_character(r: Refusal) -> Mistake | None:
    if r.token.kind == "open_string":
        return Mistake(Diagnostic("E003", "the string does not end on its line", r.span(r.at)), r.at)
    if r.token.kind != "unknown":
        return None
    text = r.token.text
    after = r.outline.scraps[r.at + 1]
    number = text == "." and after.kind == "number" and after.start == r.token.end
    hint = f"write '0.{after.text}'" if number else instead_of(text)
    shown = f"'{text}'" if text.isprintable() else f"U+{ord(text):04X}"
    return Mistake(Diagnostic("E002", f"unknown character {shown}", r.span(r.at), help=hint), r.at)


# --- brackets ----------------------------------------------------------------------------------------


def _bracket_left_open(r: Refusal) -> Mistake | None:
    """A statement begins, or the body ends, while a parenthesis of the line before is open."""
    pending = r.outline.open_before(r.at)
    if not pending or pending[-1] >= r.start or r.outline.scraps[pending[-1]].text == "{":
        return None
    last = r.outline.end_of(r.outline.start_of(pending[-1]))
    closer = CLOSERS[r.outline.scraps[pending[-1]].text]
    found = Diagnostic("E004", f"'{closer}' is missing", r.behind(last), (r.opened(pending[-1]),))
    return Mistake(found, last)


def _wrong_closer(r: Refusal) -> Mistake | None:
    """A bracket meets one of another kind, or none."""
    if r.token.text not in (")", "]", "{"):
        return None
    pending = r.outline.open_before(r.at, r.start)
    opener = r.outline.scraps[pending[-1]].text if pending else ""
    if not pending and r.token.text != "{":
        return Mistake(Diagnostic("E005", f"'{r.token.text}' closes nothing", r.span(r.at), help="remove it"), r.at)
    if not pending or opener == OPENERS.get(r.token.text):
        return None
    if r.token.text == "{":
        found = Diagnostic("E004", f"'{CLOSERS[opener]}' is missing", r.behind(r.at - 1), (r.opened(pending[-1]),))
    else:
        message = f"'{r.token.text}' does not close '{opener}'"
        found = Diagnostic("E005", message, r.span(r.at), (r.opened(pending[-1]),), f"write '{CLOSERS[opener]}'")
    return Mistake(found, r.at)


def _brace_left_open(r: Refusal) -> Mistake | None:
    """The file ends, or a declaration of a file comes, while a body is open."""
    ends = r.token.kind == "end" and "RBRACE" in r.accepts
    declares = r.at - 1 == r.start and r.outline.scraps[r.start].text in ("model", "encoder", "import")
    place = r.outline.misplaced_brace() if ends or declares else None
    if not place or place[1] > r.at:
        return None
    opener, missing = place
    found = Diagnostic("E004", "'}' is missing", r.behind(missing - 1), (r.opened(opener),))
    return Mistake(found, missing - 1, _written_behind(r, missing - 1, "}"))


def _written_behind(r: Refusal, i: int, closer: str) -> tuple[int, str]:
    """The patch that writes a closer behind a scrap; an empty one, which ends the reading, if there is no room."""
    end, after = r.outline.scraps[i].end, r.outline.scraps[i + 1]
    room = after.text == "}" or after.kind == "end" or "\n" in r.outline.text[end + 1 : after.start]
    return (end, closer) if room else (0, "")


def _brace_closes_nothing(r: Refusal) -> Mistake | None:
    """A `}` or a statement stands outside, perhaps because a body was closed too early."""
    if "RBRACE" in r.accepts or r.at != r.start or r.outline.open_before(r.at) or r.token.text in TOP_LEVEL:
        return None
    if early := r.outline.early_brace(r.at):
        brace, opener = early
        message = "this '}' is one too many: it stands deeper than the '{' that it closes"
        return Mistake(
            Diagnostic("E005", message, r.span(brace), (r.opened(opener),)), r.at, (r.span(brace).start, " ")
        )
    if r.token.text == "}":
        found = Diagnostic("E005", "'}' closes nothing", r.span(r.at), help="remove it")
        return Mistake(found, r.at, _to_next_declaration(r))
    return None


def _to_next_declaration(r: Refusal) -> tuple[int, str]:
    """The patch that drops what stands outside: what follows up to the next declaration has the same cause."""
    scraps = r.outline.scraps
    end = next((scraps[i].start for i in r.outline.starts if i > r.at and scraps[i].text in TOP_LEVEL), scraps[-1].end)
    return r.token.start, blanks(r.outline.text[r.token.start : end])


# --- values ------------------------------------------------------------------------------------------


def _missing_value(r: Refusal) -> Mistake | None:
    """A line ends in an operator and a statement follows, or two operators meet."""
    first, last = r.start, r.start - 1
    scraps = r.outline.scraps
    alone = last in r.outline.starts and scraps[last].text in RESERVED
    if first and (alone or scraps[last].wants_more):
        message = f"a value is missing after '{scraps[last].text}'"
        return Mistake(Diagnostic("E006", message, r.behind(last)), last)
    if "NUMBER" not in r.accepts or not r.before or not r.before.wants_more:
        return None
    if r.token.kind == "string":
        hint = "only the file of an import stands in quotes"
        return Mistake(Diagnostic("E013", f"expected a value, found '{r.token.text}'", r.span(r.at), help=hint), r.at)
    if r.before.text == "*" and r.token.text == "*":
        return Mistake(Diagnostic("E006", "a power is written '^'", r.span(r.at - 1).to(r.span(r.at))), r.at)
    twice = {"=": "remove one '='; a comparison is written '=='", "/": "comments begin with '#'"}
    hint = twice.get(r.token.text, "") if r.before.text == r.token.text else ""
    message = f"a value is missing between '{r.before.text}' and '{r.token.text}'"
    return Mistake(Diagnostic("E006", message, r.span(r.at), help=hint), r.at)


def _product_before_at(r: Refusal) -> Mistake | None:
    """`a * x @ W`: both readings are sensible, so neither is taken."""
    if r.token.text != "@" or len(r.stack) < 3 or getattr(r.stack[-2], "type", "") not in ("STAR", "SLASH"):
        return None
    meta = r.stack[-3].meta
    start = getattr(meta, "container_start_pos", meta.start_pos)
    end = r.outline.scraps[r.at - 1].end
    product = " ".join(r.outline.text[start:end].split())
    after = r.outline.scraps[r.at + 1]
    weight = f"{after.text}[...]" if after.kind == "word" else "W[...]"
    message = "'@' after a product needs parentheses"
    span = Span(r.source, start, r.token.end)
    return Mistake(Diagnostic("E007", message, span, help=f"write ({product}) @ {weight}"), r.at)


def _chained_comparison(r: Refusal) -> Mistake | None:
    if r.token.text not in ("==", "!=", "<", "<=", ">", ">=") or "PLUS" not in r.accepts:
        return None
    middle = r.before.text if r.before and r.before.kind in ("word", "number") else "..."
    found = Diagnostic(
        "E012", "comparisons do not chain", r.span(r.at), help=f"write '... and {middle} {r.token.text} ...'"
    )
    return Mistake(found, r.at)


def _side_by_side(r: Refusal) -> Mistake | None:
    """Two values without an operator or a comma between them; in a call the parser took them for axes."""
    i = r.at - 1 if "_ARROW" in r.accepts and "NUMBER" not in r.accepts else r.at
    left, right = r.outline.scraps[i - 1], r.outline.scraps[i]
    if i == r.at and (i in r.outline.starts or not r.accepts & {"_NL", "RBRACE", "PLUS", "RPAR", "RSQB"}):
        return None
    if "EQUAL" in r.accepts or right.text in RESERVED or not (left.ends_value and right.kind in ("word", "number")):
        return None
    inside, named = r.outline.open_before(i, r.start), r.outline.scraps[i + 1].text == "="
    between = "','" if inside and named else "',' or an operator" if inside else "an operator"
    hint = f"write '{left.text} * {right.text}'" if (left.kind, right.kind) == ("number", "word") else ""
    hint = f"write '{left.text}, {right.text} = ...'" if inside and named else hint
    hint = BETWEEN.get(right.text) or BETWEEN.get(left.text) or hint
    message = f"{between} is missing between '{left.text}' and '{right.text}'"
    return Mistake(Diagnostic("E011", message, r.span(i), help=hint), r.at)


def _no_weight(r: Refusal) -> Mistake | None:
    """`x @ y`: what stands behind @ must be a weight with its axes."""
    back = next((i for i in (r.at - 1, r.at - 2) if i >= 0 and r.outline.scraps[i].text == "@"), None)
    if back is None:
        return None
    name = r.outline.scraps[back + 1]
    hint = f"write '@ {name.text}[...]'" if name.kind == "word" else "write '@ W[...]'"
    if r.outline.scraps[back - 1].text == "]":  # W[a b] @ x, as with column vectors
        hint = "the weight stands on the right: x @ W[contracted -> made]"
    return Mistake(Diagnostic("E013", "'@' takes a weight with its axes", r.span(back + 1), help=hint), back)


def _number_for_axis(r: Refusal) -> Mistake | None:
    """`x[0]`, `W[width -> 10]`: brackets hold names."""
    if r.token.kind != "number" or "NAME" not in r.accepts or "NUMBER" in r.accepts:
        return None
    opener = r.outline.open_before(r.at, r.start)
    if not opener or r.outline.scraps[opener[-1]].text != "[":
        return None
    hint = f"write '[axis = {r.token.text}]' to declare one, pick(x, axis = {r.token.text}) for an element"
    message = f"an axis has a name, and '{r.token.text}' is none"
    return Mistake(Diagnostic("E013", message, r.span(r.at), help=hint), r.at)


def _prime(r: Refusal) -> Mistake | None:
    found = Diagnostic("E013", "only axes in brackets and beside '->' have primes", r.span(r.at))
    return Mistake(found, r.at) if r.token.text == "'" else None


# --- statements --------------------------------------------------------------------------------------


def _unknown_statement(r: Refusal) -> Mistake | None:
    """A line begins with a word that is neither assigned nor reserved."""
    outside = "FN" in r.accepts and "RBRACE" not in r.accepts and r.at == r.start
    first = r.outline.scraps[r.at if outside else r.at - 1]
    if first.kind != "word" or not (outside or r.accepts == {"COMMA", "EQUAL"}) or r.token.kind == "end":
        return None
    i = r.at if outside else r.at - 1
    if first.text in WORDS:
        return Mistake(Diagnostic("E008", f"unknown statement '{first.text}'", r.span(i), help=WORDS[first.text]), i)
    if first.text in ("model", "encoder", "import"):
        return Mistake(Diagnostic("E009", f"'{first.text}' stands at the top of a file only", r.span(i)), i)
    near = closest(first.text, TOP_LEVEL if outside else RESERVED)
    follows = r.outline.scraps[i + 1]
    if near and follows.kind in ("word", "number", "string") and not follows.fresh:
        return Mistake(Diagnostic("E008", f"unknown statement '{first.text}'; {near}", r.span(i)), i)
    if outside:
        hint = "" if first.text != "block" else "a block belongs to the body of a model"
        found = Diagnostic("E009", f"'{first.text}' stands outside of every body", r.span(i), help=hint)
        return Mistake(found, i, _to_next_declaration(r))
    return None


def _unnamed_value(r: Refusal) -> Mistake | None:
    """A line computes something and does not say what it is called."""
    i = r.at - 1
    name = r.outline.scraps[i].text
    if r.token.text == "==" and i == r.start:
        message = "'==' compares, '=' gives a name"
        return Mistake(Diagnostic("E010", message, r.span(r.at), help=f"write '{name} = ...'"), i)
    if r.accepts != {"COMMA", "EQUAL"}:
        return None
    if r.token.kind == "word" and not r.token.fresh:
        message = f"unknown statement '{name}'"
        return Mistake(Diagnostic("E008", message, r.span(i), help=f"write '{name} = ...'"), i)
    if r.token.text in ("+", "-", "*", "/", "^") and r.outline.scraps[r.at + 1].text == "=":
        hint = f"write '{name} = {name} {r.token.text} ...'"
        span = r.span(r.at).to(r.span(r.at + 1))
        return Mistake(Diagnostic("E010", f"'{r.token.text}=' does not exist", span, help=hint), i)
    return Mistake(Diagnostic("E010", "the value of this line has no name", r.span(i), help="write 'name = ...'"), i)


# --- everything else ---------------------------------------------------------------------------------

_EXPECTED = {
    "NAME": "a name",
    "SIZE": "the name of a size",
    "STRING": "a file name in quotes",
    "EQUAL": "'='",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "COMMA": "','",
    "COLON": "':'",
    "_NL": "a new line",
}


def _unexpected(r: Refusal) -> Mistake:
    """None of the usual mistakes: say what could have stood here."""
    accepts = r.accepts - {"RBRACE"} if "_NL" in r.accepts else r.accepts
    names = ["a value"] if "NUMBER" in accepts else [word for key, word in _EXPECTED.items() if key in accepts]
    wanted = " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
    before = r.token.start - 1
    begins = r.at == r.start
    if begins and not r.accepts & {"_NL", "RBRACE", "FN"}:
        message = f"expected {wanted} after '{r.outline.scraps[r.at - 1].text}'"
        patch = (before, "{") if r.accepts == {"LBRACE"} and r.outline.text[before].isspace() else None
        return Mistake(Diagnostic("E013", message, r.behind(r.at - 1)), r.at - 1, patch)
    patch = (before, "\n") if begins and "_NL" in r.accepts and r.outline.text[before].isspace() else None
    return Mistake(Diagnostic("E013", f"expected {wanted}, found '{r.token.text}'", r.span(r.at)), r.at, patch)


_RULES: tuple[Rule, ...] = (
    _unknown_character,
    _bracket_left_open,
    _wrong_closer,
    _brace_left_open,
    _brace_closes_nothing,
    _missing_value,
    _product_before_at,
    _chained_comparison,
    _unknown_statement,
    _unnamed_value,
    _no_weight,
    _number_for_axis,
    _prime,
    _side_by_side,
)
