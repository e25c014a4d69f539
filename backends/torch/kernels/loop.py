"""A recurrence with any step body: one token after the other, with the graphs of a few steps at a time."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

STEPS = 16  # tokens whose steps the backward pass runs again at once; what it keeps of the others is their states

Tensors = tuple[Tensor, ...]


def loop(
    body: Callable[[Tensors, Tensors], Tensors],
    inputs: Tensors,
    starts: Tensors,
    pos: Tensor,
    state: Tensors | None = None,
) -> tuple[Tensors, Tensors | None]:
    """`states, extras = body(inputs[t], states)` for every token, from `starts` where `pos == 0`.

    body: from the inputs of a token and the states before it, each [B, *axes], the new states and then any further
    values, as one tuple; a deterministic function, which may close over weights. inputs: each [B, T, *axes]. starts:
    each [B, *axes]. pos: [T] (whole documents, the state is not read) or [B, T]. state: the states, or None.
    Returns the states and the further values of all tokens, each [B, T, *axes], and the last states.
    """
    states = starts if state is None or pos.dim() == 1 else state
    fresh = pos == 0 if pos.dim() == 2 else None
    outs: list[Tensors] = []
    for piece in zip(*(x.split(STEPS, 1) for x in inputs), strict=True):
        first = STEPS * len(outs)
        part = None if fresh is None else fresh[:, first : first + STEPS]
        values = checkpoint(_steps, body, piece, starts, states, part, use_reentrant=False, preserve_rng_state=False)
        states = tuple(value[:, -1] for value in values[: len(starts)])
        outs.append(values)
    return tuple(torch.cat(parts, 1) for parts in zip(*outs, strict=True)), None if state is None else states


def _steps(
    body: Callable[[Tensors, Tensors], Tensors], inputs: Tensors, starts: Tensors, states: Tensors, fresh: Tensor | None
) -> Tensors:
    """The values of a few tokens, [B, steps, *axes]; fresh: where a document starts, [B, steps]."""
    outs: list[Tensors] = []
    for t, token in enumerate(zip(*(x.unbind(1) for x in inputs), strict=True)):
        if fresh is not None:
            states = tuple(
                torch.where(fresh[:, t].reshape(-1, *[1] * (old.dim() - 1)), start, old)
                for start, old in zip(starts, states, strict=True)
            )
        values = body(token, states)
        states = values[: len(starts)]
        outs.append(values)
    return tuple(torch.stack(parts, 1) for parts in zip(*outs, strict=True))
