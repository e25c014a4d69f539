"""What JAX and Flax NNX call things."""

from __future__ import annotations

import re
from collections.abc import Sequence

from archc.emit.code import Code, call, infix, method

FUNCTIONS = {
    "exp": "jnp.exp", "expm1": "jnp.expm1", "log": "jnp.log", "log1p": "jnp.log1p", "sqrt": "jnp.sqrt",
    "rsqrt": "jax.lax.rsqrt", "abs": "jnp.abs", "sign": "jnp.sign", "sin": "jnp.sin", "cos": "jnp.cos",
    "tanh": "jnp.tanh", "erf": "jax.lax.erf", "sigmoid": "jax.nn.sigmoid", "silu": "jax.nn.silu", "relu": "jax.nn.relu",
    "softplus": "jax.nn.softplus", "log_sigmoid": "jax.nn.log_sigmoid", "inv_softplus": "inv_softplus",
}  # fmt: skip
ARRAYS_ONLY = frozenset({"relu", "rsqrt", "sigmoid"})  # `jax.lax` beneath them does not take a Param


def _tuple(sizes: Sequence[Code]) -> str:
    return f"({', '.join(s.text for s in sizes)}{',' if len(sizes) == 1 else ''})"


def _axes(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"


def _array(value: Code) -> Code:
    """A weight as the array that `jax.lax` asks for; `jax.numpy` and arithmetic take the Param itself."""
    return Code(f"{value.text}[...]") if re.fullmatch(r"self\.\w+", value.text) else value


class FlaxDialect:
    """See `archc.emit.dialect.Dialect`."""

    name = "flax"
    method = "__call__"
    state_arguments: tuple[str, ...] = ("batch", "context", "dtype")
    own_norms = False
    own_affine = False

    def norm(
        self, kind: str, value: Code, sizes: Sequence[Code], scale: Code | None, shift: Code | None, eps: Code
    ) -> Code:
        """JAX has no norm of its own: XLA fuses what the spec says."""
        raise AssertionError("norms are written out")

    def affine(self, x: Code, matrix: Code, turned: bool, bias: Code) -> Code:
        """XLA fuses a bias with the product by itself."""
        raise AssertionError("biases are written out")

    def weight(self, name: str) -> Code:
        """A weight of this module."""
        return Code(f"self.{name}")

    def cast(self, value: Code, like: Code) -> Code:
        """The value in the element type of another."""
        return method(value, "astype", f"{like.atom}.dtype")

    def function(self, name: str, value: Code) -> Code:
        """An element-wise function of one value, by the name of its op."""
        match name:
            case "gelu" | "gelu_tanh":
                return call("jax.nn.gelu", value, approximate=str(name == "gelu_tanh"))
            case "not":
                return Code(f"~{value.atom}", 80)
            case "real" | "imag":
                return Code(f"{value.atom}.{name}")
        return call(FUNCTIONS[name], _array(value) if name in ARRAYS_ONLY else value)

    def two(self, name: str, left: Code, right: Code) -> Code:
        """`minimum`, `maximum`, `complex`; one of the two may be a number."""
        if name == "complex":
            return infix("+", left, infix("*", Code("1j"), right))
        return call(f"jnp.{name}", left, right)

    def where(self, condition: Code, yes: Code, no: Code) -> Code:
        """Element-wise choice."""
        return call("jnp.where", condition, yes, no)

    def compared(self, value: Code) -> Code:
        """A side of a comparison: a Param cannot be compared."""
        return _array(value)

    def logic(self, name: str, left: Code, right: Code) -> Code:
        """`and`, `or`."""
        return infix("&" if name == "and" else "|", left, right)

    def einsum(self, spec: str, *values: Code) -> Code:
        """A contraction in letters."""
        return call("jnp.einsum", f'"{spec}"', *values)

    def flatten(self, value: Code, count: int, after: int = 0) -> Code:
        """The last `count` axes, before `after` more, as one."""
        return call("jax.lax.collapse", _array(value), str(-count - after), *([str(-after)] if after else []))

    def unflatten(self, value: Code, axis: int, sizes: Sequence[Code]) -> Code:
        """One axis as several."""
        return call("unflatten", value, str(axis), _tuple(sizes))

    def unsqueeze(self, value: Code, axis: int) -> Code:
        """A new axis of size 1 at a place."""
        return call("jnp.expand_dims", value, str(axis))

    def squeeze(self, value: Code, axis: int) -> Code:
        """Without the axis of size 1 at a place."""
        return method(value, "squeeze", str(axis))

    def reshape_tail(self, value: Code, sizes: Sequence[str]) -> Code:
        """[B, T, ...] with other axes after time."""
        return method(value, "reshape", f"*{value.atom}.shape[:2]", *sizes)

    def move_axes(self, value: Code, places: str, targets: str) -> Code:
        """Axes to other places."""
        return call("jnp.moveaxis", value, places, targets)

    def reduce(self, name: str, value: Code, axes: Sequence[int]) -> Code:
        """`sum`, `mean`, `max`, `min` over axes."""
        return method(value, name, _axes(axes))

    def softmax(self, value: Code, axes: Sequence[int]) -> Code:
        """Softmax over axes, in single precision."""
        if len(axes) > 1:
            return call("softmax_over", value, _axes(axes))
        return call("jax.nn.softmax", call("fp32", value), _axes(axes))

    def cumsum(self, value: Code, axis: int) -> Code:
        """Running sum."""
        return method(value, "cumsum", str(axis))

    def argmax(self, value: Code, axis: int) -> Code:
        """Index of the largest."""
        return method(value, "argmax", str(axis))

    def top(self, value: Code, k: Code, axis: int) -> Code:
        """True at the k largest."""
        return call("top", value, k, str(axis))

    def pieces(self, value: Code, sizes: Sequence[Code], axis: int) -> Code:
        """An axis cut into pieces."""
        return call("jax.lax.split", _array(value), _tuple(sizes), str(axis))

    def slice(self, value: Code, start: Code, stop: Code, axis: int) -> Code:
        """A stretch of an axis."""
        return Code(f"{value.atom}[{', '.join(['...', f'{start.text}:{stop.text}', *[':'] * (-axis - 1)])}]")

    def concat(self, values: Sequence[Code], axis: int) -> Code:
        """Values side by side along an axis."""
        return call("jnp.concatenate", f"[{', '.join(v.text for v in values)}]", str(axis))

    def stack(self, values: Sequence[Code]) -> Code:
        """Values along a new last axis."""
        return call("jnp.stack", f"jnp.broadcast_arrays({', '.join(v.text for v in values)})", "-1")

    def arange(self, size: Code, like: Code | None) -> Code:
        """0, 1, ... in single precision."""
        return call("jnp.arange", size, dtype="jnp.float32")

    def lookup(self, table: Code, index: Code) -> Code:
        """Rows of a table."""
        return Code(f"{table.atom}[{index.text}]")

    def reduce_time(self, name: str, value: Code, rank: int) -> Code:
        """A reduction over the whole sequence."""
        return method(value, name, "1")

    def broadcast(self, value: Code, like: Code) -> Code:
        """The value repeated to the shape of another."""
        return call("jnp.broadcast_to", value, f"{like.atom}.shape")

    def over_time(self, value: Code, like: Code, sizes: Sequence[Code]) -> Code:
        """A value without time, repeated to [B, T, sizes] with the batch and time of another."""
        shape = f"(*{like.atom}.shape[:2], {', '.join(s.text for s in sizes)})"
        if value.text.replace(".", "").isdigit() or value.text.startswith("math."):
            return call("jnp.full", shape, value)
        return call("jnp.broadcast_to", value, shape)

    def start(self, value: Code, like: Code, sizes: Sequence[Code]) -> Code:
        """A number or a weight as the start of a state: [B, sizes], in at least single precision."""
        shape = f"({', '.join([f'len({like.text})', *(s.text for s in sizes)])},)"
        wide = f"jnp.promote_types({like.atom}.dtype, jnp.float32)"
        if value.text.lstrip("-").isdigit():
            return call("jnp.full", shape, value, wide)
        return method(call("jnp.broadcast_to", value, shape), "astype", wide)

    def filled(self, sizes: Sequence[Code], number: Code) -> Code:
        """A new weight full of one number."""
        shape = _shape(sizes)
        if number.text in ("0", "1"):
            return call("jnp.zeros" if number.text == "0" else "jnp.ones", shape)
        return call("jnp.full", shape, number.as_float)

    def random(self, how: str, sizes: Sequence[Code], params: Sequence[Code]) -> Code:
        """A new weight: `normal`, `uniform`, `log_uniform`, `orthogonal`."""
        shape = _tuple(sizes)
        match how:
            case "normal":
                normal = call("jax.random.normal", "rngs.params()", shape)
                return infix("*", params[0], normal) if params and params[0].text != "1" else normal
            case "uniform":
                low, high = params
                return call("jax.random.uniform", "rngs.params()", shape, minval=low, maxval=high)
            case "log_uniform":
                low, high = (call("math.log", p) for p in params)
                return call("jnp.exp", call("jax.random.uniform", "rngs.params()", shape, minval=low, maxval=high))
        return call("orthogonal", "rngs.params()", shape, *params)

    def expanded(self, value: Code, sizes: Sequence[Code]) -> Code:
        """A value repeated to the shape of a weight."""
        return call("jnp.broadcast_to", value, _tuple(sizes))

    def zeros(self, sizes: Sequence[Code], how: str) -> Code:
        """An array of a state."""
        kind = {
            "dtype": "dtype",
            "wide": "jnp.promote_types(dtype, jnp.float32)",
            "complex": "jnp.promote_types(dtype, jnp.complex64)",
            "int": "jnp.int32",
            "bool": "jnp.bool",
        }[how]
        return call("jnp.zeros", _tuple(sizes), kind)


def _shape(sizes: Sequence[Code]) -> str:
    """A shape as `jnp.zeros` takes it: one axis needs no tuple."""
    return sizes[0].text if len(sizes) == 1 else _tuple(sizes)
