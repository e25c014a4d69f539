"""A recurrence with any step body: one token after the other, with the graphs of a few steps at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

STEPS = 16  # tokens whose steps the backward pass runs again at once; what it keeps of the others is their states

Arrays = tuple[jax.Array, ...]
Step = Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]


def loop(
    body: Callable[[Arrays, Arrays], Arrays],
    inputs: Arrays,
    starts: Arrays,
    pos: jax.Array,
    state: Arrays | None = None,
) -> tuple[Arrays, Arrays | None]:
    """`states, extras = body(inputs[t], states)` for every token, from `starts` where `pos == 0`.

    body: from the inputs of a token and the states before it, each [B, *axes], the new states and then any further
    values, as one tuple; it may close over weights. inputs: each [B, T, *axes]. starts: each [B, *axes]. pos: [T]
    (whole documents, the state is not read) or [B, T]. state: the states, or None. States are carried in the dtype
    in which the body returns them, or in the wider one of their start.
    Returns the states and the further values of all tokens, each [B, T, *axes], and the last states.
    """
    shapes = jax.eval_shape(body, tuple(x[:, 0] for x in inputs), starts)
    starts = tuple(x.astype(jnp.result_type(x, new)) for x, new in zip(starts, shapes, strict=False))
    states = starts if state is None or pos.ndim == 1 else tuple(map(_like, state, starts))
    tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (jnp.broadcast_to(pos, inputs[0].shape[:2]), *inputs))

    def step(states: Arrays, token: Arrays) -> tuple[Arrays, Arrays]:
        now, *rest = token
        if pos.ndim == 2:
            states = tuple(
                jnp.where((now == 0).reshape(-1, *[1] * (old.ndim - 1)), start, old)
                for old, start in zip(states, starts, strict=True)
            )
        values = body(tuple(rest), states)
        return tuple(map(_like, values, starts)), values

    states, values = _steps(step, states, tokens)
    return tuple(jnp.moveaxis(x, 0, 1) for x in values), None if state is None else states


def _steps(step: Step, states: Arrays, tokens: Arrays) -> tuple[Arrays, Arrays]:
    """`step` for the tokens [T, B, *axes], in blocks whose graphs are not kept, and one shorter block at the end."""
    count = tokens[0].shape[0] // STEPS
    whole = tuple(x[: count * STEPS].reshape(count, STEPS, *x.shape[1:]) for x in tokens)
    rest = tuple(x[count * STEPS :] for x in tokens)

    @jax.checkpoint
    def block(states: Arrays, tokens: Arrays) -> tuple[Arrays, Arrays]:
        result: tuple[Arrays, Arrays] = jax.lax.scan(step, states, tokens)
        return result

    states, first = jax.lax.scan(block, states, whole)
    states, last = block(states, rest)
    joined = (jnp.concatenate([x.reshape(-1, *x.shape[2:]), y]) for x, y in zip(first, last, strict=True))
    return states, tuple(joined)


def _like(x: jax.Array, other: jax.Array) -> jax.Array:
    return x.astype(other.dtype)
