"""What other languages, and keyboards, write where a spec says something else."""

from __future__ import annotations

WORDS = {
    "if": "there are no conditionals: choose values with where(condition, a, b)",
    "for": "there are no loops over layers: repeat blocks with stack(x, depth, [...]); steps of time with loop",
    "while": "steps of time are written with loop",
    "def": "write 'fn'",
    "class": "write 'model' or 'block'",
    "let": "write 'name = value'",
    "pass": "leave the body empty",
}
"""At the beginning of a statement."""
BETWEEN = {
    "if": "there are no conditionals: choose values with where(condition, a, b)",
    "else": "there are no conditionals: choose values with where(condition, a, b)",
    "lambda": "declare a fn, inside of this body if need be, and give its name",
    "is": "write '=='",
    "in": "compare each, joined by 'or'",
}
"""Inside of expressions, where an operator is missing beside them."""

_PROJECTION = "a projection is x @ W[made], or x @ W[contracted -> made]; a bias is + b[made]"
_ARRANGED = "axes have names: split(x, a -> b c), merge(x, a b -> c), and nothing is transposed"
_NOT_REPEATED = "axes join by name, so nothing is repeated: a value without an axis meets those that have it"
_JOINED = "write join(a, b, one two -> whole), or join(a, b, -> new) along a new axis"
CALLS = {
    "linear": _PROJECTION,
    "dense": _PROJECTION,
    "matmul": _PROJECTION,
    "einsum": "axes have names: dot(a, b, over = axis) for values, x @ W[contracted -> made] for a weight",
    "embedding": "a table is looked up as E[vocab width](tokens)",
    "reshape": _ARRANGED,
    "view": _ARRANGED,
    "rearrange": _ARRANGED,
    "transpose": _ARRANGED,
    "repeat": _NOT_REPEATED,
    "expand": _NOT_REPEATED,
    "cat": _JOINED,
    "concat": _JOINED,
    "concatenate": _JOINED,
    "chunk": "write a, b = cut(x, whole -> one two)",
    "conv1d": "write conv(x, w[taps = 4 width])",
    "roll": "write prev(x)",
    "shift": "write prev(x)",
    "swish": "write silu(x)",
    "pow": "write x ^ p",
    "square": "write x ^ 2",
    "clamp": "write clip(x, low, high)",
    "topk": "write top(x, k, over = axis): true at the k largest",
    "dropout": "there is no dropout, as an equation has no randomness but that of its initial values",
}
"""Functions of libraries, where a spec has other words."""

_CHARACTERS = {
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "write 'not' or '!='",
    "~": "write 'not'",
    ";": "start a new line",
    ".": "values have no attributes and functions no modules: write f(x); axes have names, so nothing is transposed",
    "%": "write the number itself, 0.1 for 10 percent",
    "\N{NO-BREAK SPACE}": "write a plain space",
    "\N{SUPERSCRIPT TWO}": "write '^ 2'",
    "\N{SUPERSCRIPT THREE}": "write '^ 3'",
    "\N{SQUARE ROOT}": "write 'sqrt(...)'",
}
_ALIKE = {
    "*": "\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}\N{DOT OPERATOR}\N{ASTERISK OPERATOR}",
    "-": "\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{HYPHEN}\N{NON-BREAKING HYPHEN}",
    "/": "\N{DIVISION SIGN}\N{DIVISION SLASH}\N{FRACTION SLASH}",
    '"': "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}",
    "'": "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{PRIME}",
    "->": "\N{RIGHTWARDS ARROW}\N{RIGHTWARDS DOUBLE ARROW}",
    "<=": "\N{LESS-THAN OR EQUAL TO}",
    ">=": "\N{GREATER-THAN OR EQUAL TO}",
    "!=": "\N{NOT EQUAL TO}",
}


def instead_of(character: str) -> str:
    """What to write for a character that no spec has; nothing where that cannot be guessed.

    >>> [instead_of(c) for c in "&;ü$"]
    ["write 'and'", 'start a new line', 'names are made of a to z, A to Z, digits and _', '']
    """
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isalpha():
        return "names are made of a to z, A to Z, digits and _"
    return next((f"write '{plain}'" for plain, alike in _ALIKE.items() if character in alike), "")
