"""What a model says of itself: which weights stay in single precision, which are not decayed, its work, its
vocabulary."""

from __future__ import annotations

from archc.elaborate.call import Program
from archc.ir.graph import Layer
from archc.passes.decay import without_weight_decay
from archc.passes.flops import flops
from archc.passes.precision import single_precision
from archc.passes.vocabulary import vocabulary
from archc.passes.workload import Workload


def constants(program: Program, context: int) -> list[str]:
    """The class attributes of a model, as lines."""
    graph = program.graph
    layers = _layers(program)
    prefixes = tuple(layer.prefix + "." for layer in layers)
    short = {_suffix(name, prefixes) for name in single_precision(graph)}
    train = flops(graph, Workload(1, context, context, "train")).per_token.total
    lines = [f"VOCAB = {vocabulary(graph)}"]
    lines += _named("FP32", sorted(short), "stay in single precision: what the spec computes there, and decays")
    lines += _per_layer(sorted(without_weight_decay(graph)), layers)
    lines.append(f'FLOPS = {{"train_per_token": {float(train):.6g}}}  # forward and backward, at {context} tokens')
    return lines


def _layers(program: Program) -> tuple[Layer, ...]:
    return tuple(layer for stack in program.root.stacks.values() for layer in stack.layers)


def _suffix(name: str, prefixes: tuple[str, ...]) -> str:
    found = next((p for p in prefixes if name.startswith(p)), "")
    return name[len(found) :]


def _set(names: list[str]) -> str:
    return "frozenset({" + ", ".join(f'"{n}"' for n in names) + "})" if names else "frozenset()"


def _named(what: str, names: list[str], why: str) -> list[str]:
    return [f"# weights that {why}", f"{what} = {_set(names)}"]


def _per_layer(names: list[str], layers: tuple[Layer, ...]) -> list[str]:
    """Full names, those of layers gathered by the layers that share them."""
    prefixes = {layer.prefix + ".": layer for layer in layers}
    plain: list[str] = []
    by_name: dict[tuple[str, str], list[int]] = {}
    for name in names:
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            plain.append(name)
        else:
            stack = prefix.rsplit(".", 2)[0]
            by_name.setdefault((stack, name[len(prefix) :]), []).append(prefixes[prefix].index)
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (stack, name), indices in by_name.items():
        groups.setdefault((stack, tuple(sorted(indices))), []).append(name)
    lines = [
        "# weights that weight decay leaves alone: vectors, tables, and what makes a decay",
        "NO_DECAY = frozenset(",
    ]
    lines.append("    {" + "".join(f'"{n}", ' for n in plain) + "}" if plain else "    set()")
    for (stack, places), found in groups.items():
        listed = ", ".join(f'"{n}"' for n in found)
        lines.append(f'    | {{f"{stack}.{{i}}.{{name}}" for i in {_indices(places)} for name in ({listed},)}}')
    lines.append(")")
    return lines


def _indices(indices: tuple[int, ...]) -> str:
    if len(indices) > 1:
        step = indices[1] - indices[0]
        if indices == tuple(range(indices[0], indices[-1] + 1, step)):
            last = indices[-1] + 1
            return f"range({indices[0]}, {last}, {step})" if step != 1 else f"range({indices[0]}, {last})"
    return f"({', '.join(map(str, indices))}{',' if len(indices) == 1 else ''})"
