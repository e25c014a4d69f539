"""What the fused kernels share: the gates that they are given, the machine they run on, the sizes of their blocks."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.extend.core import ClosedJaxpr, Jaxpr

Arrays = tuple[jax.Array, ...]
Machine = Literal["xla", "tpu", "gpu"]
Side = Literal["values", "keys", "head"]
"""Along what an input of a token or a weight of a head varies: along its values, its keys, or neither."""


class Gates(NamedTuple):
    """The equations around a scan, element by element, and their derivatives.

    x are inputs of a token, w weights of a channel, `first` says where a document starts; they broadcast against one
    another. A kernel calls these functions on tiles in single precision; they hold no array of their own.

    gates(x, w, first) -> (a, u): the decay and what enters; of a selective scan (dt, v), the step and what enters; of
    one of outer products (log_a, v), the log decay and the values, or with a decay per key (log_a, k, v, q), keys and
    queries too, and perhaps b, keys of a bonus: by them a query reads, besides, the value of its own token.
    gates_grad(x, w, first, da, du) -> (dx, dw), from the derivatives of all that gates give: tuples like x and w, dw
    not yet summed over tokens.
    out(y, x, w) -> o and out_grad(y, x, w, do) -> (dy, dx, dw): what follows the state, or what is read out of it, if
    anything. Where calls differ in numbers, w has them behind the weights (`with_numbers`), dw has not.
    x_sides, w_sides: of a scan of outer products, along what x and w vary; x[0] has values. Tiles are [tokens, values],
    [tokens, keys] or [tokens, 1], of weights [1, values], [1, keys] or [1, 1], and so are their derivatives: what has
    no values gets sums over them. before: of one with a decay per key, or of a diagonal one, what is read is the state
    before the update.
    normalised: of one with a decay per head, out and out_grad find its normaliser [tokens, 1] behind x.
    """

    gates: Callable[[Arrays, Arrays, jax.Array], Arrays]
    gates_grad: Callable[..., tuple[Arrays, Arrays]]
    out: Callable[[jax.Array, Arrays, Arrays], jax.Array] | None = None
    out_grad: Callable[[jax.Array, Arrays, Arrays, jax.Array], tuple[jax.Array, Arrays, Arrays]] | None = None
    x_sides: tuple[Side, ...] = ()
    w_sides: tuple[Side, ...] = ()
    before: bool = False
    normalised: bool = False

    @property
    def gives_both(self) -> bool:
        """Whether a normaliser leaves the kernel beside what is read out, since no equation takes it."""
        return self.normalised and self.out is None


@dataclass(frozen=True)
class _With:
    """A function of gates, with numbers behind the weights, which are the argument at `place`."""

    function: Callable[..., Any]
    place: int
    numbers: tuple[float, ...]

    def __call__(self, *arguments: Any) -> Any:
        before, after = arguments[: self.place], arguments[self.place + 1 :]
        return self.function(*before, (*arguments[self.place], *self.numbers), *after)


def with_numbers_at(function: Callable[..., Any], place: int, numbers: tuple[float, ...]) -> Callable[..., Any]:
    """A function of gates whose weights, the argument at `place`, have the numbers behind them."""
    return _With(function, place, numbers)


def with_numbers(gates: Gates, numbers: tuple[float, ...]) -> Gates:
    """Gates of x and w alone, from gates that take numbers as well."""
    if not numbers:
        return gates
    return gates._replace(
        gates=_With(gates.gates, 1, numbers),
        gates_grad=_With(gates.gates_grad, 1, numbers),
        out=None if gates.out is None else _With(gates.out, 2, numbers),
        out_grad=None if gates.out_grad is None else _With(gates.out_grad, 2, numbers),
    )


def machine(impl: Machine | None, time: int) -> Machine:
    """Whose kernel runs: `impl` where it is given, else that of the default backend; a single token needs none."""
    if impl is not None:
        return impl
    backend = jax.default_backend() if time > 1 else "cpu"
    return "tpu" if backend == "tpu" else "gpu" if backend == "gpu" else "xla"


def accumulator(*arrays: jax.Array) -> jnp.dtype:
    """Single precision, or double if any of the arrays is."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def up(size: int, multiple: int) -> int:
    """The least multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def flat(x: jax.Array, kept: int) -> jax.Array:
    """x with all axes after the first `kept` as one."""
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))


def array(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """What a kernel writes."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def array_like(x: jax.Array) -> jax.ShapeDtypeStruct:
    """One more of such arrays, to write."""
    return array(x.shape, x.dtype)


