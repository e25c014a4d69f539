"""What a decoder must remember for an op: the parts of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archc.ir.graph import Axis, Value

What = Literal["keys", "conv", "prev", "scan", "maxscan", "loop"]
Stored = Literal["compute", "fp32", "complex", "int", "bool"]


@dataclass(frozen=True, slots=True)
class Memory:
    """One array per sequence: `tokens` times the axes; `tokens` None: as many as the masks let later queries see."""

    name: str
    what: What
    axes: tuple[Axis, ...]
    tokens: int | None
    stored: Stored


def nothing(value: Value) -> tuple[Memory, ...]:
    """The result depends on the present token only."""
    return ()


def stored(value: Value) -> Stored:
    """The precision in which a token is kept: that in which it is computed."""
    if value.type.dtype == "complex":
        return "complex"
    if value.type.dtype in ("int", "bool"):
        return "int" if value.type.dtype == "int" else "bool"
    return "fp32" if value.type.wide else "compute"


def lifted(value: Value) -> tuple[Memory, ...]:
    """`keys(t)`: the tokens t themselves."""
    (token,) = value.operands
    return (Memory(value.attrs["state"], "keys", token.type.axes, None, stored(token)),)


def window(value: Value) -> tuple[Memory, ...]:
    """`conv(x, w)`: the last inputs, one fewer than taps."""
    token, weight = value.operands
    taps = weight.type.sizes[value.attrs["taps"]]
    return (Memory(value.attrs["state"], "conv", token.type.axes, taps - 1, stored(token)),)


def last(value: Value) -> tuple[Memory, ...]:
    """`prev(x)`: the last value."""
    (token,) = value.operands
    return (Memory(value.attrs["state"], "prev", token.type.axes, 1, stored(token)),)


def running(value: Value) -> tuple[Memory, ...]:
    """`scan` and `maxscan`: the result itself, never narrower than single precision."""
    what: What = "scan" if value.op == "scan" else "maxscan"
    kept: Stored = "complex" if value.type.dtype == "complex" else "fp32"
    return (Memory(value.attrs["state"], what, value.type.axes, 1, kept),)


def looped(value: Value) -> tuple[Memory, ...]:
    """`loop`: its states."""
    states = zip(value.attrs["states"], value.attrs["body"].params, strict=True)
    return tuple(
        Memory(name, "loop", state.type.axes, 1, "complex" if state.type.dtype == "complex" else "fp32")
        for name, state in states
    )
