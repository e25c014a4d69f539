"""Element-wise equations as one expression graph: differentiated in reverse, rebuilt, pruned.

Every derivative comes from the rule in the op's own record (`archc.ops.base.Op.derivative`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from archc.elaborate.numbers import FUNCTIONS
from archc.ops.node import Node, Nodes, Operand
from archc.ops.simpler import SIMPLER
from archc.ops.table import OPS

SPECIAL = "\0"
FIRST, READ_OUT, TOTAL = SPECIAL + "first", SPECIAL + "read", SPECIAL + "total"
"""The names of the leaves that are no values of the spec: whether a document starts; the state as it was read, of a
complex state its parts, `read_re` and `read_im`; and the sum that a convolution is.
"""
NUMBER = SPECIAL + "number "
"""Begins the name of the leaf of a number."""

Names = Mapping[Node, str]


@dataclass(frozen=True, eq=False)
class Equations:
    """Outputs as functions of leaves: token inputs `x`, hoisted weights `w`, what else is handed in (`given`), numbers
    `n` that are not the same in every call.

    `names` are those that nodes have in the spec, or after what they are the derivative of. A leaf that no output
    depends on stays in the list: the order of `x`, `w` and `n` is a contract with the kernel.
    """

    outputs: tuple[Node, ...]
    x: tuple[Node, ...]
    w: tuple[Node, ...]
    given: tuple[Node, ...]
    names: Names
    n: tuple[Node, ...] = ()

    @property
    def first(self) -> Node:
        """The leaf that is true where a document starts."""
        return self.outputs[0].home.leaf(FIRST, truth=True)

    @property
    def nodes(self) -> list[Node]:
        """All that the outputs depend on, operands first."""
        return ordered(self.outputs)


def new_nodes() -> Nodes:
    """An empty home of nodes that computes with numbers as the specs do."""
    return Nodes(_compute, SIMPLER)


def _compute(op: str, numbers: Sequence[float]) -> float | None:
    """The value of an op on numbers, None outside of its domain."""
    try:
        return float(_NUMBERS[op](*numbers))
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


_NUMBERS: dict[str, Callable[..., Any]] = {
    **FUNCTIONS,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": math.pow,
    "neg": operator.neg,
    "minimum": min,
    "maximum": max,
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "and": lambda a, b: bool(a and b),
    "or": lambda a, b: bool(a or b),
    "not": operator.not_,
    "where": lambda c, a, b: a if c else b,
    "fp32": float,
    "narrow": float,
    "rename": float,
}


def ordered(outputs: Iterable[Node]) -> list[Node]:
    """Every node below the outputs once, operands before their users.

    >>> x = new_nodes().leaf("x")
    >>> ordered([(x + 1) * x])
    [x, 1.0, add(x, 1.0), mul(add(x, 1.0), x)]
    """
    out: dict[Node, None] = {}
    todo = [(node, False) for node in reversed(tuple(outputs))]
    while todo:
        node, entered = todo.pop()
        if node in out:
            continue
        if entered:
            out[node] = None
        else:
            todo += [(node, True), *((a, False) for a in reversed(node.args))]
    return list(out)


def written(outputs: Iterable[Node], leaves: Iterable[Node] = ()) -> tuple[object, ...]:
    """Equal for outputs that are the same functions, with the same numbers, of leaves of the same names; of `leaves`
    in this order, whatever they are called.

    >>> x, y = (new_nodes().leaf(name) for name in "xy")
    >>> written([x * x]) == written([y * y]), written([x * 2], [x]) == written([y * 2], [y])
    (False, True)
    """
    order = ordered(outputs)
    place = {node: i for i, node in enumerate(order)}
    known = {node: i for i, node in enumerate(leaves)}
    return tuple((n.op, n.value, known.get(n, n.name), tuple(place[a] for a in n.args)) for n in order)


def makes_numbers(outputs: Iterable[Node]) -> bool:
    """Whether something below the outputs is made of numbers and a condition, or of a number and its exponent: such a
    value does not know in which precision and along which axes it is.
    """
    parts = {"where": slice(1, None), "pow": slice(0, 1)}
    return any(n.op in parts and all(a.is_number() for a in n.args[parts[n.op]]) for n in ordered(outputs))


def depends(outputs: Iterable[Node], leaves: Iterable[Node]) -> set[Node]:
    """The nodes below the outputs that are functions of the leaves, the leaves included."""
    out = set(leaves)
    for node in ordered(outputs):
        if any(a in out for a in node.args):
            out.add(node)
    return out


def _slopes(d: Node, y: Node) -> Sequence[Operand]:
    return OPS[y.op].slopes(d, y, y.args)


def _broadcast(slope: Node, operand: Node) -> Node:
    return slope


def gradient(
    equations: Equations,
    seeds: Sequence[Node],
    wanted: Sequence[Node],
    slopes: Callable[[Node, Node], Sequence[Operand]] = _slopes,
    fitted: Callable[[Node, Node], Node] = _broadcast,
) -> Equations:
    """The derivatives of `sum(seed * output)` by the wanted leaves, as equations of the same leaves and the seeds.

    Seeds are new leaves, one for each output. Reverse mode: derivatives are collected from users before operands;
    values of the forward pass are shared, not recomputed, where a rule speaks of them. `slopes(d, y)` are the
    derivatives by the operands of y; `fitted(slope, operand)` takes the broadcasting of an operand back, which is left
    to whoever runs the equations unless they know axes (`archc.fuse.planes`).
    """
    collected: dict[Node, Node] = {}
    for output, seed in zip(equations.outputs, seeds, strict=True):
        collected[output] = collected[output] + seed if output in collected else seed
    active = depends(equations.outputs, wanted)
    for node in reversed(equations.nodes):
        if node in collected and node.args:
            for operand, slope in zip(node.args, slopes(collected[node], node), strict=True):
                if operand in active and not _nothing(slope):
                    part = fitted(_node(slope, node), operand)
                    collected[operand] = part + collected[operand] if operand in collected else part
    zero = equations.outputs[0].home.number(0)
    outputs = [collected.get(leaf, zero) for leaf in wanted]
    new = share_exponentials(outputs, equations.outputs)
    derived = {new[collected[n]]: f"d_{name}" for n, name in equations.names.items() if collected.get(n) in new}
    for leaf, output in zip(wanted, outputs, strict=True):
        derived.setdefault(new[output], f"d_{leaf.name.strip(SPECIAL)}")
    given = (*equations.given, *seeds)
    return replace(equations, outputs=tuple(new[o] for o in outputs), given=given, names={**derived, **equations.names})


def _nothing(slope: Operand) -> bool:
    return slope.is_number(0) if isinstance(slope, Node) else slope == 0


def _node(operand: Operand, like: Node) -> Node:
    return operand if isinstance(operand, Node) else like.home.number(operand)


def rebuilt(outputs: Iterable[Node], rule: Callable[[Node, tuple[Node, ...]], Node | None]) -> dict[Node, Node]:
    """Every node below the outputs -> what stands in its place: what `rule` says of the node and its new operands, or
    the same op on them."""
    new: dict[Node, Node] = {}
    for node in ordered(outputs):
        args = tuple(new[a] for a in node.args)
        made = rule(node, args)
        if made is None:
            made = node if args == node.args else node.home.apply(node.op, *args)
        new[node] = made
    return new


def share_exponentials(outputs: Sequence[Node], beside: Iterable[Node] = ()) -> dict[Node, Node]:
    """`exp(2 L)` as the square of `exp(L)` where that is computed anyway, in the outputs or beside them.

    It costs a product instead of an exponential, and about twice the rounding error of the exponential. See `rebuilt`.
    """
    known = exponentials([*outputs, *beside])

    def square(node: Node, args: tuple[Node, ...]) -> Node | None:
        root = known.get(half(args[0])) if node.op == "exp" else None
        return None if root is None else root * root

    return rebuilt(outputs, square)


def exponentials(outputs: Iterable[Node]) -> dict[Node | None, Node]:
    """The exponentials below the outputs, by what they are taken of."""
    return {n.args[0]: n for n in ordered(outputs) if n.op == "exp"}


def half(node: Node) -> Node | None:
    """The L of `2 L`."""
    return node.args[1] if node.op == "mul" and node.args[0].is_number(2) else None
