"""The kernel classes: shapes that they are timed at, how their inputs are drawn, what they compute, what that costs.

Everything from what the projections give to what the next one takes: gates, recurrence and read-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.projects import Project, project
from benchmarks.gpu.work import Both, element_wise, outer_products, pairs_of_heads

Sizes = Mapping[str, int]
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A class of kernels.

    draw: tensors of a shape, half or single precision as training has them, on the CPU and from a generator.
    run: the function of a generated project, on whichever of its paths is chosen. shapes are by size of axis; B: batch,
    T: time, C: channels, N: states, H: heads, K, V: keys and values of a head, or what a head has of both.
    """

    name: str
    spec: str
    settings: Mapping[str, int]
    shapes: tuple[Sizes, ...]
    small: Sizes
    tiny: Sizes
    draw: Callable[[Sizes, torch.Generator], Inputs]
    run: Callable[[Project, Inputs, Tensor], Tensor]
    work: Callable[[Sizes], Both]

    def project(self) -> Project:
        """The project whose kernels these are."""
        return project(self.spec, self.settings)

    def inputs(self, sizes: Sizes, device: torch.device, dtype: torch.dtype | None = None, seed: int = 0) -> Inputs:
        """Leaves that require gradients; dtype: another one than training has."""
        drawn = self.draw(sizes, torch.Generator().manual_seed(seed))
        return tuple(x.to(device, dtype or x.dtype).requires_grad_() for x in drawn)


