"""A model of transformers, saved as its authors would and imported: the spec that should equal it, with its weights."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

import archc
from archc.diagnostics import Source
from archc.emit.initial import stored_shapes
from archc.exchange.checkpoint import present
from archc.exchange.fields import Config, read_config


@dataclass(frozen=True, eq=False)
class Family:
    """A model of transformers at some sizes.

    `window`: how many tokens a query sees in some layer, 0: all. `options`: what the class takes besides its config.
    `regrouped`: it holds its parameters otherwise than its files do.
    """

    model: type[PreTrainedModel]
    config: PretrainedConfig
    window: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    regrouped: bool = False

    @cached_property
    def read(self) -> Config:
        """What the config says, as it would be read from a file."""
        return read_config(Source("config.json", self.config.to_json_string(use_diff=False)))

    @cached_property
    def spec(self) -> str:
        """The text of the spec."""
        return self.read.text

    def theirs(self) -> PreTrainedModel:
        """Their model in single precision, every parameter drawn anew: none is left at zero or one."""
        draw = torch.Generator().manual_seed(1)
        model = self.model(self.config, **self.options).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(_drawn(name, weight, draw))
        return model

    @cached_property
    def imported(self) -> Imported:
        """Their model, saved in many shards, and imported; once in a process."""
        folder = Path(mkdtemp(prefix="archc-test-"))
        atexit.register(rmtree, folder, ignore_errors=True)
        theirs = self.theirs()
        theirs.save_pretrained(folder / "hf", max_shard_size="20KB")
        archc.import_hf(folder / "hf", folder / "run")
        return Imported(theirs, folder / "hf", folder / "run")

    def ours(self, theirs: nn.Module, **settings: float) -> nn.Module:
        """Our emitted model with their weights."""
        model = archc.load(self.spec, backend="torch", **settings).eval()
        model.load_state_dict(self.moved(dict(theirs.named_parameters())), strict=True)
        return model

    def moved(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors, or the gradients of these, under our names and in our shapes."""
        family = self.read.family
        named = {present(name, family): tensor.detach().numpy() for name, tensor in theirs.items()}
        graph = archc.check(self.spec).graph
        plan = family.moves(graph, self.read.head)
        assert named.keys() == {move.theirs for move in plan}
        whole = [each for move in plan for each in move.to_ours(named[move.theirs])]
        assert all(piece.at is None for piece, _ in whole)
        shapes = stored_shapes(graph)
        return {piece.ours: torch.from_numpy(part.reshape(shapes[piece.ours])) for piece, part in whole}


@dataclass(frozen=True, eq=False)
class Imported:
    """Their model, the folder `saved` that they wrote, and the `run` that it was imported into."""

    theirs: PreTrainedModel
    saved: Path
    run: Path

    @cached_property
    def ours(self) -> nn.Module:
        """The emitted model with the weights of the run."""
        return archc.load(self.run, backend="torch").eval()


def _drawn(name: str, weight: Tensor, draw: torch.Generator) -> Tensor:
    if name.endswith("recurrent_param"):  # from decays that remember hundreds of tokens to some that forget at once
        return torch.empty_like(weight).uniform_(-7, 0, generator=draw)
    if name.endswith(("dt_bias", "dt_proj.bias")):
        return torch.empty_like(weight).uniform_(-4, 0, generator=draw)
    if weight.dim() == 1 or "A_log" in name:
        return torch.empty_like(weight).normal_(0.2, 0.5, generator=draw)
    if "embed" in name or "head" in name:
        return torch.empty_like(weight).normal_(0, 1, generator=draw)
    return torch.empty_like(weight).normal_(0, weight[0].numel() ** -0.5, generator=draw)
