"""Pair programs within buckets: the program takes its tokens as arguments, for it runs on tiles of sorted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archc.emit.body import Body
from archc.emit.code import Code
from archc.emit.kernels import SORTED
from archc.emit.lifted import lifted, name_queries
from archc.ir.graph import Value
from archc.passes.buckets import Buckets


@dataclass(frozen=True, eq=False)
class BucketProgram:
    """The names of what a program reads: tokens of queries, remembered tokens, the buckets of either side; `same`:
    whether the tokens of a pair meet."""

    same: str
    queries: tuple[str, ...]
    tokens: tuple[str, ...]
    buckets: tuple[str, str]

    @property
    def parameters(self) -> list[str]:
        """Those of the program."""
        return ["rows", self.same, *self.queries, *self.tokens]


def name_tokens(body: Body, pairs: Sequence[Value], found: Buckets) -> None:
    """Lines for what is handed over and has no name yet."""
    name_queries(body, pairs, {found.bucket, *lifted("queries", found.pairs)})


def bucket_program(body: Body, pairs: Sequence[Value], keys: Mapping[Value, str], found: Buckets) -> BucketProgram:
    """The names, in the order in which the pairs lift their tokens; `keys`: those of remembered tokens, by lift."""
    inside = [v for v in pairs if v in found.pairs]
    same = next(n for n in ("same", *(f"same_{i}" for i in range(2, 9))) if n not in body.taken)
    kept = dict.fromkeys(keys[v] for v in inside if v in keys)
    bucket = next(keys[v] for v in pairs if v.op == "keys" and v.operands[0] is found.bucket)
    queries = [body.render(token).text for token in lifted("queries", inside)]
    return BucketProgram(same, tuple(queries), tuple(kept), (body.render(found.bucket).text, bucket))


def over_buckets(
    body: Body, end: Value, found: Buckets, name: str, program: BucketProgram, reach: Mapping[str, Code]
) -> Code:
    """The call of the kernel."""
    named = [*(["rounds=True"] if found.rounds else []), *(f"{key}={code.text}" for key, code in reach.items())]
    rows = [_row(each) for each in (program.buckets, program.queries, program.tokens)]
    target = body.temporary(end, "y")
    body.line(f"{target} = {body.kernel(SORTED)}({', '.join([name, 'keys', *rows, *named])})", end)
    body.bind(end, target)
    return Code(target)


def _row(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
