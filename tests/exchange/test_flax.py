"""Imported into Flax, a model of transformers computes what it did: whole sequences, a prompt, and a token behind it.

One model for each spec; that all variants of it are theirs is held in PyTorch (`tests/oracles`), from the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import Array
from torch import Tensor

import archc
from archc.exchange.family import families
from tests.oracles.families import BERTS, DECODERS, LONGFORMER, VOCAB
from tests.oracles.family import Imported
from tests.xla import QUICK

BOUND = 1e-4
TIME, PROMPT = 21, 13
SPECS = {family.read.family.spec: name for name, family in reversed(DECODERS.items())}
"""Spec -> the first of the models that are imported into it."""


def tokens() -> Tensor:
    """None of them is that of padding, which has no position in some models."""
    return torch.randint(2, VOCAB, (2, TIME), generator=torch.Generator().manual_seed(2))


def kinds() -> Tensor:
    """A second whole number for every token."""
    return (torch.arange(TIME) % 7 == 3).long().expand(2, -1)


@pytest.mark.parametrize("spec", SPECS)
def test_a_decoder_has_their_logits_whole_prompted_and_one_token_on(spec: str) -> None:
    imported = DECODERS[SPECS[spec]].imported
    with torch.no_grad():
        wanted = imported.theirs(tokens(), use_cache=False).logits

    def run(model: Any, given: Array) -> tuple[Array, ...]:
        prompt, state = model.step(given[:, :PROMPT], model.init_state(2, TIME))
        token, _ = model.step(given[:, PROMPT : PROMPT + 1], state)
        return model(given), prompt, token

    whole, prompt, token = at_once(imported, run, tokens())
    assert_close(whole, wanted)
    assert_close(prompt, wanted[:, :PROMPT])
    assert_close(token, wanted[:, PROMPT : PROMPT + 1])


def test_a_bert_has_both_of_their_heads() -> None:
    imported = BERTS["bert"].imported
    with torch.no_grad():
        wanted = imported.theirs(tokens(), token_type_ids=kinds())
    words, is_next = at_once(imported, lambda model, *given: model(*given), tokens(), kinds())
    assert_close(words, wanted.prediction_logits)
    assert_close(is_next, wanted.seq_relationship_logits)


def test_a_longformer_has_their_logits() -> None:
    imported = LONGFORMER.imported
    with torch.no_grad():
        wanted = imported.theirs(tokens(), global_attention_mask=kinds())
    assert_close(at_once(imported, lambda model, *given: model(*given), tokens(), kinds()), wanted.logits)


def test_every_spec_with_data_is_one_of_these() -> None:
    here = {*SPECS, *(family.read.family.spec for family in (*BERTS.values(), LONGFORMER))}
    assert here == {family.spec for family in families()}


def at_once(imported: Imported, run: Callable[..., Any], *given: Tensor) -> Any:
    """What `run` makes of the model and what is given, as one program: compiling is what takes time here."""
    graph, weights = nnx.split(archc.load(imported.run, backend="flax"))

    def program(weights: Any, *given: Array) -> Any:
        return run(nnx.merge(graph, weights), *given)

    return jax.jit(program, compiler_options=QUICK)(weights, *(jnp.asarray(each.numpy()) for each in given))


def assert_close(found: Array, wanted: Tensor) -> None:
    np.testing.assert_allclose(found, wanted.numpy(), atol=BOUND, rtol=0)
