"""The models whose training and decoding are timed, at about 400 million and a billion weights and one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VOCAB = 32_000


@dataclass(frozen=True)
class Subject:
    """A spec, and the settings of its sizes; tiny: one to see that everything runs."""

    name: str
    spec: str
    sizes: Mapping[str, tuple[str, Mapping[str, int]]]
    tiny: Mapping[str, int]

    def sized(self, size: str) -> tuple[str, dict[str, int]]:
        """What `archc.compile` takes."""
        if size == "tiny":
            return self.spec, {**self.tiny, "vocab": 16}
        label, settings = self.sizes[size]
        return self.spec + (f":{label}" if label else ""), {**settings, "vocab": VOCAB}


def _labels(small: str, large: str) -> dict[str, tuple[str, Mapping[str, int]]]:
    return {"400m": (small, {}), "1b": (large, {})}


def _settings(**shared: int) -> dict[str, tuple[str, Mapping[str, int]]]:
    small = {"width": 1024, "depth": 24, "heads": 16, "hidden": 2816}
    large = {"width": 2048, "depth": 24, "heads": 16, "hidden": 5632}
    return {"400m": ("", {**small, **shared}), "1b": ("", {**large, **shared})}


HEADS = {"width": 16, "depth": 1, "heads": 2}
SUBJECTS = (
    Subject("Griffin", "griffin", _labels("400m", "1.3b"), {**HEADS, "depth": 3, "rnn": 16, "gates": 2, "window": 4}),
    Subject("MQA Transformer", "mqa_transformer", _labels("400m", "1.3b"), HEADS),
    Subject("Mamba", "mamba", _labels("370m", "1.4b"), {"width": 16, "depth": 1, "state": 2}),
    Subject("Mamba-2", "mamba2", _labels("370m", "1.3b"), {"width": 16, "depth": 1, "head": 16, "state": 4}),
    Subject(
        "DCFormer++, 3 local to 1",
        "dcformer",
        _settings(window=256, more=2),
        {**HEADS, "depth": 4, "hidden": 16, "more": 2},
    ),
    Subject("Transformer++", "llama", _settings(kv=16, base=10_000), {**HEADS, "kv": 2, "hidden": 16}),
)
