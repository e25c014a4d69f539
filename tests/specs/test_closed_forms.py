"""Totals of every family, from closed forms and the tables of their papers and releases.

Closed forms count what a paper's equations have; D width, L layers, V vocabulary, F width of the feed-forward layer.
"""

from __future__ import annotations

import pytest

from archc.passes.params import params
from archc.specs_index import program


def neox(L: int, D: int, V: int, dynamic: int = 0, norms: int = 0) -> int:
    """GPT-NeoX: 12 D^2 + 13 D a layer, untied. (Pythia; DCPythia adds its composition and norms of queries and keys)"""
    return L * (12 * D * D + 13 * D + dynamic + norms) + 2 * D + 2 * V * D


def llama(
    L: int, D: int, heads: int, kv: int, F: int, V: int, tied: bool = False, dynamic: int = 0, norms: int = 0
) -> int:
    """Llama: 2 D^2 + 2 D kv dim + 3 D F + 2 D a layer."""
    return L * (2 * D * D + 2 * D * kv * (D // heads) + 3 * D * F + 2 * D + dynamic + norms) + D + V * D * (2 - tied)


def dynamic(D: int, N: int, R: int = 2) -> int:
    """Weights of the composition of N heads with rank R, before and after the softmax, in one layer."""
    return 4 * N * D * (2 * R + 1) + 16 * N * N * R * R


def rwkv4(L: int, D: int) -> int:
    """Peng et al. 2023, appendix: 2 V D + 13 D^2 L + D (11 L + 4)."""
    return 2 * 50_277 * D + 13 * D * D * L + D * (11 * L + 4)


def rwkv6(L: int, D: int, mix: int = 32, decay: int = 64) -> int:
    """Peng et al. 2024, appendix: 13 D^2 L + 464 D L + 4 D + 2 D V, where 464 is 16 + 10 mix + 2 decay."""
    return 13 * D * D * L + (16 + 10 * mix + 2 * decay) * D * L + 4 * D + 2 * D * 65_536


def gated_linear(L: int, D: int, F: int, mixer: int, V: int = 32_000, shared: int = 0) -> int:
    """A mixer and SwiGLU, two norms a layer, untied; `shared`: what there is once for all layers."""
    return L * (mixer + 3 * D * F + 2 * D) + D + 2 * V * D + shared


def gla(D: int, heads: int = 4) -> int:
    """2 D Dk + 3 D Dv + 16 D + 17 Dk and a norm of dv, with Dk = D / 2, Dv = D."""
    return D * D + 3 * D * D + 16 * D + 17 * D // 2 + D // heads


def retnet(L: int, D: int, V: int = 50_257) -> int:
    """12 D^2 a layer, of which the retention has 8; a norm of the values (dv = 512) and two of the stream."""
    return L * (12 * D * D + 512 + 2 * D) + D + 2 * V * D


def gated_delta(D: int, H: int, K: int, V: int) -> int:
    """q, k; v, gate, output; two gates a head; filters of four taps; decay, its bias and a norm."""
    return 2 * D * H * K + 3 * D * H * V + 2 * D * H + 4 * (2 * H * K + H * V) + 2 * H + V


def bert_layers(L: int, D: int, attention: int) -> int:
    """Attention, an MLP of 4 D with biases, two layer norms."""
    return L * (attention + 8 * D * D + 5 * D + 4 * D)


def affine(D: int) -> int:
    """A square matrix and its bias."""
    return D * D + D


def longformer(L: int, D: int, V: int = 50_265, length: int = 4098) -> int:
    """q, k, v twice and an output; RoBERTa's head."""
    head = affine(D) + 2 * D + V
    return (V + length + 1 + 2) * D + bert_layers(L, D, 7 * affine(D)) + head


def nemotron_h(D: int, F: int, V: int) -> int:
    """24 Mamba-2 layers of 128 heads of 64, 4 of attention (32 query and 8 key heads of 128), 24 MLPs; untied."""
    inner, mixed = 128 * 64, 128 * 64 + 2 * 8 * 128
    mamba = D * (inner + mixed + 128) + 5 * mixed + 3 * 128 + inner + inner * D
    return 24 * mamba + 4 * 2 * D * (32 + 8) * 128 + 24 * 2 * D * F + 52 * D + D + 2 * V * D


def mixtral(L: int, D: int, heads: int, F: int, V: int = 32_000, experts: int = 8) -> int:
    attention = 2 * D * D + 2 * D * 8 * (D // heads)
    return L * (attention + experts * (3 * D * F + D) + 2 * D) + D + 2 * V * D


ATTENTION, MAMBA1, MAMBA2 = 41_943_040, 60_911_616, 58_886_240  # mixers of width 4096: Wang et al. 2024, released code
LLAMA, MISTRAL = 8_030_261_248, 7_241_732_096

TOTALS: dict[str, int] = {
    "llama:3-70b": llama(80, 8192, 64, 8, 28_672, 128_256),
    "llama3_1:8b": 8_030_261_248,  # the released checkpoints, to 3.2-3b
    "llama3_1:70b": 70_553_706_496,
    "llama3_1:405b": 405_853_388_800,
    "llama3_2:1b": 1_235_814_400,
    "llama3_2:3b": 3_212_749_824,
    "mistral:zephyr-7b": MISTRAL,
    "mixtral:8x7b": 46_702_792_704,  # the released checkpoint
    "mixtral:8x22b": mixtral(56, 6144, 48, 16_384),
    "nemotron_h:8b": nemotron_h(4096, 21_504, 131_072),
    "gpt:117m": 116_534_784,  # the released checkpoint
    "transformer:base": 6 * (12 * 512**2 + 9 * 512) + 37_000 * 512,
    "transformer:big": 6 * (12 * 1024**2 + 9 * 1024) + 37_000 * 1024,
    "transformerpp:405m": 411_255_808,  # Xiao et al. 2024, released configurations
    "transformerpp:2.8b": 2_795_036_160,
    "transformerpp:7b": 6_887_976_960,
    "transformerpp:13b": 13_202_816_000,
    "transformerpp:33b": 32_771_980_800,
    "dcformer:2.8b-lgll": llama(32, 2560, 32, 32, 6912, 50_257, dynamic=dynamic(2560, 32), norms=160),
    "dcformer:2.8b-lgl6": 2_849_567_232,
    "dcpythia:2.8b": neox(32, 2560, 50_257, dynamic(2560, 32), 160),
    "dcpythia:6.9b": neox(32, 4096, 50_257, dynamic(4096, 32), 256),
    "talking_heads:base": 12 * (4 * 768**2 + 2 * 12**2 + 3 * 768 * 2048 + 2 * 768) + 768 + 2 * 32_128 * 768,
    "low_rank": 24 * (5 * 2048 * 512 + 2 * 512 + 2048**2 + 3 * 2048 * 5632 + 2 * 2048) + (1 + 2 * 32_000 + 2048) * 2048,
    "longformer:base": longformer(12, 768),
    "longformer:large": longformer(24, 1024),
    "longformer_lm:small": bert_layers(12, 512, 4 * 512**2) + 2 * 512 + 2 * 256 * 512,
    "longformer_lm:large": bert_layers(30, 512, 4 * 512**2) + 2 * 512 + 2 * 256 * 512,
    "linformer:base": bert_layers(12, 768, 4 * 768**2 + 2 * 512 * 256) + (2 + 50_265 + 512) * 768,
    "performer": bert_layers(6, 512, 4 * 512**2) + (2 + 256 + 8192) * 512,
    "reformer": bert_layers(12, 1024, 3 * 1024**2) + 4 * 1024 + 3 * 258 * 1024,
    "linear_transformer": bert_layers(8, 512, 4 * 512**2) + 2 * 512 + 2 * 256 * 512,
    **{
        f"{spec}:{kept}": base + replaced * (mixer - ATTENTION)
        for spec, base, mixer in (
            ("mamba_in_llama", LLAMA, MAMBA2),
            ("mamba1_in_llama", LLAMA, MAMBA1),
            ("mamba_in_zephyr", MISTRAL, MAMBA2),
            ("mamba1_in_zephyr", MISTRAL, MAMBA1),
        )
        for kept, replaced in (("50", 16), ("25", 24), ("12.5", 28), ("0", 32))
    },
    "rwkv4:169m": rwkv4(12, 768),
    "rwkv4:430m": rwkv4(24, 1024),
    "rwkv4:1.5b": rwkv4(24, 2048),
    "rwkv4:3b": rwkv4(32, 2560),
    "rwkv4:7b": rwkv4(32, 4096),
    "rwkv4:14b": rwkv4(40, 5120),
    "rwkv6:1.6b": rwkv6(24, 2048),
    "rwkv6:3b": rwkv6(32, 2560),
    "rwkv6:7b": rwkv6(32, 4096, 64, 128),
    "rwkv6:14b": rwkv6(61, 4096, 64, 128),
    "retnet:1.3b": retnet(24, 2048),
    "retnet:2.7b": retnet(32, 2560),
    "retnet:6.7b": retnet(32, 4096),
    "gla:340m": gated_linear(24, 1024, 2816, gla(1024)),
    "gla:1.3b": gated_linear(24, 2048, 5632, gla(2048)),
    "hgrn:340m": gated_linear(24, 1024, 2816, 4 * 1024**2 + 1024, shared=24 * 1024),
    "hgrn:1.3b": gated_linear(24, 2048, 5632, 4 * 2048**2 + 2048, shared=24 * 2048),
    "hgrn2:340m": gated_linear(24, 1024, 2816, 4 * 1024**2 + 1024, shared=24 * 1024),
    "hgrn2:1.3b": gated_linear(24, 2048, 5632, 4 * 2048**2 + 2048, shared=24 * 2048),
    "gated_deltanet:1.3b": gated_linear(21, 2048, 5632, gated_delta(2048, 6, 256, 512)),
    "s4d": 6 * (591_872 + 2 * 512) + 2 * 512 + 2 * 256 * 512,  # the minimal layer of Gu et al. 2022, N = 64
    "lru": 6 * (4 * 2048**2 + 4 * 2048 + 2 * affine(2048) + 2 * 2048) + 2 * 2048 + 2 * 256 * 2048,
    "rnn": 2 * 512**2 + 512 + 2 * 10_000 * 512 + 10_000,
    "gru": 2 * (6 * 650**2 + 6 * 650) + 2 * 10_000 * 650 + 10_000,
    "lstm:small": 2 * (8 * 200**2 + 8 * 200) + 2 * 10_000 * 200 + 10_000,
    "lstm:medium": 2 * (8 * 650**2 + 8 * 650) + 2 * 10_000 * 650 + 10_000,
    "lstm:large": 2 * (8 * 1500**2 + 8 * 1500) + 2 * 10_000 * 1500 + 10_000,
}


@pytest.mark.parametrize(("spec", "total"), TOTALS.items())
def test_the_total_is_that_of_the_closed_form(spec: str, total: int) -> None:
    assert params(program(spec).graph).total == total


def test_the_closed_forms_give_published_totals() -> None:
    assert neox(32, 2560, 50_304) == 2_775_208_960
    assert llama(24, 1024, 16, 16, 2816, 50_256, dynamic=dynamic(1024, 16), norms=128) == 419_516_416
    assert rwkv4(12, 768) == 169_342_464
    assert longformer(12, 768) == 148_711_257


def test_bert_without_its_heads_is_the_published_model() -> None:
    counted = params(program("bert:base").graph)
    heads = {"W_h", "b_h", "layer_norm_2.scale", "layer_norm_2.shift", "b_logits", "W_next", "b_next"}
    with_pooler = counted.total - sum(t.count for t in counted.tensors if t.name in heads)
    assert with_pooler == 109_482_240
    assert with_pooler - 768 * 768 - 768 == 108_891_648
