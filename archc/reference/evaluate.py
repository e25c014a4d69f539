"""The meaning of a graph: whole sequences, or token by token with caches as small as the graph allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from archc.ir.graph import Graph
from archc.passes.caches import bounds
from archc.passes.support import check_causal
from archc.reference.frame import Array, Evaluate, Frame
from archc.reference.rules import RULES


@dataclass(frozen=True)
class State:
    """What is known of the tokens so far: their positions [B, S], and the parts of the state by full name."""

    past: Array
    parts: Mapping[str, Array]


class Reference:
    """A graph with weights: whole sequences, or token by token with caches as small as the graph allows.

    `weights` are arrays by full checkpoint name, with the axes of `Weight.type`. Raises `ValueError` for a missing,
    unknown or misshapen one. Documents restart where pos is 0; fp32 and narrow types are double precision here.
    `rules` are what the ops mean: others than RULES may add errors to it.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Array], rules: Mapping[str, Evaluate] | None = None) -> None:
        declared = graph.named_weights()
        if set(declared) != set(weights):
            raise ValueError(f"weights differ from the graph's: {sorted(set(declared) ^ set(weights))}")
        for name, weight in declared.items():
            shape = tuple(a.size for a in weight.type.axes)
            if weights[name].shape != shape:
                raise ValueError(f"weight '{name}' is {weights[name].shape}, not {shape}")
        self.graph = graph
        self.rules = RULES if rules is None else rules
        self.weights = {n: w if np.iscomplexobj(w) else w.astype(np.float64) for n, w in weights.items()}
        self.supports = check_causal(graph)
        self.kept = bounds(graph)

    def run(self, inputs: Mapping[str, Array], pos: Array | None = None) -> tuple[Array, ...]:
        """Whole sequences: inputs [B, T] by name -> every output, [B, T, *axes] ([B, *axes] for one per sequence).

        `pos` [B, T]: positions in the documents; without it each sequence is one document from 0.
        """
        tokens = inputs["tokens"]
        if pos is None:
            pos = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        outputs, _ = self.extend(inputs, self.start(tokens.shape[0]), pos)
        return outputs

    def start(self, batch: int) -> State:
        """Nothing seen yet."""
        return State(np.zeros((batch, 0), dtype=np.int64), {})

    def step(
        self, inputs: Mapping[str, Array], state: State, pos: Array | None = None
    ) -> tuple[tuple[Array, ...], State]:
        """One token per sequence: inputs [B] by name -> outputs [B, *axes] and the state after it.

        `pos` [B]: its position; without it the document goes on.
        """
        chunk = None if pos is None else pos[:, None]
        outputs, state = self.extend({k: v[:, None] for k, v in inputs.items()}, state, chunk)
        return tuple(o[:, 0] for o in outputs), state

    def extend(
        self, inputs: Mapping[str, Array], state: State, pos: Array | None = None
    ) -> tuple[tuple[Array, ...], State]:
        """The next T tokens of each sequence: inputs [B, T] by name -> outputs [B, T, *axes], state after them."""
        batch, length = inputs["tokens"].shape
        if pos is None:
            first = state.past[:, -1:] + 1 if state.past.shape[1] else np.zeros((batch, 1), dtype=np.int64)
            pos = first + np.arange(length)
        frame = Frame(
            rules=self.rules,
            weights=self.weights,
            inputs=inputs,
            past=np.concatenate([state.past, pos], axis=1),
            length=length,
            state=dict(state.parts),
            kept=self.kept,
            supports=self.supports,
        )
        outputs = frame.run(self.graph.main)
        return outputs, State(frame.past, frame.state)