def first_tokens(pos: jax.Array, block: int) -> jax.Array:
    """Where documents start, [1 or B, 1, T filled up to whole blocks], int32."""
    first = (pos == 0).astype(jnp.int32).reshape(-1, 1, pos.shape[-1])
    return jnp.pad(first, ((0, 0), (0, 0), (0, up(pos.shape[-1], block) - pos.shape[-1])))


def once(gates: Gates) -> Callable[[Arrays, Arrays, jax.Array], object]:
    """What a forward pass computes of the gates and of what follows, for estimates of its cost."""
    if gates.out is None:
        return gates.gates
    out = gates.out
    return lambda x, w, first: (gates.gates(x, w, first), out(x[0], behind(gates, x, x[0][..., :1]), w))


def again_and_back(gates: Gates) -> Callable[[Arrays, Arrays, jax.Array], object]:
    """What a backward pass computes of the gates and of what follows, for estimates of its cost."""

    def found(x: Arrays, w: Arrays, first: jax.Array) -> object:
        through = gates.gates_grad(x, w, first, *gates.gates(x, w, first))
        given = behind(gates, x, x[0][..., :1])
        return through if gates.out_grad is None else (through, gates.out_grad(x[0], given, w, x[0]))

    return found


def behind(gates: Gates, x: Arrays, norm: Any) -> Arrays:
    """What the equations behind a scan take of a token: inputs, and perhaps its normaliser."""
    return (*x, norm) if gates.normalised else x


def read(gates: Gates, h: jax.Array, x: Arrays, w: Arrays) -> jax.Array:
    """What a diagonal scan gives back of its states."""
    return h if gates.out is None else gates.out(h, x, w)


def read_grad(gates: Gates, h: jax.Array, x: Arrays, w: Arrays, d: jax.Array) -> tuple[jax.Array, Arrays, Arrays]:
    """The derivatives of `read` by h, x and w, those by x and w being empty if it is h itself."""
    return (d, (), ()) if gates.out_grad is None else gates.out_grad(h, x, w, d)


def added(one: Arrays, other: Arrays) -> Arrays:
    """The sums of two rows of arrays, of which the second may be empty."""
    return tuple(a + b for a, b in zip(one, other, strict=True)) if other else one


def estimated(function: Callable[..., object], *arrays: Any) -> pl.CostEstimate:
    """Operations and exponentials of a function of such arrays; no bytes, for what it computes stays in registers.

    That of JAX, which takes the logarithm of the exponent of a whole power, so that a negative one is counted here: of
    `x ** -n` the quotient of one and `x ** n`.
    """
    return _estimated(jax.make_jaxpr(function)(*arrays).jaxpr)


def _estimated(jaxpr: Jaxpr) -> pl.CostEstimate:
    flops = transcendentals = 0
    for equation in jaxpr.eqns:
        params, inner = dict(equation.params), [z for z in equation.params.values() if isinstance(z, ClosedJaxpr)]
        if negative := equation.primitive is jax.lax.integer_pow_p and params["y"] < 0:
            params["y"] = -params["y"]
        shapes, (result, *_) = map(_shape, equation.invars), map(_shape, equation.outvars)
        found = (
            [_estimated(each.jaxpr) for each in inner]
            if inner
            else [pl.estimate_cost(functools.partial(equation.primitive.bind, **params), *shapes)]
        )
        flops += sum(each.flops for each in found) + negative * result.size
        transcendentals += sum(each.transcendentals for each in found)
    return pl.CostEstimate(flops=flops, transcendentals=transcendentals, bytes_accessed=0)


def _shape(value: Any) -> jax.ShapeDtypeStruct:
    """That of a value in a program."""
    return array_like(value.aval)


def gates_cost(
    equations: Callable[[Arrays, Arrays, jax.Array], object], x: Arrays, w: Arrays, traffic: int
) -> pl.CostEstimate:
    """Work of these equations and of a recurrence for all tokens x [B, T, C], with the bytes read and written."""
    one = array((1,), jnp.float32)
    found = estimated(equations, tuple(one for _ in x), tuple(one for _ in w), array((1,), jnp.bool))
    return pl.CostEstimate(
        flops=(found.flops + 2) * x[0].size,
        transcendentals=found.transcendentals * x[0].size,
        bytes_accessed=traffic,
    )


def selective_cost(gates: pl.CostEstimate, steps: int, elements: int, states: int) -> pl.CostEstimate:
    """That of the gates, and `steps` operations and an exponential for each state of each element."""
    return pl.CostEstimate(
        flops=gates.flops + steps * elements * states,
        transcendentals=gates.transcendentals + elements * states,
        bytes_accessed=gates.bytes_accessed,
    )


def traffic(*arrays: Any) -> int:
    """Bytes of all these arrays, or trees of arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))
