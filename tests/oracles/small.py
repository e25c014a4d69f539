"""The shipped specs at sizes for counting: the smallest, of few layers, with long tables of positions."""

from __future__ import annotations

from functools import cache

import archc
from archc.elaborate import Program

BATCH = 2
LENGTH = 320
DEPTH = {"griffin": 3, "recurrentgemma": 3, "mamba_in_llama": 4}
"""Layers of one period of the pattern; of the others two are enough."""

PAIRS = ("griffin", "recurrentgemma", "mistral", "llama", "dcformer", "dcpythia", "bert", "longformer")
"""Windows and blocks of queries, some of them longer than 70."""

PLAIN = ("griffin", "hawk", "hgrn", "llama", "mqa_transformer", "pythia", "recurrentgemma", "rwkv4")
"""No scan in matrix form."""


def settings(name: str) -> dict[str, int]:
    found = {"depth": DEPTH.get(name, 2)}
    if "length" in archc.check(f"{name}:tiny").root.arguments:
        found["length"] = LENGTH
    return found


@cache
def program(name: str) -> Program:
    return archc.check(f"{name}:tiny", settings(name))


def other_inputs(name: str) -> int:
    """How many inputs a model has besides the tokens."""
    return len([each for each in program(name).graph.inputs if each != "tokens"])
