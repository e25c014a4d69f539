"""The builtins that cross time or meet other positions, and the random initial values."""

from __future__ import annotations

from archc.elaborate.given import Given
from archc.ir.graph import Kind, Type, Value
from archc.ops.aliases import bare
from archc.ops.pair import MASKS


def conv(given: Given) -> Value:
    """`conv(x, w[taps axis])`."""
    x, w = given.value(0), given.value(1)
    taps = tuple(n for n in w.names if n not in x.names)
    given.frame.shelf.filters[bare(w)] = taps  # a weight that is a filter starts as one: normal over its taps
    name = f"conv_{given.frame.target}" if given.frame.target else "conv"
    return given.add("conv", x, w, taps=taps[0] if taps else "", state=given.frame.call.instance.state(name))


def prev(given: Given) -> Value:
    """`prev(x)`."""
    value = given.value()
    name = given.frame.call.instance.state(f"prev_{value.label or 'x'}")
    return given.add("prev", value, state=name)


def scan(given: Given) -> Value:
    """`scan(decay = a, input = u)` and `maxscan`."""
    decay, entering = given.called("decay", wide=True), given.called("input")
    name = given.frame.call.instance.state(given.frame.target or "h")
    return given.add(given.name, decay, entering, state=name)


def queries(given: Given) -> Value:
    """`queries(t)`."""
    return given.add("queries", given.value())


def keys(given: Given) -> Value:
    """`keys(t)`: the same token lifted twice is one cache."""
    value = given.value()
    lifted = given.frame.builder.lifted
    if value not in lifted:
        name = given.frame.call.instance.state(value.label or "key")
        lifted[value] = given.add("keys", value, state=name)
    return lifted[value]


def mask(given: Given) -> Value:
    """`window(n)`, `near(n)`, `prefix(n)`, `dilated(n, step)`."""
    name = given.name
    sizes = []
    for node, what in zip(given.positional, MASKS[name], strict=True):
        number = given.number(node, f"'{what}' of {name}")
        size = given.frame.whole(number, node, f"'{what}' of {name}")
        if size < 1:
            help = "the token itself is one: give 1 or more"
            given.frame.fail("E231", f"{name}({size}) sees nothing", node, *number.roots, help=help)
        sizes.append(size)
    value = given.add("mask", name=name, sizes=tuple(sizes))
    value.label = given.node.span.text
    return value


def random(given: Given) -> Value:
    """`normal(std)` and its like, with the axes of the weight that begins so."""
    builder = given.frame.builder
    if builder.name != "init":
        given.frame.fail("E114", f"'{given.name}' stands only in init", given.node, help="write init name = ...")
    params = tuple(given.number(n, given.what(i)).plain for i, n in enumerate(given.positional))
    axes = builder.params[0].type.axes
    return given.add("random", how=given.name, params=params, type=Type(Kind.WEIGHT, axes, "real", True))
