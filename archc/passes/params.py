"""How many parameters a model has, by tensor, by layer and by role."""

from __future__ import annotations

from dataclasses import dataclass

from archc.ir.graph import Graph, Value, Weight
from archc.passes.support import live_values


@dataclass(frozen=True)
class Tensor:
    """One trained tensor: its full name, its number of elements, what it is for."""

    name: str
    count: int
    role: str
    layer: str
    weight: Weight


@dataclass(frozen=True)
class Params:
    """All trained tensors. Frozen buffers are in `frozen` and in no count."""

    tensors: tuple[Tensor, ...]
    frozen: tuple[Tensor, ...]

    @property
    def total(self) -> int:
        """Every trained element; a tied weight once."""
        return sum(t.count for t in self.tensors)

    @property
    def embedding(self) -> int:
        """Tables that are looked up, also where they are the head as well."""
        return sum(t.count for t in self.tensors if t.role == "embedding")

    @property
    def head(self) -> int:
        """An untied matrix from the last stream to the vocabulary."""
        return sum(t.count for t in self.tensors if t.role == "head")

    @property
    def non_embedding(self) -> int:
        """All but looked-up tables and the untied head: the figure that Pythia, Griffin and RecurrentGemma publish."""
        return self.total - self.embedding - self.head

    def by_layer(self) -> dict[str, int]:
        """Elements by the layer's prefix (`layers.3`); what is outside of a stack under the empty string."""
        out: dict[str, int] = {}
        for tensor in self.tensors:
            out[tensor.layer] = out.get(tensor.layer, 0) + tensor.count
        return out


def params(graph: Graph) -> Params:
    """Counts the tensors of a graph under their full names."""
    looked_up, vocabularies, heads = _roles(graph)
    trained: list[Tensor] = []
    frozen: list[Tensor] = []
    for region, prefixes in graph.regions():
        for prefix in prefixes:
            for weight in graph.weights.get(region, ()):
                name = f"{prefix}.{weight.path}" if prefix else weight.path
                role: str = weight.role
                if not prefix and weight.path in looked_up:
                    role = "embedding"
                elif not prefix and heads.get(weight.path, set()) & vocabularies:
                    role = "head"
                tensor = Tensor(name, weight.type.elements, role, prefix, weight)
                (frozen if weight.frozen else trained).append(tensor)
    return Params(tuple(trained), tuple(frozen))


def _roles(graph: Graph) -> tuple[set[str], set[str], dict[str, set[str]]]:
    """Paths of looked-up weights; the axes along which they are looked up; path of a matrix -> axes that it makes."""
    main = set(graph.main.values)
    looked_up: set[str] = set()
    vocabularies: set[str] = set()
    made: dict[str, set[str]] = {}
    for value in live_values(graph):
        if value not in main:
            continue
        if value.op == "lookup":
            table = value.operands[0]
            looked_up.add(table.attrs["path"])
            vocabularies.add(table.type.axes[0].name)
        if value.op == "contract":
            matrix: Value = value.operands[1]
            if matrix.op == "weight":
                made[matrix.attrs["path"]] = set(value.attrs.get("made", ()))
    return looked_up, vocabularies, made
