"""Attention with composed heads as a call of its kernel: queries, keys, values, and what the compositions read.

Everything is handed over with its heads as one axis, the last one of tokens and weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from archc.emit.attend import scale_text
from archc.emit.body import Body
from archc.emit.bundles import parts
from archc.emit.calls import weight_of
from archc.emit.code import Code
from archc.emit.gated import constant, stem_of
from archc.emit.kernels import COMPOSED
from archc.emit.layout import indexed, transposed
from archc.emit.mixes import Mix, Mixes, work
from archc.emit.pairs import axis_by_axis
from archc.fuse.composed import Composition
from archc.fuse.mixing import Handed, Mixing
from archc.ir.graph import Kind, Type, Value

Heads = Sequence[tuple[str, int]]
"""What a value calls the axes of the heads that it has, each with its place among them."""


def read_of_queries(found: Composition) -> frozenset[Value]:
    """The tokens of queries that the kernel is handed."""
    return frozenset([found.query, *(h.value for h in found.handed if h.side == "queries")])


def composed_attention(
    body: Body, end: Value, found: Composition, program: str, pairs: Sequence[Value], reach: Mapping[str, Code]
) -> Code:
    """The call, and the result with its own axes."""
    tokens = _Tokens.of(body, pairs)
    target = body.temporary(end, "y")
    stem = stem_of(body, target)
    before, after = (
        None if mixing is None else _mix(place, mixing, tokens)
        for place, mixing in (("before", found.before), ("after", found.after))
    )
    mixes = body.mixes[stem] = Mixes(before, after)
    places = [(n, i) for i, n in enumerate(found.heads)]
    made = [(n, i) for i, n in enumerate(found.made)]
    q, k = (
        _grouped(body, tokens.code(side, token), token, [], places, found.over, found, full=True)
        for side, token in (("queries", found.query), ("keys", found.key))
    )
    v = _grouped(body, tokens.code("keys", found.value), found.value, [], made, found.values, found, full=True)
    if not found.values:
        v = Code(f"{v.atom}[..., None]")
    named = []
    if handed := [t for m in mixes.found for t in tokens.spelled(body, m, found)]:
        named.append(f"tokens={_row(handed)}")
    if weights := [_weight(body, h) for m in mixes.found for h in m.handed if not h.side]:
        named.append(f"weights={_row(weights)}")
    named.append(f"scale={scale_text(body, found.start, found.scores).text}")
    named += [f"{name}={code.text}" for name, code in reach.items()]
    arguments = [program, constant(stem), q.text, k.text, v.text, "keys", *named]
    body.line(f"{target} = {body.kernel(COMPOSED)}({', '.join(arguments)})", end)
    if len(found.made) > 1 or len(found.values) != 1:
        body.lines[-1] = body.lines[-1].split("  # ")[0]
        sizes = [body.size(a.name, a.size).text for a in end.type.axes]
        body.line(f"{target} = {body.dialect.reshape_tail(Code(target), sizes).text}", end)
    body.bind(end, target)
    return Code(target)


def _mix(place: str, mixing: Mixing, tokens: _Tokens) -> Mix:
    """A composition with its tokens in the order in which they are handed over."""
    place_of = {token: i for i, token in enumerate(tokens.codes)}
    order = sorted(mixing.handed, key=lambda h: place_of.get((h.side, h.value), len(place_of)))
    where: Literal["before", "after"] = "before" if place == "before" else "after"
    return Mix(where, mixing, tuple(order), work(mixing))


# --- tokens ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Where a program finds the tokens that its pairs lift: their code, by side and token, in the order in which they
    are handed over; `whole` are the bundles that hold tokens alone, by name."""

    codes: Mapping[tuple[str, Value], Code]
    whole: Mapping[str, tuple[tuple[str, Value], ...]]

    @staticmethod
    def of(body: Body, pairs: Sequence[Value]) -> _Tokens:
        """Those of the unit itself, then those of the bundles of the fns that it calls."""
        codes: dict[tuple[str, Value], Code] = {}
        for value in pairs:
            if value.op == "queries" and value.operands[0].op != "pos":
                codes.setdefault(("queries", value.operands[0]), body.render(value.operands[0]))
            if value.op == "keys" and value.operands[0].op != "pos":
                codes.setdefault(("keys", value.operands[0]), Code(body.remembered(value)))
        whole: dict[str, tuple[tuple[str, Value], ...]] = {}
        for node, name in body.bundles.items():
            found = list(parts(body.call.calls[node], body.units))
            if all(len(at) == 1 for _, _, at in found):
                whole[name] = tuple((side, token) for side, token, _ in found)
            for side, token, at in found:
                codes.setdefault((side, token), Code(name + "".join(f"[{i}]" for i in at)))
        return _Tokens(codes, whole)

    def code(self, side: str, token: Value) -> Code:
        """A token, or what is remembered of it."""
        return self.codes[side, token]

    def spelled(self, body: Body, mix: Mix, found: Composition) -> list[str]:
        """The tokens of a composition; those of a bundle together where they are all that it holds, as they are."""
        handed = [h for h in mix.handed if h.side]
        texts = [self._text(body, h, found) for h in handed]
        out: list[str] = []
        while handed:
            bundle = next((n for n, held in self.whole.items() if self._starts(n, held, handed, texts)), None)
            out.append(texts[0] if bundle is None else f"*{bundle}")
            count = 1 if bundle is None else len(self.whole[bundle])
            handed, texts = handed[count:], texts[count:]
        return out

    def _starts(
        self, name: str, held: tuple[tuple[str, Value], ...], handed: Sequence[Handed], texts: Sequence[str]
    ) -> bool:
        """Whether all that a bundle holds comes first."""
        same = tuple((h.side, h.value) for h in handed[: len(held)]) == held
        return same and list(texts[: len(held)]) == [f"{name}[{i}]" for i in range(len(held))]

    def _text(self, body: Body, handed: Handed, found: Composition) -> str:
        """A token as [B, T or S, *planes, heads or 1]."""
        code = self.code(handed.side, handed.value)
        return _grouped(body, code, handed.value, handed.planes, handed.heads, (), found).text


