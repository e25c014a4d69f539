"""The tables of the Mambas: theirs keeps several of our weights side by side in one."""

from __future__ import annotations

import transformers

from tests.oracles.family import Family, Move, Rows, cut, linear, same, taps, turned


def _rows(fn: str, width: int, state: int) -> Rows:
    """Theirs has u and z in one matrix, and dt, B and C in another."""
    inner, rank = 2 * width, -(-width // 16)
    small = (rank, state, state)
    return {
        "rms_norm.scale": ("norm.weight", same),
        f"{fn}.W_u": ("mixer.in_proj.weight", cut((inner, inner), 0, turned)),
        f"{fn}.W_z": ("mixer.in_proj.weight", cut((inner, inner), 1, turned)),
        f"{fn}.w_conv": ("mixer.conv1d.weight", taps),
        f"{fn}.b_conv": ("mixer.conv1d.bias", same),
        f"{fn}.W_r": ("mixer.x_proj.weight", cut(small, 0, turned)),
        f"{fn}.W_B": ("mixer.x_proj.weight", cut(small, 1, turned)),
        f"{fn}.W_C": ("mixer.x_proj.weight", cut(small, 2, turned)),
        **linear(f"{fn}.W_dt", f"{fn}.b_dt", "mixer.dt_proj"),
        f"{fn}.A_log": ("mixer.A_log", same),
        f"{fn}.D": ("mixer.D", same),
        f"{fn}.W_o": ("mixer.out_proj.weight", turned),
    }


_OUTER: Rows = {
    "E": ("backbone.embeddings.weight", same),
    "rms_norm.scale": ("backbone.norm_f.weight", same),
}


def mamba(vocab: int, width: int = 40, depth: int = 2, state: int = 8) -> Family:
    return Family(
        spec="mamba:tiny",
        settings={"width": width, "depth": depth, "vocab": vocab, "state": state},
        model=transformers.MambaForCausalLM,
        config=transformers.MambaConfig(vocab_size=vocab, hidden_size=width, num_hidden_layers=depth, state_size=state),
        outer=_OUTER,
        layers=(_rows("selective_ssm", width, state),),
        prefix="backbone.layers",
    )


def falcon_mamba(vocab: int) -> Family:
    """Its norms of dt, B and C have no weights."""
    width, state = 40, 8
    return Family(
        spec="falcon_mamba:tiny",
        settings={"width": width, "depth": 2, "vocab": vocab, "state": state},
        model=transformers.FalconMambaForCausalLM,
        config=transformers.FalconMambaConfig(
            vocab_size=vocab, hidden_size=width, num_hidden_layers=2, state_size=state, tie_word_embeddings=False
        ),
        outer={**_OUTER, "U": ("lm_head.weight", turned)},
        layers=(_rows("mixer", width, state),),
        prefix="backbone.layers",
    )


def mamba2(vocab: int, groups: int) -> Family:
    """Theirs has z, u, B, C and dt in one matrix, and one convolution for u, B and C."""
    width, head, state = 48, 8, 16
    inner, shared, heads = 2 * width, groups * state, 2 * width // head
    wide, mixed = (inner, inner, shared, shared, heads), (inner, shared, shared)
    rows: dict[str, tuple[str, Move]] = {
        "rms_norm.scale": ("norm.weight", same),
        "ssd.rms_norm.scale": ("mixer.norm.weight", same),
        "ssd.b_dt": ("mixer.dt_bias", same),
        "ssd.A_log": ("mixer.A_log", same),
        "ssd.D": ("mixer.D", same),
        "ssd.W_o": ("mixer.out_proj.weight", turned),
    }
    for i, name in enumerate(("z", "u", "B", "C", "dt")):
        rows[f"ssd.W_{name}"] = ("mixer.in_proj.weight", cut(wide, i, turned))
    for i, name in enumerate(("u", "B", "C")):
        rows[f"ssd.w_{name}"] = ("mixer.conv1d.weight", cut(mixed, i, taps))
        rows[f"ssd.b_{name}"] = ("mixer.conv1d.bias", cut(mixed, i, same))
    return Family(
        spec="mamba2:tiny",
        settings={"width": width, "depth": 2, "vocab": vocab, "head": head, "state": state, "groups": groups},
        model=transformers.Mamba2ForCausalLM,
        config=transformers.Mamba2Config(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=2,
            state_size=state,
            num_heads=heads,
            head_dim=head,
            n_groups=groups,
            chunk_size=8,
            tie_word_embeddings=True,
        ),
        outer=_OUTER,
        layers=(rows,),
        prefix="backbone.layers",
    )
