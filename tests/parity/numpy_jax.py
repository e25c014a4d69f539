"""Runs a traced JAX function in NumPy, one primitive after the other: XLA would compile far longer than it would run.

Primitives without a rule here are handed to JAX itself, which compiles each once per shape.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from numpy.typing import NDArray

Array = NDArray[Any]
Rule = Callable[..., Any]


def run_in_numpy(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` for pytrees of arrays, as JAX traces it."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    outs = _run(closed.jaxpr, closed.consts, [np.asarray(leaf) for leaf in jax.tree.leaves(args)])
    return jax.tree.unflatten(jax.tree.structure(shape), outs)


def _run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Array]) -> list[Array]:
    values: dict[Any, Array] = {}
    values.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(var: Any) -> Array:
        return np.asarray(var.val, var.aval.dtype) if isinstance(var, Literal) else values[var]

    for eqn in jaxpr.eqns:
        with np.errstate(all="ignore"):
            outs = _apply(eqn, [read(var) for var in eqn.invars])
        for var, out in zip(eqn.outvars, outs, strict=True):
            assert out.shape == var.aval.shape, f"{eqn.primitive}: {out.shape} is not {var.aval.shape}"
            values[var] = out if out.dtype == var.aval.dtype else out.astype(var.aval.dtype)
    return [read(var) for var in jaxpr.outvars]


def _apply(eqn: JaxprEqn, args: list[Array]) -> Sequence[Array]:
    name, params = eqn.primitive.name, eqn.params
    if name in CONTROL:
        found: Sequence[Array] = CONTROL[name](params, args)
        return found
    if name in MOVES:
        return [np.asarray(MOVES[name](params, *args))]
    if name in SHAPED:
        return [args[0].reshape(eqn.outvars[0].aval.shape)]
    if name in POINTWISE:
        return [np.asarray(POINTWISE[name](*args))]
    given = [np.ascontiguousarray(arg) for arg in args]
    outs = eqn.primitive.bind(*map(jax.numpy.asarray, given), **params)
    return [np.asarray(out) for out in (outs if eqn.primitive.multiple_results else [outs])]


# ---- primitives that run others -------------------------------------------------------------------------------------


def _closed(inner: ClosedJaxpr | Jaxpr, args: Sequence[Array]) -> list[Array]:
    return _run(inner.jaxpr, inner.consts, args) if isinstance(inner, ClosedJaxpr) else _run(inner, (), args)


def _scan(params: dict[str, Any], args: list[Array]) -> list[Array]:
    split = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, inputs = args[: split[0]], args[split[0] : split[1]], args[split[1] :]
    steps: list[list[Array]] = []
    order = range(params["length"])
    for t in reversed(order) if params["reverse"] else order:
        outs = _closed(params["jaxpr"], [*consts, *carry, *(x[t] for x in inputs)])
        carry = outs[: params["num_carry"]]
        steps.append(outs[params["num_carry"] :])
    if params["reverse"]:
        steps.reverse()
    if not steps:
        return [*carry, *(np.zeros((0, *x.shape), x.dtype) for x in params["jaxpr"].out_avals[params["num_carry"] :])]
    return [*carry, *(np.stack(each) for each in zip(*steps, strict=True))]


def _while(params: dict[str, Any], args: list[Array]) -> list[Array]:
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    condition, body, carry = args[:first], args[first:second], args[second:]
    while _closed(params["cond_jaxpr"], [*condition, *carry])[0]:
        carry = _closed(params["body_jaxpr"], [*body, *carry])
    return carry


def _cond(params: dict[str, Any], args: list[Array]) -> list[Array]:
    index = min(max(int(args[0]), 0), len(params["branches"]) - 1)
    return _closed(params["branches"][index], args[1:])


CONTROL: dict[str, Rule] = {
    **dict.fromkeys(("jit", "remat2", "checkpoint"), lambda params, args: _closed(params["jaxpr"], args)),
    **dict.fromkeys(
        ("closed_call", "custom_jvp_call", "custom_vjp_call"), lambda params, args: _closed(params["call_jaxpr"], args)
    ),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "split": lambda params, args: np.split(args[0], np.cumsum(params["sizes"])[:-1], params["axis"]),
    "unstack": lambda params, args: [np.take(args[0], i, params["axis"]) for i in range(args[0].shape[params["axis"]])],
}


# ---- primitives that move values ------------------------------------------------------------------------------------


def _broadcast(params: dict[str, Any], x: Array) -> Array:
    shape = [1] * len(params["shape"])
    for place, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[place] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _dot(params: dict[str, Any], left: Array, right: Array) -> Array:
    (over_left, over_right), (batch_left, batch_right) = params["dimension_numbers"]
    first, second = list(range(left.ndim)), list(range(left.ndim, left.ndim + right.ndim))
    for a, b in zip((*over_left, *batch_left), (*over_right, *batch_right), strict=True):
        second[b] = first[a]
    batch = [first[a] for a in batch_left]
    rest = [n for i, n in enumerate(first) if i not in (*over_left, *batch_left)]
    rest += [n for i, n in enumerate(second) if i not in (*over_right, *batch_right)]
    wide = np.result_type(left.dtype, np.float32) if left.dtype.kind not in "fc" else left.dtype
    return np.einsum(left.astype(wide), first, right.astype(wide), second, [*batch, *rest])


def _window(starts: Sequence[Array], sizes: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    first = [min(max(int(s), 0), whole - size) for s, size, whole in zip(starts, sizes, shape, strict=True)]
    return tuple(slice(s, s + size) for s, size in zip(first, sizes, strict=True))


def _update(params: dict[str, Any], x: Array, part: Array, *starts: Array) -> Array:
    out = x.copy()
    out[_window(starts, part.shape, x.shape)] = part
    return out


def _slice(params: dict[str, Any], x: Array) -> Array:
    steps = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]


def _pad(params: dict[str, Any], x: Array, value: Array) -> Array:
    config = params["padding_config"]
    shape = [low + high + size + max(size - 1, 0) * gap for size, (low, high, gap) in zip(x.shape, config, strict=True)]
    wide = np.full([n - min(low, 0) - min(high, 0) for n, (low, high, _) in zip(shape, config, strict=True)], value)
    at = (
        slice(max(low, 0), max(low, 0) + n + (n - 1) * g, g + 1) for n, (low, _, g) in zip(x.shape, config, strict=True)
    )
    wide[tuple(at)] = x
    return wide[tuple(slice(max(-low, 0), max(-low, 0) + n) for n, (low, _, _) in zip(shape, config, strict=True))]


def _iota(params: dict[str, Any]) -> Array:
    shape = [1] * len(params["shape"])
    shape[params["dimension"]] = -1
    count = np.arange(params["shape"][params["dimension"]], dtype=params["dtype"])
    return np.broadcast_to(count.reshape(shape), params["shape"])


def _cumsum(params: dict[str, Any], x: Array) -> Array:
    if params["reverse"]:
        return np.flip(np.cumsum(np.flip(x, params["axis"]), params["axis"]), params["axis"])
    return np.cumsum(x, params["axis"])


def _converted(params: dict[str, Any], x: Array) -> Array:
    real = x.dtype.kind == "c" and np.dtype(params["new_dtype"]).kind != "c"
    return (x.real if real else x).astype(params["new_dtype"])


MOVES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "dot_general": _dot,
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "stack": lambda params, *xs: np.stack(xs, params["axis"]),
    "convert_element_type": _converted,
    "dynamic_slice": lambda params, x, *starts: x[_window(starts, params["slice_sizes"], x.shape)],
    "dynamic_update_slice": _update,
    "slice": _slice,
    "pad": _pad,
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "iota": _iota,
    "cumsum": _cumsum,
    "platform_index": lambda params: np.int32(params["platforms"].index(("cpu",))),
    "integer_pow": lambda params, x: x ** params["y"] if params["y"] >= 0 else 1 / x ** -params["y"],
    **{
        f"reduce_{name}": lambda params, x, fn=fn: fn(x, axis=tuple(params["axes"]))
        for name, fn in (
            ("sum", np.sum),
            ("max", np.max),
            ("min", np.min),
            ("prod", np.prod),
            ("and", np.all),
            ("or", np.any),
        )
    },
}
SHAPED = frozenset(("reshape", "squeeze", "expand_dims"))
POINTWISE: dict[str, Rule] = {
    "add": operator.add, "add_any": operator.add, "sub": operator.sub, "mul": operator.mul, "max": np.maximum,
    "min": np.minimum, "neg": operator.neg, "abs": np.abs, "sign": np.sign, "exp": np.exp, "expm1": np.expm1,
    "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "tanh": np.tanh,
    "sin": np.sin, "cos": np.cos, "logistic": lambda x: 1 / (1 + np.exp(-x)), "square": np.square, "pow": np.power,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "and": np.bitwise_and, "or": np.bitwise_or, "not": np.invert, "rem": np.fmod, "real": np.real, "imag": np.imag,
    "conj": np.conj, "complex": lambda x, y: x + 1j * y, "is_finite": np.isfinite,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "div": lambda x, y: x / y if x.dtype.kind not in "iu" else np.trunc(x / y),
    "select_n": lambda which, *cases: np.choose(which.astype(int), cases),
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision"), lambda x: x),
}  # fmt: skip