def _grouped(
    body: Body,
    code: Code,
    value: Value,
    before: Sequence[str],
    heads: Heads,
    after: Sequence[str],
    found: Composition,
    *,
    full: bool = False,
) -> Code:
    """A token as [B, T or S, *before, heads or 1, after]; `full`: repeated for heads that it lacks."""
    mine = {place: name for name, place in heads if name in value.names}
    order = [*before, *(mine[p] for p in sorted(mine)), *after]
    if list(value.names) != order:
        code = transposed(code, value, order, body.dialect)
    missing = [i for i in range(len(found.heads)) if i not in mine]
    if missing and (mine or full):
        index = [*(":" for _ in before), *(":" if i in mine else "None" for i in range(len(found.heads)))]
        code = indexed(code, ["...", *index, *(":" for _ in after)], False)
        sizes = value.type.sizes
        heads_of = [body.size(n, found.scores.type.sizes[n]) for n in found.heads]
        shape = [*(body.size(n, sizes[n]) for n in before), *heads_of, *(body.size(n, sizes[n]) for n in after)]
        code = body.dialect.over_time(code, code, shape)
    elif missing:
        code = indexed(code, ["...", "None", *(":" for _ in after)], False)
    if not missing or mine or full:
        code = body.dialect.flatten(code, len(found.heads), len(after)) if len(found.heads) > 1 else code
    return body.dialect.flatten(code, len(after)) if len(after) > 1 else code


# --- weights -----------------------------------------------------------------------------------------


def _weight(body: Body, handed: Handed) -> str:
    """A weight as [*planes, heads or 1] or [heads, heads]."""
    value = handed.value
    code = weight_of(body, value) if value.op == "weight" else body.render(value)
    order = [*handed.planes, *(n for each in (handed.heads, handed.made) for n, _ in sorted(each, key=lambda h: h[1]))]
    code = axis_by_axis(body, value, code)
    if list(value.names) != order:
        plain = Value(-1, "param", (), Type(Kind.WEIGHT, value.type.axes))
        code = Code(f"{code.atom}.T") if len(order) == 2 else transposed(code, plain, order, body.dialect)
    for part, after in ((handed.made, 0), (handed.heads, 1 if handed.made else 0)):
        if len(part) > 1:
            code = body.dialect.flatten(code, len(part), after)
    return code.text if handed.heads else f"{code.atom}[..., None]"


def _row(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
