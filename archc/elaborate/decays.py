"""Which names feed a decay: what they stand for is computed in single precision.

0.999 rounds to 1 in bfloat16, and a decay that was rounded never forgets. So the whole element-wise way from the
projections to the decay of a scan is an island of single precision, as if the spec had said fp32(...) on every line.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from archc.elaborate import statements
from archc.ops.pointwise import UNARY
from archc.text import ast

ELEMENTWISE = frozenset({*UNARY, "min", "max", "clip", "where", "complex", "real", "imag", "fp32", "prev"})


@lru_cache(maxsize=512)
def feeders(body: tuple[ast.Stmt, ...]) -> frozenset[str]:
    """The names bound in a body whose values reach the decay of a scan element by element."""
    lets = {t.text: s.value for s in body if isinstance(s, ast.Let) and len(s.targets) == 1 for t in s.targets}
    found: set[str] = set()
    todo = [name for decay in _decays(body) for name in _names(decay)]
    while todo:
        name = todo.pop()
        if name in lets and name not in found:
            found.add(name)
            todo += _names(lets[name])
    return frozenset(found)


def _decays(body: tuple[ast.Stmt, ...]) -> Iterator[ast.Expr]:
    for node in statements.nodes(body):
        if isinstance(node, ast.Call) and node.callee.text in ("scan", "maxscan"):
            for arg in node.args:
                if arg.name is not None and arg.name.text == "decay" and isinstance(arg.value, ast.Expr):
                    yield arg.value


def _names(expression: ast.Expr) -> Iterator[str]:
    """The names that an expression computes with element by element, not those behind a contraction or a call of a
    fn."""
    todo: list[ast.Expr] = [expression]
    while todo:
        match node := todo.pop():
            case ast.Name():
                yield node.text
            case ast.Unary():
                todo.append(node.value)
            case ast.Binary():
                todo += (node.left, node.right)
            case ast.Call() if node.callee.text in ELEMENTWISE:
                todo += (a.value for a in node.args if isinstance(a.value, ast.Expr))
