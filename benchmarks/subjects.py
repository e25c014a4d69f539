"""The models that are compared: the emitted one and its counterpart in transformers, with the same weights."""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from benchmarks.measure import Clock, Run, seconds
from tests.oracles.families import llama, mamba, mamba2, mistral, pythia, recurrentgemma
from tests.oracles.family import Family

HEAD = 64
NAMES = ("recurrentgemma", "mamba", "mamba2", "llama", "mistral", "pythia")


@dataclass(frozen=True)
class Size:
    """Of all: heads have 64 channels, three query heads share keys in Llama and Mistral, windows are of 512 tokens."""

    width: int
    depth: int
    vocab: int


def family(name: str, size: Size) -> Family:
    """A spec and the configuration of transformers that equals it."""
    heads = size.width // HEAD
    kv = heads // 3 if heads % 3 == 0 else heads
    match name:
        case "recurrentgemma":
            return recurrentgemma(size.width, size.depth, size.vocab, heads, window=512)
        case "mamba":
            return mamba(size.vocab, size.width, size.depth, state=16)
        case "llama":
            return llama(kv, size.width, size.depth, size.vocab, heads, hidden=8 * size.width // 3)
        case "mistral":
            hidden = 8 * size.width // 3
            return mistral(512, HEAD, size.width, size.depth, size.vocab, heads, kv, hidden)
        case "pythia":
            return pythia(size.width, size.depth, size.vocab, heads)
        case "mamba2":
            return mamba2(1, size.width, size.depth, size.vocab, HEAD, state=128, chunk=256)
        case _:
            raise ValueError(f"{name}: not one of {', '.join(NAMES)}")


def with_mambapy(plain: Family) -> Family:
    """The same model, whose counterpart takes the parallel scan of the package mambapy on whole sequences."""
    config = copy.deepcopy(plain.config)
    config.use_mambapy = True
    return replace(plain, config=config)


def theirs(family: Family) -> PreTrainedModel:
    """The model of transformers as it draws its own weights.

    Not `Family.theirs`: its large logits make probabilities, and so gradients, too small for normal numbers, and
    products of those take a processor many times as long.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = family.model(family.config)
    model.train()
    return model


def tokens(batch: int, time: int, vocab: int) -> Tensor:
    """Random ones [batch, time]."""
    return torch.randint(vocab, (batch, time), generator=torch.Generator().manual_seed(0))


def training(model: nn.Module, logits: Callable[[Tensor], Tensor], inputs: Tensor, clock: Clock) -> Run:
    """Forward, loss of the next token, backward; the gradients are new arrays each time."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        cross_entropy(logits(inputs)[:, :-1].flatten(0, 1), inputs[:, 1:].flatten()).backward()

    return lambda: {"train": seconds(step, clock)}


def decoding(
    prefill: Callable[[Tensor], Any], step: Callable[[Tensor, Any], Any], inputs: Tensor, new: int, clock: Clock
) -> Run:
    """All but the last `new` tokens at once, then those one by one: seconds of that prompt, and for each token."""

    @torch.inference_mode()
    def run() -> Mapping[str, float]:
        prompt, *rest = inputs.split([inputs.shape[1] - new, *[1] * new], 1)
        start = clock()
        state = prefill(prompt)
        middle = clock()
        for token in rest:
            state = step(token, state)
        return {"prefill": middle - start, "token": (clock() - middle) / new}

    return run


def our_decoding(model: Any, inputs: Tensor, new: int, clock: Clock) -> Run:
    """The emitted model."""
    batch, time = inputs.shape
    return decoding(
        lambda prompt: model.step(prompt, model.init_state(batch, time))[1],
        lambda token, state: model.step(token, state)[1],
        inputs,
        new,
        clock,
    )


def their_decoding(model: Any, inputs: Tensor, new: int, clock: Clock) -> Run:
    """The model of transformers. RecurrentGemma keeps its recurrent states itself and starts anew with a prompt."""
    recurrent = isinstance(model, transformers.MambaForCausalLM | transformers.Mamba2ForCausalLM)
    cache = "cache_params" if recurrent else "past_key_values"

    def step(token: Tensor, state: Any) -> Any:
        model(token, use_cache=True, **{cache: state})
        return state

    return decoding(
        lambda prompt: step(prompt, transformers.DynamicCache(config=model.config)),
        step,
        inputs,
        new,
        clock,
    )


@torch.inference_mode()
def difference(ours: nn.Module, theirs: nn.Module, inputs: Tensor) -> float:
    """The largest between their logits."""
    return float((ours(inputs) - theirs(inputs, use_cache=False).logits).abs().max())
