"""Matrix operations of the emitted Flax models, unrolled, against the products that XLA is given and those it keeps.

`cost_analysis` adds element-wise work and counts the body of a loop once; so products are counted instead: in the
jaxpr, without what nothing needs, where scans say how often they run; and, where no loop holds a product, among the
`dot` instructions of the program that XLA compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from archc.backends.flax.executed import FlaxKernels
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr

import archc
from archc.emit.executed import executed
from archc.loading import import_project
from archc.passes.flops import flops
from archc.passes.workload import Workload
from archc.specs_index import shipped
from tests.oracles.small import BATCH, PAIRS, other_inputs, program, settings

CASES = [(name, time) for name in shipped() for time in (7, 70)] + [(name, 300) for name in PAIRS]
DOT = re.compile(r"= \w+\[([\d,]*)\]\S* dot\((.*?)\), .*?lhs_contracting_dims=\{([\d,]*)\}")
SHAPE = re.compile(r"(%[\w.\-]+) = \w+\[([\d,]*)\]")


@cache
def model(name: str) -> tuple[Any, Any, Any]:
    """The unrolled model, without its numbers: its structure, its trained weights, all else."""
    artifacts = archc.compile(f"{name}:tiny", backend="flax", settings=settings(name))
    module = import_project(artifacts, "model")["model"]
    return nnx.split(nnx.eval_shape(lambda: module.Model(rngs=nnx.Rngs(0), unroll=True)), nnx.Param, ...)


def run(name: str, time: int, weights: Any, rest: Any) -> jax.Array:
    """A sum over everything that the model gives."""
    tokens = jnp.arange(BATCH * time).reshape(BATCH, time) % 97
    outputs = nnx.merge(model(name)[0], weights, rest)(tokens, *[tokens % 2] * other_inputs(name))
    return sum(((x**2).sum() for x in (outputs if isinstance(outputs, tuple) else (outputs,))), jnp.zeros(()))


@pytest.mark.parametrize(("name", "time"), CASES)
def test_what_runs_is_what_xla_is_given(name: str, time: int) -> None:
    loss, (_, *values) = partial(run, name, time), model(name)
    found = executed(program(name), FlaxKernels(), BATCH, time)
    assert (traced(loss, values), traced(jax.grad(loss), values)) == (found.forward, found.train)


@pytest.mark.parametrize("name", ["griffin", "llama", "hawk"])
def test_the_convention_is_what_xla_keeps(name: str) -> None:
    # nothing is cut at this length; scores that a checkpoint would compute again XLA may find to be there already
    loss, (_, *values) = partial(run, name, 31), model(name)
    found = flops(program(name).graph, Workload(batch=BATCH, time=31, mode="train"))
    assert compiled(loss, values) == found.forward.matrix
    again = executed(program(name), FlaxKernels(), BATCH, 31).again
    assert compiled(jax.grad(loss), values) - found.total.matrix in (0, again)


def traced(loss: Callable[..., Any], values: list[Any]) -> int:
    whole = jax.make_jaxpr(loss)(*values).jaxpr
    return _products(dce_jaxpr(whole, [True] * len(whole.outvars))[0])


def _products(jaxpr: Any) -> int:
    """Of the equations, those inside counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        inside = sum(_products(each) for each in _inner(equation))
        match equation.primitive.name:
            case "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                left, (out,) = equation.invars[0].aval.shape, equation.outvars
                total += 2 * prod(out.aval.shape) * prod(left[i] for i in contracted)
            case "scan":
                total += equation.params["length"] * inside
            case "while" | "cond":
                assert inside == 0
            case _:
                total += inside
    return total


def _inner(equation: Any) -> Iterator[Any]:
    for param in equation.params.values():
        for each in param if isinstance(param, tuple | list) else (param,):
            jaxpr = getattr(each, "jaxpr", each)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def compiled(loss: Callable[..., Any], values: list[Any]) -> int:
    """Of the instructions after optimisation; no instruction of a loop is a product here."""
    text = jax.jit(loss).lower(*values).compile().as_text()
    shapes = {name: _sizes(sizes) for name, sizes in SHAPE.findall(text)}
    total = 0
    for out, operands, contracted in DOT.findall(text):
        left = shapes[re.search(r"%[\w.\-]+", operands)[0]]
        total += 2 * prod(_sizes(out)) * prod(left[i] for i in _sizes(contracted))
    return total


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)
