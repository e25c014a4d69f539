"""The tables: which tensor of a model of transformers is which of ours, at small sizes."""

from __future__ import annotations

import transformers

from tests.oracles.family import Family, Move, Rows, layer_norm, linear, one_more, same, taps, turned
from tests.oracles.mambas import falcon_mamba, mamba, mamba2

VOCAB = 61


def recurrentgemma(width: int, depth: int = 4, vocab: int = VOCAB, heads: int = 4, window: int = 6) -> Family:
    """Theirs rounds sqrt(width) to bfloat16: the same number only where that is exact, as 8 for 64."""
    mlp = {
        **linear("geglu_affine.W_gate", "geglu_affine.b_gate", "mlp_block.gate_proj"),
        **linear("geglu_affine.W_up", "geglu_affine.b_up", "mlp_block.up_proj"),
        **linear("geglu_affine.W_down", "geglu_affine.b_down", "mlp_block.down_proj"),
        "rms_norm.scale": ("temporal_pre_norm.weight", one_more),
        "rms_norm_2.scale": ("channel_pre_norm.weight", one_more),
    }
    recurrent = {
        **linear("rg_lru.W_y", "rg_lru.b_y", "temporal_block.linear_y"),
        **linear("rg_lru.W_x", "rg_lru.b_x", "temporal_block.linear_x"),
        **linear("rg_lru.W_out", "rg_lru.b_out", "temporal_block.linear_out"),
        "rg_lru.w_conv": ("temporal_block.conv_1d.weight", taps),
        "rg_lru.b_conv": ("temporal_block.conv_1d.bias", same),
        "rg_lru.W_r": ("temporal_block.rg_lru.recurrent_gate_weight", same),
        "rg_lru.b_r": ("temporal_block.rg_lru.recurrent_gate_bias", same),
        "rg_lru.W_i": ("temporal_block.rg_lru.input_gate_weight", same),
        "rg_lru.b_i": ("temporal_block.rg_lru.input_gate_bias", same),
        "rg_lru.lambda_": ("temporal_block.rg_lru.recurrent_param", same),
    }
    local = {
        "local_mqa.W_q": ("temporal_block.q_proj.weight", turned),
        "local_mqa.W_k": ("temporal_block.k_proj.weight", turned),
        "local_mqa.W_v": ("temporal_block.v_proj.weight", turned),
        **linear("local_mqa.W_o", "local_mqa.b_o", "temporal_block.o_proj"),
    }
    return Family(
        spec="recurrentgemma:tiny",
        settings={"width": width, "depth": depth, "vocab": vocab, "heads": heads, "window": window},
        model=transformers.RecurrentGemmaForCausalLM,
        config=transformers.RecurrentGemmaConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=depth,
            intermediate_size=2 * 3 * width,  # theirs is halved inside of the module
            num_attention_heads=heads,
            num_key_value_heads=1,
            attention_window_size=window,
        ),
        outer={"E": ("model.embed_tokens.weight", same), "rms_norm.scale": ("model.final_norm.weight", one_more)},
        layers=({**recurrent, **mlp}, {**recurrent, **mlp}, {**local, **mlp}),
        prefix="model.layers",
        window=window,
    )


_LLAMA: Rows = {
    "rms_norm.scale": ("input_layernorm.weight", same),
    "rms_norm_2.scale": ("post_attention_layernorm.weight", same),
    "attention.W_q": ("self_attn.q_proj.weight", turned),
    "attention.W_k": ("self_attn.k_proj.weight", turned),
    "attention.W_v": ("self_attn.v_proj.weight", turned),
    "attention.W_o": ("self_attn.o_proj.weight", turned),
    "swiglu.W_gate": ("mlp.gate_proj.weight", turned),
    "swiglu.W_up": ("mlp.up_proj.weight", turned),
    "swiglu.W_down": ("mlp.down_proj.weight", turned),
}
_LLAMA_OUTER: Rows = {
    "E": ("model.embed_tokens.weight", same),
    "rms_norm.scale": ("model.norm.weight", same),
    "U": ("lm_head.weight", turned),
}


def llama(kv: int, width: int = 48, depth: int = 2, vocab: int = VOCAB, heads: int = 6, hidden: int = 80) -> Family:
    return Family(
        spec="llama:tiny",
        settings={
            "width": width,
            "depth": depth,
            "vocab": vocab,
            "heads": heads,
            "kv": kv,
            "hidden": hidden,
            "base": 777,
        },
        model=transformers.LlamaForCausalLM,
        config=transformers.LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            intermediate_size=hidden,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 777.0},
        ),
        outer=_LLAMA_OUTER,
        layers=(_LLAMA,),
        prefix="model.layers",
    )


