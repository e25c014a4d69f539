"""Models of transformers at small sizes, as configs: what they are in archc is the business of `archc.exchange`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedModel

from tests.oracles.family import Family

VOCAB = 61
STREAM = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2}
HEADS = STREAM | {"num_attention_heads": 3, "intermediate_size": 80}
GROUPED = HEADS | {"num_attention_heads": 6, "num_key_value_heads": 2}


def _of(model: type[PreTrainedModel], fields: Mapping[str, Any], window: int = 0, *, regrouped: bool = False) -> Family:
    """The model with these fields, all others as the library has them."""
    assert model.config_class is not None
    return Family(model, model.config_class(**fields), window, regrouped=regrouped)


def recurrentgemma(width: int, depth: int = 4, vocab: int = VOCAB, heads: int = 4, window: int = 6) -> Family:
    """Theirs halves its `intermediate_size` inside of the module."""
    fields = {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    gated = {"intermediate_size": 2 * 3 * width, "num_key_value_heads": 1, "attention_window_size": window}
    return _of(transformers.RecurrentGemmaForCausalLM, fields | gated, window)


def llama(kv: int, width: int = 48, depth: int = 2, vocab: int = VOCAB, heads: int = 6, hidden: int = 80) -> Family:
    fields = {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth, "intermediate_size": hidden}
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv, "rope_parameters": _rotations("default", 777)}
    return _of(transformers.LlamaForCausalLM, fields | attention | {"rms_norm_eps": 1e-5})


def mistral(
    window: int | None,
    dim: int = 8,
    width: int = 48,
    depth: int = 2,
    vocab: int = VOCAB,
    heads: int = 6,
    kv: int = 2,
    hidden: int = 80,
) -> Family:
    fields = {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth, "intermediate_size": hidden}
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": dim, "sliding_window": window}
    return _of(transformers.MistralForCausalLM, fields | attention, window or 0)


def mamba(vocab: int = VOCAB, width: int = 40, depth: int = 2, state: int = 8) -> Family:
    fields = {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth, "state_size": state}
    return _of(transformers.MambaForCausalLM, fields)


def mamba2(
    groups: int,
    width: int = 48,
    depth: int = 2,
    vocab: int = VOCAB,
    head: int = 8,
    state: int = 16,
    chunk: int = 8,
) -> Family:
    """Tied with one group."""
    fields = {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth, "tie_word_embeddings": groups == 1}
    heads = {"num_heads": 2 * width // head, "head_dim": head, "n_groups": groups}
    return _of(transformers.Mamba2ForCausalLM, fields | heads | {"state_size": state, "chunk_size": chunk})


def pythia(width: int = 48, depth: int = 2, vocab: int = VOCAB, heads: int = 3) -> Family:
    fields = {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    return _of(transformers.GPTNeoXForCausalLM, fields | {"intermediate_size": 4 * width})


def _rotations(kind: str, base: float, **more: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": float(base)} | more


def _bert(model: type[PreTrainedModel], **options: bool) -> Family:
    config = transformers.BertConfig(**HEADS | {"max_position_embeddings": 32})
    return Family(model, config, options=options)


# As Granite's code models are, and with heads that have a size of their own
BIASED = GROUPED | {"head_dim": 10, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}

# Llama 3.2: tied, and some rotations slower. Of 8 pairs 2 keep their speed, 2 lie between, 4 are slower
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
STRETCHED = HEADS | {
    "tie_word_embeddings": True,
    "max_position_embeddings": 131_072,
    "rope_parameters": _rotations("llama3", 500_000, **LLAMA3),
}

# Of 8 pairs 3 keep their speed, 3 lie between, 2 are slower
YARN = {
    "max_position_embeddings": 32_768,
    "rope_parameters": _rotations("yarn", 10_000, factor=8.0, original_max_position_embeddings=4096),
}

# The shortest step is so long that it is often taken
NEMOTRON_H = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 8,
    "time_step_min": 0.3,
}

# As RedPajama-INCITE and Rinna's GPT-NeoX are, with the activation of GPT-NeoX-20B
SEQUENTIAL = HEADS | {
    "hidden_act": "gelu_fast",
    "use_parallel_residual": False,
    "rope_parameters": _rotations("default", 777, partial_rotary_factor=1.0),
}

EXPERTS = GROUPED | {"num_local_experts": 4, "intermediate_size": 24}

# Three keys to either side; the positions of padding and of what comes before it are not used
LONG = HEADS | {"max_position_embeddings": 32, "attention_window": 6, "type_vocab_size": 1, "layer_norm_eps": 1e-5}

DECODERS = {
    "recurrentgemma": recurrentgemma(width=64),
    "llama with a key head per query head": llama(kv=6),
    "llama with grouped heads": llama(kv=2),
    "llama with biases": _of(transformers.LlamaForCausalLM, BIASED),
    "llama 3.2": _of(transformers.LlamaForCausalLM, STRETCHED),
    "mistral": mistral(window=6),
    "mistral without a window": mistral(window=None, dim=12),  # heads of a size of their own, as in Mistral-Nemo
    "mixtral": _of(transformers.MixtralForCausalLM, EXPERTS, regrouped=True),
    "mamba": mamba(),
    "falcon-mamba": _of(transformers.FalconMambaForCausalLM, STREAM | {"state_size": 8, "tie_word_embeddings": False}),
    "mamba-2 with one group": mamba2(groups=1),
    "mamba-2 with groups": mamba2(groups=3),
    "nemotron-h": _of(transformers.NemotronHForCausalLM, NEMOTRON_H),
    "pythia": pythia(),
    "gpt-neox with one residual after the other": _of(transformers.GPTNeoXForCausalLM, SEQUENTIAL),
    "gpt": _of(
        transformers.OpenAIGPTLMHeadModel,
        {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    # theirs halves its stream every so many layers when it does not train; the norms' eps would be another
    "rwkv-4": _of(transformers.RwkvForCausalLM, STREAM | {"rescale_every": 0}),
}
"""By name, those that have logits for the next token."""

RELATIVES = {
    "qwen 2": _of(transformers.Qwen2ForCausalLM, GROUPED),
    "qwen 3": _of(transformers.Qwen3ForCausalLM, GROUPED | {"head_dim": 12}),
    "gemma": _of(transformers.GemmaForCausalLM, GROUPED | {"head_dim": 12}),
    "llama with positions that lie closer": _of(
        transformers.LlamaForCausalLM, HEADS | {"rope_parameters": _rotations("linear", 10_000, factor=4.0)}
    ),
    "llama with yarn": _of(transformers.LlamaForCausalLM, HEADS | YARN),
    "qwen 2 with yarn": _of(transformers.Qwen2ForCausalLM, HEADS | {"num_key_value_heads": 1} | YARN),
    "qwen 3 with yarn": _of(
        transformers.Qwen3ForCausalLM,
        HEADS | {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True} | YARN,
    ),
    "mistral with yarn": _of(transformers.MistralForCausalLM, GROUPED | YARN | {"sliding_window": 6}, window=6),
    "phi 3": _of(transformers.Phi3ForCausalLM, GROUPED | {"pad_token_id": 0}),
    "olmo 2": _of(transformers.Olmo2ForCausalLM, GROUPED | {"rms_norm_eps": 1e-3}),
    "mixtral with a window": _of(
        transformers.MixtralForCausalLM, EXPERTS | {"sliding_window": 6}, window=6, regrouped=True
    ),
    "gpt-neox without biases of attention": _of(transformers.GPTNeoXForCausalLM, HEADS | {"attention_bias": False}),
}
"""By name, decoders that are a few words of a spec away from it, in parts that are held above."""

BERTS = {
    "bert": _bert(transformers.BertForPreTraining),
    "bert for masked words": _bert(transformers.BertForMaskedLM),
    "bert without a head": _bert(transformers.BertModel),
    "bert without a pooler": _bert(transformers.BertModel, add_pooling_layer=False),
}
"""By name, encoders with the heads that their body may have."""

LONGFORMER = _of(transformers.LongformerForMaskedLM, LONG)

FAMILIES = {**DECODERS, **RELATIVES, **BERTS, "longformer": LONGFORMER}
"""All that are compared."""
