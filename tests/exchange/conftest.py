"""Small models of transformers with random weights, saved as their authors would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from tests.oracles.families import BERT, DECODERS, LONGFORMER, VOCAB
from tests.oracles.family import Family


def _mixtral() -> Family:
    config = transformers.MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        num_local_experts=4,
    )
    return Family(transformers.MixtralForCausalLM, config)


def _gpt() -> Family:
    config = transformers.OpenAIGPTConfig(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    return Family(transformers.OpenAIGPTLMHeadModel, config)


FAMILIES = {**DECODERS, "mixtral": _mixtral(), "gpt": _gpt(), "bert": BERT, "longformer": LONGFORMER}
"""By name; those of the oracles, and such as keep their tensors in memory otherwise than in files."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "20KB") -> PreTrainedModel:
    """A random model in a folder, in many shards; the model."""
    model = FAMILIES[name].theirs().to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return model
