"""Attention made into Mamba: which weights a layer takes over, and that every channel meets the one it met before."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from archc.ir.graph import Graph, Weight
from archc.specs_index import program

HYBRIDS = [
    ("mamba_in_llama", "linear_attention"),
    ("mamba1_in_llama", "selective_attention"),
    ("mamba_in_zephyr", "linear_attention"),
    ("mamba1_in_zephyr", "selective_attention"),
]


def weight(graph: Graph, layer: int, instance: str, name: str) -> Weight:
    return graph.named_weights()[f"layers.{layer}.{instance}.{name}"]


def partners(of_queries: Weight, of_keys: Weight) -> NDArray[np.int64]:
    """For each column of a matrix of query heads the column of the key heads that has its place in all common axes."""
    sizes = {a.name: a.size for a in of_queries.type.axes if a.name != "width"}
    common = [a.name for a in of_keys.type.axes if a.name != "width"]
    columns = np.arange(np.prod([sizes[n] for n in common])).reshape([sizes[n] for n in common])
    return np.broadcast_to(columns[tuple(slice(None) if n in common else None for n in sizes)], sizes.values()).ravel()


@pytest.mark.parametrize(("spec", "mixer"), HYBRIDS)
def test_projections_have_the_shapes_of_attention(spec: str, mixer: str) -> None:
    graph = program(f"{spec}:50").graph
    for name in ("W_q", "W_k", "W_v", "W_o"):
        new, old = weight(graph, 0, mixer, name), weight(graph, 1, "attention", name)
        assert new.type.elements == old.type.elements
        assert (new.type.axes[0].name == "width") == (old.type.axes[0].name == "width") == (name != "W_o")


@pytest.mark.parametrize(("spec", "mixer"), HYBRIDS)
def test_grouped_keys_and_values_repeat_by_heads(spec: str, mixer: str) -> None:
    """All of 4096 query channels meet the key channel that they met in attention; values come out where they did."""
    graph = program(f"{spec}:50").graph
    for queries, keys in (("W_q", "W_k"), ("W_o", "W_v")):
        new = partners(weight(graph, 0, mixer, queries), weight(graph, 0, mixer, keys))
        old = partners(weight(graph, 1, "attention", queries), weight(graph, 1, "attention", keys))
        assert new.size == 4096
        np.testing.assert_array_equal(new, old)
