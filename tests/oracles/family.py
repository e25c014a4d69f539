"""A model of transformers and the spec that should equal it, joined by a table of their weights.

A row `name of ours: (name of theirs, f)` says that ours is `f(theirs)`, in ours' shape. Every f is affine (a transpose,
a slice, `1 + w`), so that gradients map by the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

import archc

Move = Callable[[Tensor], Tensor]
Rows = Mapping[str, tuple[str, Move]]


@dataclass(frozen=True)
class Family:
    """A spec with settings and the model of transformers that it should equal.

    `layers`: rows for each layer, by its place in the pattern of blocks; `prefix`: what stands before the number of a
    layer in their names. `window`: how many tokens a query sees in some layer; 0: all.
    """

    spec: str
    settings: Mapping[str, int]
    model: type[PreTrainedModel]
    config: PretrainedConfig
    outer: Rows
    layers: tuple[Rows, ...]
    prefix: str
    window: int = 0

    @property
    def rows(self) -> Rows:
        """Every row, with full names."""
        rows = dict(self.outer)
        for i in range(self.config.num_hidden_layers):
            for ours, (theirs, move) in self.layers[i % len(self.layers)].items():
                rows[f"layers.{i}.{ours}"] = (f"{self.prefix}.{i}.{theirs}", move)
        return rows

    def theirs(self) -> PreTrainedModel:
        """Their model in single precision, every parameter drawn anew: none is left at zero or one."""
        draw = torch.Generator().manual_seed(1)
        model = self.model(self.config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(_drawn(name, weight, draw))
        return model

    def ours(self, theirs: nn.Module, **settings: int) -> nn.Module:
        """Our emitted model with their weights."""
        model = archc.load(self.spec, backend="torch", **{**self.settings, **settings}).eval()
        model.load_state_dict(self.moved(dict(theirs.named_parameters()), dict(model.named_parameters())), strict=True)
        return model

    def moved(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors under our names and in our shapes."""
        return {name: move(theirs[of]).detach().reshape(ours[name].shape) for name, (of, move) in self.rows.items()}

    def gradients(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their gradients as ours: the linear part of every row."""
        zeros = {name: torch.zeros_like(g) for name, g in theirs.items()}
        moved, at_zero = self.moved(theirs, ours), self.moved(zeros, ours)
        return {name: moved[name] - at_zero[name] for name in moved}


def _drawn(name: str, weight: Tensor, draw: torch.Generator) -> Tensor:
    if name.endswith("recurrent_param"):  # from decays that remember hundreds of tokens to some that forget at once
        return torch.empty_like(weight).uniform_(-7, 0, generator=draw)
    if name.endswith(("dt_bias", "dt_proj.bias")):
        return torch.empty_like(weight).uniform_(-4, 0, generator=draw)
    if weight.dim() == 1 or "A_log" in name:
        return torch.empty_like(weight).normal_(0.2, 0.5, generator=draw)
    if "embed" in name or "lm_head" in name:
        return torch.empty_like(weight).normal_(0, 1, generator=draw)
    return torch.empty_like(weight).normal_(0, weight[0].numel() ** -0.5, generator=draw)


def same(w: Tensor) -> Tensor:
    """Biases, scales and tables."""
    return w


def turned(w: Tensor) -> Tensor:
    """A matrix [out, in] as [in, out]."""
    return w.T


def taps(w: Tensor) -> Tensor:
    """A depthwise convolution [channels, 1, taps] as [taps, channels]; in both the last tap weighs the present."""
    return w[:, 0].T


def one_more(w: Tensor) -> Tensor:
    """RecurrentGemma's norms multiply by 1 + w; ours by the scale itself."""
    return 1 + w


def cut(sizes: tuple[int, ...], which: int, move: Move) -> Move:
    """One of several weights that lie side by side on their first axis."""
    return lambda w: move(w.split(sizes)[which])


def linear(matrix: str, bias: str, theirs: str, move: Move = same) -> Rows:
    """The rows of a matrix [out, in] and its bias [out]; `move` takes its part of the axis that comes out."""
    return {matrix: (f"{theirs}.weight", lambda w: move(w).T), bias: (f"{theirs}.bias", move)}


def layer_norm(ours: str, theirs: str) -> Rows:
    """The rows of a scale and a shift."""
    return {f"{ours}.scale": (f"{theirs}.weight", same), f"{ours}.shift": (f"{theirs}.bias", same)}
