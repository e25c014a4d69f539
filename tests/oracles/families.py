"""Models of transformers at small sizes, as configs: what they are in archc is the business of `archc.exchange`."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel

from tests.oracles.family import Family

VOCAB = 61


def recurrentgemma(width: int, depth: int = 4, vocab: int = VOCAB, heads: int = 4, window: int = 6) -> Family:
    config = transformers.RecurrentGemmaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=depth,
        intermediate_size=2 * 3 * width,  # theirs is halved inside of the module
        num_attention_heads=heads,
        num_key_value_heads=1,
        attention_window_size=window,
    )
    return Family(transformers.RecurrentGemmaForCausalLM, config, window)


def llama(kv: int, width: int = 48, depth: int = 2, vocab: int = VOCAB, heads: int = 6, hidden: int = 80) -> Family:
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=hidden,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 777.0},
    )
    return Family(transformers.LlamaForCausalLM, config)


def _stretched() -> Family:
    """Llama 3.2: tied, and some rotations slower. Of 8 pairs 2 keep their speed, 2 lie between, 4 are slower."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        tie_word_embeddings=True,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    return Family(transformers.LlamaForCausalLM, config)


def _llama_with_biases() -> Family:
    """As Granite's code models are, and with heads that have a size of their own."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        intermediate_size=80,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    )
    return Family(transformers.LlamaForCausalLM, config)


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
    config = transformers.MistralConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=hidden,
        sliding_window=window,
        head_dim=dim,
    )
    return Family(transformers.MistralForCausalLM, config, window or 0)


def mamba(vocab: int = VOCAB, width: int = 40, depth: int = 2, state: int = 8) -> Family:
    config = transformers.MambaConfig(vocab_size=vocab, hidden_size=width, num_hidden_layers=depth, state_size=state)
    return Family(transformers.MambaForCausalLM, config)


def _falcon_mamba() -> Family:
    config = transformers.FalconMambaConfig(
        vocab_size=VOCAB, hidden_size=40, num_hidden_layers=2, state_size=8, tie_word_embeddings=False
    )
    return Family(transformers.FalconMambaForCausalLM, config)


def mamba2(
    groups: int,
    width: int = 48,
    depth: int = 2,
    vocab: int = VOCAB,
    head: int = 8,
    state: int = 16,
    chunk: int = 8,
) -> Family:
    config = transformers.Mamba2Config(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=depth,
        state_size=state,
        num_heads=2 * width // head,
        head_dim=head,
        n_groups=groups,
        chunk_size=chunk,
        tie_word_embeddings=groups == 1,
    )
    return Family(transformers.Mamba2ForCausalLM, config)


def _nemotron_h() -> Family:
    """The shortest step is so long that it is often taken."""
    config = transformers.NemotronHConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        layers_block_type=["linear_attention", "mlp", "full_attention", "linear_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=16,
        n_groups=2,
        chunk_size=8,
        time_step_min=0.3,
    )
    return Family(transformers.NemotronHForCausalLM, config)


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
    return Family(transformers.MixtralForCausalLM, config, regrouped=True)


def _gpt() -> Family:
    config = transformers.OpenAIGPTConfig(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    return Family(transformers.OpenAIGPTLMHeadModel, config)


def pythia(width: int = 48, depth: int = 2, vocab: int = VOCAB, heads: int = 3) -> Family:
    config = transformers.GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    return Family(transformers.GPTNeoXForCausalLM, config)


def _sequential() -> Family:
    """As RedPajama-INCITE and Rinna's GPT-NeoX are, with the activation of GPT-NeoX-20B."""
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        hidden_act="gelu_fast",
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 1.0},
    )
    return Family(transformers.GPTNeoXForCausalLM, config)


def _rwkv() -> Family:
    """Theirs halves its stream every so many layers when it does not train; the norms' eps would be another."""
    config = transformers.RwkvConfig(vocab_size=VOCAB, hidden_size=48, num_hidden_layers=2, rescale_every=0)
    return Family(transformers.RwkvForCausalLM, config)


def _bert(model: type[PreTrainedModel], **options: bool) -> Family:
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        max_position_embeddings=32,
    )
    return Family(model, config, options=options)


def _longformer() -> Family:
    """Three keys to either side; the positions of padding and of what comes before it are not used."""
    config = transformers.LongformerConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        max_position_embeddings=32,
        attention_window=6,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    return Family(transformers.LongformerForMaskedLM, config)


DECODERS = {
    "recurrentgemma": recurrentgemma(width=64),
    "llama with a key head per query head": llama(kv=6),
    "llama with grouped heads": llama(kv=2),
    "llama with biases": _llama_with_biases(),
    "llama 3.2": _stretched(),
    "mistral": mistral(window=6),
    "mistral without a window": mistral(window=None, dim=12),  # heads of a size of their own, as in Mistral-Nemo
    "mixtral": _mixtral(),
    "mamba": mamba(),
    "falcon-mamba": _falcon_mamba(),
    "mamba-2 with one group": mamba2(groups=1),
    "mamba-2 with groups": mamba2(groups=3),
    "nemotron-h": _nemotron_h(),
    "pythia": pythia(),
    "gpt-neox with one residual after the other": _sequential(),
    "gpt": _gpt(),
    "rwkv-4": _rwkv(),
}
"""By name, those that have logits for the next token."""

BERTS = {
    "bert": _bert(transformers.BertForPreTraining),
    "bert for masked words": _bert(transformers.BertForMaskedLM),
    "bert without a head": _bert(transformers.BertModel),
    "bert without a pooler": _bert(transformers.BertModel, add_pooling_layer=False),
}
"""By name, encoders with the heads that their body may have."""

LONGFORMER = _longformer()

FAMILIES = {**DECODERS, **BERTS, "longformer": LONGFORMER}
"""All that are compared."""