def _mistral() -> Family:
    window = 6
    return Family(
        spec="mistral:tiny",
        settings={"width": 48, "depth": 2, "vocab": VOCAB, "heads": 6, "kv": 2, "hidden": 80, "window": window},
        model=transformers.MistralForCausalLM,
        config=transformers.MistralConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            intermediate_size=80,
            rms_norm_eps=1e-5,
            sliding_window=window,
        ),
        outer=_LLAMA_OUTER,
        layers=(_LLAMA,),
        prefix="model.layers",
        window=window,
    )


def _pythia() -> Family:
    """Theirs has q, k and v of each head side by side."""
    width, heads = 48, 3

    def part(which: int) -> Move:
        return lambda w: w.unflatten(0, (heads, 3, width // heads))[:, which].flatten(0, 1)

    rows: Rows = {
        **layer_norm("layer_norm", "input_layernorm"),
        **layer_norm("layer_norm_2", "post_attention_layernorm"),
        **linear("affine_attention.W_q", "affine_attention.b_q", "attention.query_key_value", part(0)),
        **linear("affine_attention.W_k", "affine_attention.b_k", "attention.query_key_value", part(1)),
        **linear("affine_attention.W_v", "affine_attention.b_v", "attention.query_key_value", part(2)),
        **linear("affine_attention.W_o", "affine_attention.b_o", "attention.dense"),
        **linear("affine_mlp.W_in", "affine_mlp.b_in", "mlp.dense_h_to_4h"),
        **linear("affine_mlp.W_out", "affine_mlp.b_out", "mlp.dense_4h_to_h"),
    }
    return Family(
        spec="pythia:tiny",
        settings={"width": width, "depth": 2, "vocab": VOCAB, "heads": heads},
        model=transformers.GPTNeoXForCausalLM,
        config=transformers.GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        ),
        outer={
            "E": ("gpt_neox.embed_in.weight", same),
            "U": ("lm_head.weight", turned),
            **layer_norm("layer_norm", "gpt_neox.final_layer_norm"),
        },
        layers=(rows,),
        prefix="gpt_neox.layers",
    )


def _bert() -> Family:
    width, heads = 48, 3
    own, out = "attention.self", "attention.output"
    rows: Rows = {
        **linear("full_attention.W_q", "full_attention.b_q", f"{own}.query"),
        **linear("full_attention.W_k", "full_attention.b_k", f"{own}.key"),
        **linear("full_attention.W_v", "full_attention.b_v", f"{own}.value"),
        **linear("full_attention.W_o", "full_attention.b_o", f"{out}.dense"),
        **layer_norm("layer_norm", f"{out}.LayerNorm"),
        **linear("mlp.W_in", "mlp.b_in", "intermediate.dense"),
        **linear("mlp.W_out", "mlp.b_out", "output.dense"),
        **layer_norm("layer_norm_2", "output.LayerNorm"),
    }
    return Family(
        spec="bert:tiny",
        settings={"width": width, "depth": 2, "vocab": VOCAB, "heads": heads, "length": 32},
        model=transformers.BertForPreTraining,
        config=transformers.BertConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=32,
        ),
        outer={
            "E": ("bert.embeddings.word_embeddings.weight", same),
            "P": ("bert.embeddings.position_embeddings.weight", same),
            "S": ("bert.embeddings.token_type_embeddings.weight", same),
            **layer_norm("layer_norm", "bert.embeddings.LayerNorm"),
            **linear("W_h", "b_h", "cls.predictions.transform.dense"),
            **layer_norm("layer_norm_2", "cls.predictions.transform.LayerNorm"),
            "b_logits": ("cls.predictions.bias", same),
            **linear("W_pool", "b_pool", "bert.pooler.dense"),
            **linear("W_next", "b_next", "cls.seq_relationship"),
        },
        layers=(rows,),
        prefix="bert.encoder.layer",
    )


DECODERS = {
    "recurrentgemma": recurrentgemma(width=64),
    "llama with a key head per query head": llama(kv=6),
    "llama with grouped heads": llama(kv=2),
    "mistral": _mistral(),
    "mamba": mamba(VOCAB),
    "falcon-mamba": falcon_mamba(VOCAB),
    "mamba-2 with one group": mamba2(VOCAB, groups=1),
    "mamba-2 with groups": mamba2(VOCAB, groups=3),
    "pythia": _pythia(),
}
"""By name, those that have logits for the next token."""

BERT = _bert()