def positions(sizes: Sizes, device: torch.device, packed: bool = False) -> Tensor:
    """[T], one document; or [B, T], two of them in every row, the second one token longer in each further row."""
    time = sizes["T"]
    whole = torch.arange(time, device=device)
    if not packed:
        return whole
    cuts = (time // 2 + 1 - torch.arange(sizes["B"], device=device).clamp(max=time // 2))[:, None]
    return torch.where(whole < cuts, whole, whole - cuts)


def _normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """In half precision."""
    return (scale * torch.randn(shape, generator=generator)).bfloat16()


def _rates(generator: torch.Generator, *shape: int) -> Tensor:
    """Logarithms of decays that forget within 10 to 1,000 tokens, in single precision."""
    return -torch.exp(torch.empty(shape).uniform_(-6.9, -2.3, generator=generator))


def _draw_diagonal(s: Sizes, g: torch.Generator) -> Inputs:
    """Of RG-LRU: the side branch, the input, what the gates are made of, each but the input with a bias, and rates."""
    tokens, channels = (s["B"], s["T"], s["C"]), s["C"]
    biases = [torch.randn(channels, generator=g) for _ in range(3)]
    return (*(_normal(g, *tokens) for _ in range(4)), *biases, 2 * _rates(g, channels))


def _diagonal(made: Project, x: Inputs, pos: Tensor) -> Tensor:
    gates: Any = made.module("gates").RG_LRU_H
    y: Tensor = made.module("kernels.gated").gated_scan(gates, x[:4], x[4:], pos)[0]
    return y


def _draw_plain(s: Sizes, g: torch.Generator) -> Inputs:
    tokens = s["B"], s["T"], s["C"]
    return torch.exp(_rates(g, *tokens)).bfloat16(), _normal(g, *tokens)


def _plain(made: Project, x: Inputs, pos: Tensor) -> Tensor:
    y: Tensor = made.module("kernels.scan").scan(*x, pos)[0]
    return y


def _draw_selective(s: Sizes, g: torch.Generator) -> Inputs:
    tokens, channels, states = (s["B"], s["T"]), s["C"], s["N"]
    u, z, dt = (_normal(g, *tokens, channels) for _ in range(3))
    bias = torch.empty(channels).uniform_(-6.9, -2.3, generator=g)
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    return u, z, dt, bias, torch.ones(channels), A, _normal(g, *tokens, states), _normal(g, *tokens, states)


def _selective(made: Project, x: Inputs, pos: Tensor) -> Tensor:
    gates: Any = made.module("gates").SELECTIVE_SSM_H
    scan = made.module("kernels.selective_scan").gated_selective_scan
    y: Tensor = scan(gates, x[:3], x[3:5], *x[5:], pos)[0]
    return y


def _draw_heads(s: Sizes, g: torch.Generator) -> Inputs:
    tokens, heads = (s["B"], s["T"]), s["H"]
    dt = torch.exp(torch.empty(*tokens, 1, heads).uniform_(-6.9, -2.3, generator=g))
    rate = -torch.empty(1, heads).uniform_(1, 16, generator=g)
    k, q = (_normal(g, *tokens, 1, 1, s["K"], scale=s["K"] ** -0.5) for _ in range(2))
    return dt, rate, k, _normal(g, *tokens, 1, heads, s["V"]), q


def _heads(made: Project, x: Inputs, pos: Tensor) -> Tensor:
    dt, rate, k, v, q = x
    value = (dt[..., None] * v).to(v.dtype)
    y: Tensor = made.module("kernels.chunked_scan").chunked_scan(dt * rate, k, value, q, pos)[0]
    return y


def _draw_keys(s: Sizes, g: torch.Generator) -> Inputs:
    tokens, heads = (s["B"], s["T"], s["H"], 1), s["K"]
    k, q = (_normal(g, *tokens, heads, scale=heads**-0.5) for _ in range(2))
    return _rates(g, *tokens, heads), k, _normal(g, *tokens, s["V"]), q


def _keys(made: Project, x: Inputs, pos: Tensor) -> Tensor:
    y: Tensor = made.module("kernels.chunked_scan").chunked_key_scan(*x, pos)[0]
    return y


def _draw_conv(s: Sizes, g: torch.Generator) -> Inputs:
    channels = s["C"]
    return _normal(g, s["B"], s["T"], channels), _normal(g, 4, channels, scale=0.5), _normal(g, channels)


def _conv(made: Project, x: Inputs, pos: Tensor) -> Tensor:
    silu = made.module("gates").CONV_SILU
    y: Tensor = made.module("kernels.conv").causal_conv(x[0], x[1], pos, bias=x[2], activation=silu)[0]
    return y


def compose(a: Tensor, q1: Tensor, q2: Tensor, qg: Tensor, k1: Tensor, k2: Tensor, kg: Tensor) -> Tensor:
    """DCFormer's composition of pairs a [B, H, T, S] (Xiao et al. 2024): a low rank and a gate of either side."""
    own = torch.einsum("brqk,bqrh->bhqk", torch.einsum("bhqk,bqrh->brqk", a, q1), q2)
    others = torch.einsum("brqk,bkrh->bhqk", torch.einsum("bhqk,bkrh->brqk", a, k1), k2)
    return a + own + others + a * qg.mT[..., None] + a * kg.mT[:, :, None]


def _draw_composed(s: Sizes, g: torch.Generator) -> Inputs:
    """Queries, keys, values, and what `compose` reads before the softmax and after it, as it is after some training."""
    tokens, heads = (s["B"], s["T"]), s["H"]
    axes = ((RANK, heads), (RANK, heads), (heads,)) * 4
    q, k, v = (_normal(g, *tokens, heads, s["K"]) for _ in range(3))
    return q, k, v, *(_normal(g, *tokens, *each, scale=0.3) for each in axes)


def _composed(window: int | None, made: Project, x: Inputs, pos: Tensor) -> Tensor:
    q, k, v, *tokens = x
    scale = q.shape[3] ** -0.5

    def program(rows: Any) -> Tensor:
        sides = (rows.query_tokens, rows.key_tokens)
        read = [sides[i // 3 % 2](each) for i, each in enumerate(tokens)]
        s = compose(torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k)) * scale, *read[:6])
        p = compose(rows.softmax(s, rows.window(window)), *read[6:])
        return torch.einsum("bhqk,bkhd->bqhd", rows.select(p), rows.key_tokens(v))

    run, keys = made.module("kernels.composed").composed_attention, made.module("kernels.pairs").Keys(pos, q.shape[1])
    mixes: Any = made.module("gates").DC_ATTENTION_Y
    before = None if window is None else window - 1
    y: Tensor = run(program, mixes, q, k, v, keys, tokens=tuple(tokens), scale=scale, before=before)
    return y


def _elements(s: Sizes) -> int:
    return s["B"] * s["T"] * s["C"]


def _work_selective(s: Sizes) -> Both:
    """Three inputs, and an exponential for every state, both times; keys and queries are small beside them."""
    return element_wise(_elements(s), 3, special=s["N"] + 4.0)


def _work_heads(s: Sizes) -> Both:
    return outer_products(s["B"], s["T"], s["H"], 1, s["K"], s["V"], per_key=False)


def _work_keys(s: Sizes) -> Both:
    return outer_products(s["B"], s["T"], s["H"], s["H"], s["K"], s["V"], per_key=True)


def _work_composed(window: int | None, s: Sizes) -> Both:
    time, tokens = s["T"], s["B"] * s["T"]
    seen = time if window is None else min(window, time)
    pairs = s["B"] * (seen * (seen + 1) // 2 + (time - seen) * seen)
    return pairs_of_heads(tokens, pairs, s["H"], s["K"], read=4 * (2 * RANK + 1) * s["H"])


def _case_of_heads(name: str, window: int | None, shapes: tuple[Sizes, ...]) -> Case:
    return Case(
        name, "dcformer", {**SMALL, "heads": 1, "hidden": 16}, shapes,
        _tokens(2, 100, H=4, K=80), _tokens(1, 5, H=2, K=3),
        _draw_composed, partial(_composed, window), partial(_work_composed, window),
    )  # fmt: skip


def _tokens(batch: int, time: int, **more: int) -> Sizes:
    return {"B": batch, "T": time, **more}


LONG = _tokens(1, 32768, C=2048)
RNN = {"width": 16, "depth": 3, "rnn": 16, "heads": 1, "gates": 1, "vocab": 16}
SMALL = {"width": 16, "depth": 1, "vocab": 16}
MAMBA2 = {**SMALL, "head": 16, "state": 8}
RANK, LOCAL = 2, 256
CASES = (
    Case(
        "diagonal scan with gates", "griffin", RNN,
        (_tokens(8, 2048, C=2560), _tokens(2, 8192, C=4096), _tokens(1, 8192, C=4096), LONG, _tokens(8, 2048, C=2720)),
        _tokens(2, 300, C=72), _tokens(1, 5, C=3),
        _draw_diagonal, _diagonal, lambda s: element_wise(_elements(s), 4, special=8),
    ),
    Case(
        "diagonal scan alone", "mamba2", MAMBA2,
        (_tokens(8, 2048, C=2560), LONG), _tokens(2, 300, C=72), _tokens(1, 5, C=3),
        _draw_plain, _plain, lambda s: element_wise(_elements(s), 2, special=0),
    ),
    Case(
        "selective scan with gates", "mamba", {**SMALL, "state": 2},
        (_tokens(8, 2048, C=5120, N=16), _tokens(1, 32768, C=2048, N=16), _tokens(8, 2048, C=2720, N=16)),
        _tokens(2, 100, C=72, N=16), _tokens(1, 5, C=3, N=2),
        _draw_selective, _selective, _work_selective,
    ),
    Case(
        "outer products, a decay per head", "mamba2", MAMBA2,
        (_tokens(8, 2048, H=80, K=128, V=64), _tokens(1, 32768, H=32, K=128, V=64), _tokens(8, 2048, H=80, K=64, V=64)),
        _tokens(2, 150, H=3, K=128, V=64), _tokens(1, 5, H=1, K=4, V=3),
        _draw_heads, _heads, _work_heads,
    ),
    Case(
        "outer products, a decay per key", "gla", {**SMALL, "heads": 1, "key": 4, "value": 8},
        (
            _tokens(8, 2048, H=16, K=64, V=128), _tokens(1, 32768, H=16, K=64, V=128),
            _tokens(8, 2048, H=4, K=128, V=256),
        ),
        _tokens(2, 150, H=2, K=64, V=64), _tokens(1, 5, H=1, K=4, V=3),
        _draw_keys, _keys, _work_keys,
    ),
    Case(
        "convolution with bias and silu", "mamba2", MAMBA2,
        (_tokens(8, 2048, C=5120), LONG, _tokens(8, 2048, C=2720)), _tokens(2, 300, C=72), _tokens(1, 5, C=3),
        _draw_conv, _conv, lambda s: element_wise(_elements(s), 1, special=2),
    ),
    _case_of_heads(
        "attention with composed heads", None,
        (_tokens(1, 2048, H=32, K=80), _tokens(2, 2048, H=16, K=64), _tokens(1, 4096, H=32, K=128)),
    ),
    _case_of_heads(
        "attention with composed heads, a window", LOCAL, (_tokens(2, 4096, H=32, K=80), _tokens(1, 16384, H=16, K=64)),
    ),
)  # fmt: skip
