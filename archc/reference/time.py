"""Ops that cross time, in NumPy: loops over the tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archc.ir.graph import Kind, Type, Value, captures
from archc.reference.frame import Array, Evaluate, Frame, fit, fitted, place, positions
from archc.reference.reduce import FOLD, extreme


def _with_past(value: Value, operands: tuple[Array, ...], frame: Frame, count: int) -> Array:
    """The operand with the `count` tokens before it in front (zeros if there are none); keeps the last `count`."""
    name = frame.name(value.attrs["state"])
    new = operands[0]
    before = frame.state.get(name, np.zeros((new.shape[0], count, *new.shape[2:]), new.dtype))
    both = np.concatenate([before, new], axis=1)
    frame.state[name] = both[:, both.shape[1] - count :]
    return both


def _convolved(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """y[t] = sum over j of w[taps - 1 - j] x[t - j], as far as t - j is in the document."""
    token, weight = value.operands
    taps = weight.type.sizes[value.attrs["taps"]]
    first = next(a for a in weight.type.axes if a.name == value.attrs["taps"])
    w = place(operands[1], weight.type, Kind.WEIGHT, (first, *token.type.axes))
    x = _with_past(value, operands, frame, taps - 1)
    out: Array = np.zeros_like(operands[0] * w[0])
    for j in range(taps):
        back = x[:, taps - 1 - j : x.shape[1] - j]
        out += w[taps - 1 - j] * np.where(_spread(frame.pos >= j, back), back, 0)
    return out


def _spread(which: Array, like: Array) -> Array:
    """[B, T] made to broadcast against [B, T, ...]."""
    return which.reshape(which.shape + (1,) * (like.ndim - which.ndim))


def _previous(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    before = _with_past(value, operands, frame, 1)[:, :-1]
    return np.where(_spread(frame.pos != 0, before), before, 0)


def _recurrence(step: Callable[[Array, Array, Array, Array], Array]) -> Evaluate:
    """h[t] = step(h[t-1], decay[t], input[t], whether a document starts), token by token."""

    def evaluate(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
        shape = (*frame.pos.shape, *(a.size for a in value.type.axes))
        kind = np.complex128 if value.type.dtype == "complex" else np.float64
        decay, new = (np.broadcast_to(f, shape).astype(kind) for f in fitted(value, operands))
        name = frame.name(value.attrs["state"])
        state = frame.state.get(name, np.zeros_like(new[:, 0]))
        out = np.empty(shape, kind)
        for t in range(frame.length):
            state = step(state, decay[:, t], new[:, t], _spread(frame.pos[:, t] == 0, state))
            out[:, t] = state
        frame.state[name] = state
        return out

    return evaluate


def _looped(value: Value, operands: tuple[Array, ...], frame: Frame) -> tuple[Array, ...]:
    """Runs the body for each token; its states start again where a document does; gives every result of the body."""
    body = value.attrs["body"]
    names = [frame.name(n) for n in value.attrs["states"]]
    starts = [
        np.broadcast_to(fit(o, a, Type(Kind.TOKEN, p.type.axes)), (*frame.pos.shape, *(x.size for x in p.type.axes)))
        for o, a, p in zip(operands, value.args, body.params, strict=True)
    ]
    rows: list[tuple[Array, ...]] = []
    states = [frame.state.get(n, s[:, 0]) for n, s in zip(names, starts, strict=True)]
    for t in range(frame.length):
        outside = {
            v: frame.values[v][:, t : t + 1] if v.kind is Kind.TOKEN else frame.values[v] for v in captures(body)
        }
        for param, state, start in zip(body.params, states, starts, strict=True):
            outside[param] = np.where(_spread(frame.pos[:, t] == 0, state), start[:, t], state)[:, None]
        row = frame.token(t, outside).run(body)
        row = tuple(_at_token(r, v, frame) for r, v in zip(row, body.results, strict=True))
        placed = [
            place(r, v.type, Kind.TOKEN, p.type.axes) for r, v, p in zip(row, body.results, body.params, strict=False)
        ]
        states = [p[:, 0] for p in placed]
        rows.append((*placed, *row[len(placed) :]))
    frame.state.update(zip(names, states, strict=True))
    return tuple(np.concatenate(each, axis=1) for each in zip(*rows, strict=True))


def _at_token(array: Array, value: Value, frame: Frame) -> Array:
    whole = place(array, value.type, Kind.TOKEN, value.type.axes)
    return np.broadcast_to(whole, (frame.pos.shape[0], 1, *whole.shape[2:]))


def _loop_result(value: Value, operands: tuple[tuple[Array, ...]], frame: Frame) -> Array:
    index: int = value.attrs["index"]
    return operands[0][index]


def _over_time(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """Over the tokens of the sequence; those before a first document (negative positions) do not count."""
    (source,) = value.operands
    axes = (1, *positions(source, value.attrs["over"]))
    real = np.broadcast_to(_spread(frame.pos >= 0, operands[0]), operands[0].shape)
    if value.attrs["fn"] in ("max", "min"):
        return extreme(value.attrs["fn"], operands[0], axes, real)
    return np.asarray(FOLD[value.attrs["fn"]](operands[0], axis=axes, where=real))


_scanned = _recurrence(lambda h, a, u, first: np.where(first, 0, a * h) + u)


_maxscanned = _recurrence(lambda m, f, i, first: np.where(first, i, np.maximum(m + f, i)))


RULES: dict[str, Evaluate] = {
    "conv": _convolved,
    "prev": _previous,
    "scan": _scanned,
    "maxscan": _maxscanned,
    "loop": _looped,
    "loop_out": _loop_result,
    "reduce_time": _over_time,
}
