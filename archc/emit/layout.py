"""Named axes to positions: the order in which arrays hold them, and how one array is brought beside another."""

from __future__ import annotations

from collections.abc import Iterable

from archc.emit.code import Code
from archc.emit.dialect import Dialect
from archc.ir.graph import Kind, Type, Value

LEAD = {Kind.WEIGHT: (), Kind.SEQ: ("B",), Kind.TOKEN: ("B", "T"), Kind.PAIR: ("B",)}
TAIL = {Kind.WEIGHT: (), Kind.SEQ: (), Kind.TOKEN: (), Kind.PAIR: ("T", "S")}
LETTERS = "acdefghijklmnopqrsuvwxy"


def letters(names: Iterable[str], avoid: str = "btz") -> dict[str, str]:
    """A letter for each axis: one of its own name if it can be had."""
    out: dict[str, str] = {}
    for name in names:
        own = [c for c in name.lower() if c.isalpha() and c not in avoid]
        out[name] = next(c for c in (*own, *LETTERS) if c not in out.values() and c not in avoid)
    return out


def legend(kind: Type) -> str:
    """The axes of an array as a comment: `[B, T, heads, dim]`."""
    names = [n.rstrip("'") if n.endswith("'") else n for n in kind.names]
    return f"[{', '.join([*LEAD[kind.kind], *names, *TAIL[kind.kind]])}]"


def axis_of(value: Value, name: str) -> int:
    """The place of an axis in the array, counted from the end."""
    return value.names.index(name) - len(value.names) - len(TAIL[value.kind])


def reindex(code: Code, value: Value, target: Type, dialect: Dialect) -> Code:
    """The array with the axes of `target`, so that broadcasting joins them: missing axes become 1, order is put
    right."""
    have = [n for n in target.names if n in value.names]
    if list(value.names) != have:
        code = transposed(code, value, have, dialect)
    inside = [":" if n in value.names else "None" for n in target.names]
    tail = [":"] * len(TAIL[target.kind])
    if value.kind is Kind.TOKEN or value.kind is target.kind:
        parts = ["...", *inside, *tail] if value.kind is not Kind.WEIGHT else inside
    elif value.kind is Kind.SEQ:
        parts = [":", "None", *inside]
    else:
        parts = [*inside, *(["None"] * len(tail) if value.names else [])]
    return indexed(code, parts, value.kind is Kind.WEIGHT)


def indexed(code: Code, parts: list[str], weight: bool) -> Code:
    """`code[parts]`, or just `code` where the index would change nothing."""
    if weight:
        while parts and parts[0] == "None":
            parts = parts[1:]
    if all(p in (":", "...") for p in parts):
        return code
    if parts[0] == "...":
        rest = parts[1:]
        while rest and rest[0] == ":":
            rest = rest[1:]
        parts = ["...", *rest] if len(rest) < len(parts) - 1 or "None" in rest else parts
        if rest and all(p == ":" for p in rest):
            return code
    elif parts[0] == ":" and "None" in parts:
        rest = list(parts)
        while rest and rest[0] == ":":
            rest = rest[1:]
        if all(p == "None" for p in rest):
            parts = ["...", *rest]
    if parts[0] == "..." and parts[1:] and parts[1] == "None":
        # a missing leading axis still broadcasts if nothing stands before it
        pass
    return Code(f"{code.atom}[{', '.join(parts)}]")


def transposed(code: Code, value: Value, order: list[str], dialect: Dialect) -> Code:
    """The array with its feature axes in another order."""
    assert set(order) == set(value.names), f"{value.names} cannot be put in the order {order}"
    letter = letters(value.names)
    before = "".join(letter[n] for n in value.names)
    after = "".join(letter[n] for n in order)
    if value.kind is Kind.PAIR:
        return dialect.einsum(f"b{before}tz->b{after}tz", code)
    return dialect.einsum(f"...{before}->...{after}", code)
