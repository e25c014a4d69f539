"""A graph that contradicts itself is refused, and the message names the value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archc.ir.graph import Axis, Graph, Kind, Layer, Region, Type, Value, Weight
from archc.ir.verify import BrokenGraph
from archc.ops.table import OPS, verified

SPECS = sorted(p.stem for p in (Path(__file__).parents[2] / "specs").glob("*.arch"))
WIDTH = Type(Kind.TOKEN, (Axis("width", 4),))


def value(op: str, *args: Any, **attrs: Any) -> Value:
    return Value(0, op, args, OPS[op].infer(args, attrs), attrs)


def param(kind: Type = WIDTH) -> Value:
    return value("param", name="x", type=kind)


def graph(values: list[Value], results: tuple[Value, ...], weights: tuple[Weight, ...] = ()) -> Graph:
    main = Region("m", (), tuple(values), results)
    return Graph("m", "model", main, ("tokens",), tuple("out" for _ in results), {main: weights})


@pytest.mark.parametrize("name", SPECS)
def test_the_graph_of_every_spec_is_sound(tiny: Callable[[str], Graph], name: str) -> None:
    found = tiny(name)
    assert verified(found) is found


def test_a_value_must_have_the_type_that_its_op_infers() -> None:
    pos = value("pos")
    wrong = Value(7, "exp", (pos,), Type(Kind.TOKEN, (Axis("width", 4),)), {}, label="y")
    with pytest.raises(BrokenGraph, match=r"%7:exp:token\[width=4\] 'y': its op infers token\[\]"):
        verified(graph([pos, wrong], (wrong,)))


def test_values_come_before_their_users() -> None:
    pos = value("pos")
    after = value("exp", pos)
    with pytest.raises(BrokenGraph, match=r"exp.*: uses %0:pos:token\[\] before it is made"):
        verified(graph([after, pos], (after,)))


def test_a_value_is_made_once() -> None:
    pos = value("pos")
    with pytest.raises(BrokenGraph, match=r"pos.*: is made twice"):
        verified(graph([pos, pos], (pos,)))


def test_results_are_made_in_the_region() -> None:
    pos = value("pos")
    with pytest.raises(BrokenGraph, match="region 'm': result %0:pos"):
        verified(graph([], (pos,)))


def test_an_op_must_be_in_the_table() -> None:
    strange = Value(3, "fft", (), WIDTH)
    with pytest.raises(BrokenGraph, match="no op 'fft'"):
        verified(graph([strange], (strange,)))


def layered(region: Region, prefixes: tuple[str, ...] = ("layers.0",)) -> Graph:
    index = value("index", axis="width", size=4)
    given = value("add", index, value_pos := value("pos"))
    stack = value("stack", given, layers=tuple(Layer(i, "b", p, region) for i, p in enumerate(prefixes)))
    out = value("stack_out", stack, index=0)
    return graph([index, value_pos, given, stack, out], (out,))


def test_a_layer_gives_back_the_axes_it_got() -> None:
    x = param(Type(Kind.TOKEN, (Axis("width", 4),)))
    total = value("reduce", x, fn="sum", over=("width",))
    with pytest.raises(BrokenGraph, match="must give back"):
        verified(layered(Region("b", (x,), (total,), (total,))))
    verified(layered(Region("b", (x,), (), (x,))))


def test_layers_have_prefixes_of_their_own() -> None:
    x = param()
    with pytest.raises(BrokenGraph, match="two layers share a prefix"):
        verified(layered(Region("b", (x,), (), (x,)), ("layers.0", "layers.0")))


def test_a_layer_does_not_see_what_comes_after_the_stack() -> None:
    x, late = param(), value("pos")
    region = Region("b", (x,), (y := value("add", x, late),), (y,))
    before = layered(region)
    with pytest.raises(BrokenGraph, match="before it is made"):
        verified(replace(before, main=replace(before.main, values=(*before.main.values, late))))


def test_a_loop_has_a_name_and_a_start_for_every_state() -> None:
    h = param(Type(Kind.TOKEN, (), "real", True))
    body = Region("loop", (h,), (), (h,))
    loop = value("loop", body=body, states=("h",))
    with pytest.raises(BrokenGraph, match="one start per state"):
        verified(graph([loop], (loop,)))


def test_a_weight_must_be_declared_once() -> None:
    kind = Type(Kind.WEIGHT, (Axis("width", 4),))
    used = value("weight", path="W", type=kind)
    weight = Weight("W", kind, False, "bias", None)
    verified(graph([used], (used,), (weight,)))
    with pytest.raises(BrokenGraph, match="its weight is not declared"):
        verified(graph([used], (used,)))
    with pytest.raises(BrokenGraph, match="is declared twice"):
        verified(graph([used], (used,), (weight, weight)))
