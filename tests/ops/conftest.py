"""Values made by hand, and their evaluation in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from archc.ir.graph import Axis, Graph, Kind, Operand, Region, Type, Value, captures, regions_of
from archc.ops.table import OPS, verified
from archc.passes.support import supports
from archc.reference.frame import Array, Frame
from archc.reference.rules import RULES


@pytest.fixture
def make() -> Callable[..., Value]:
    """`make(op, *args, **attrs)`: a value with the type that the op infers."""
    ids = count()

    def build(op: str, *args: Operand, **attrs: Any) -> Value:
        return Value(next(ids), op, args, OPS[op].infer(args, attrs), attrs)

    return build


@pytest.fixture
def given() -> Callable[..., Value]:
    """`given(kind, name=size, ...)`: a parameter of that kind with those axes."""
    ids = count(1000)

    def build(kind: Kind = Kind.TOKEN, dtype: str = "real", **axes: int) -> Value:
        found = Type(kind, tuple(Axis(n, s) for n, s in axes.items()), dtype)  # type: ignore[arg-type]
        return Value(next(ids), "param", (), found, {"name": "given", "type": found}, label="given")

    return build


def in_order(value: Value, seen: dict[Value, None]) -> dict[Value, None]:
    for operand in (*value.operands, *(c for r in regions_of(value) for c in captures(r))):
        in_order(operand, seen)
    seen.setdefault(value)
    return seen


@pytest.fixture
def evaluate() -> Callable[..., Array]:
    """`evaluate(value, {param: array}, pos=None)`: the value's array for one chunk from nothing."""

    def run(value: Value, arrays: dict[Value, Array], pos: Array | None = None, length: int = 6) -> Array:
        order = in_order(value, {})
        params = tuple(v for v in order if v.op == "param")
        region = Region("test", params, tuple(v for v in order if v.op != "param"), (value,))
        graph = verified(Graph("test", "encoder", region, (), ("out",), {}))
        past = np.arange(length)[None] if pos is None else pos
        frame = Frame(RULES, {}, {}, past, past.shape[1], {}, supports=supports(graph), values=dict(arrays))
        (out,) = frame.run(region)
        return np.asarray(out)

    return run
