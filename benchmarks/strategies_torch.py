"""Ways to run a recurrence over time in PyTorch, with the gradient that a training step needs; and archc's own."""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.projects import project

Prefix = Callable[[Tensor, Tensor, bool], Tensor]
"""`h[t] = a[t] h[t-1] + u[t]` of a, u [B, T, C], or the same from the end on."""
SMALL = {"width": 16, "depth": 1, "vocab": 16}
MADE = project("mamba2", {**SMALL, "head": 16, "state": 8})
READ = project("s4d", {"width": 16, "depth": 1, "state": 2})
SELECTIVE = project("mamba", {**SMALL, "state": 2})
STATES, HEADS, SIDE = 16, 2, 64
BLOCKS = 8, 16, 32, 64, 128
CHUNKS = 16, 32, 64, 128, 256


@dataclass(frozen=True)
class Way:
    """A strategy: a function of the inputs, and what has to be changed in archc's kernels while it runs."""

    name: str
    run: Callable[..., Tensor]
    longest: int = 1 << 30  # tokens beyond which it takes too much memory or time to be of interest
    changed: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)


def training(way: Way, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """Forward and backward once."""
    leaves = tuple(x.requires_grad_() for x in inputs)

    def run() -> object:
        with way.changed():
            y = way.run(*leaves)
            return torch.autograd.grad(y, leaves, y.detach())

    return run


def forward(way: Way, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """The value alone."""

    @torch.no_grad()
    def run() -> Tensor:
        with way.changed():
            return way.run(*inputs)

    return run


def ways(kind: str) -> Iterator[Way]:
    """The strategies of a class, archc's choice first."""
    match kind:
        case "diagonal":
            yield Way("archc", _own)
            yield Way("linear", _with_gradient(_linear))
            yield Way("associative", _with_gradient(_tree))
        case "constant":
            yield Way("archc", _own)
            yield Way("linear", lambda a, u: _with_gradient(_linear)(a.expand_as(u), u))
            yield Way("associative", lambda a, u: _with_gradient(_tree)(a.expand_as(u), u))
            yield Way("convolution", _convolution)
        case "read":
            yield Way("archc", lambda *x: _read(*x, torch.arange(x[2].shape[1])))
            yield Way("state by state", lambda *x: _read(*x, torch.arange(x[2].shape[1])[None]), longest=8192)
        case "selective":
            module = SELECTIVE.module("kernels.selective_scan")
            yield Way("archc", _selective)
            for block in BLOCKS:
                yield Way(
                    f"blocks of {block}",
                    _selective,
                    changed=partial(patch.multiple, module, LEAST=block, MOST=block),
                )
            yield Way("associative", _selective_tree, longest=2048)
        case "chunked":
            yield from _in_chunks(_chunked)
            yield Way("state by state", _outer, longest=2048)
        case "keys":
            yield from _in_chunks(_chunked_keys)


def _in_chunks(run: Callable[..., Tensor]) -> Iterator[Way]:
    """In chunks of archc's length, and of others."""
    module = MADE.module("kernels.chunked_scan")
    yield Way("archc", run)
    for chunk in CHUNKS:
        yield Way(
            f"chunks of {chunk}",
            run,
            changed=partial(patch.object, module, "chunk_length", lambda *_, n=chunk: n),
        )


def draw(kind: str, time: int, channels: int, device: torch.device) -> tuple[Tensor, ...]:
    """Single precision; decays that forget within 10 to 1,000 tokens."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def rates(*shape: int) -> Tensor:
        return -torch.exp(torch.empty(shape).uniform_(-6.9, -2.3, generator=generator)).to(device)

    match kind:
        case "diagonal":
            return rates(1, time, channels).exp(), normal(1, time, channels)
        case "constant":
            return rates(channels).exp(), normal(1, time, channels)
        case "read":
            states = channels, STATES
            return rates(*states), normal(*states), normal(1, time, channels), normal(*states), normal(*states)
        case "selective":
            tokens = 1, time, STATES
            return (
                -rates(1, time, channels),
                rates(channels, STATES),
                normal(1, time, channels),
                normal(*tokens),
                normal(*tokens),
            )
        case _:
            k, v, q = (normal(1, time, 1, HEADS, SIDE) for _ in range(3))
            keys = (SIDE,) if kind == "keys" else ()
            return rates(1, time, 1, HEADS, *keys), k / SIDE, v, q


def _pos(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device)


def _own(a: Tensor, u: Tensor) -> Tensor:
    y: Tensor = MADE.module("kernels.scan").scan(a, u, _pos(u))[0]
    return y


def _selective(dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor) -> Tensor:
    y: Tensor = SELECTIVE.module("kernels.selective_scan").selective_scan(dt, A, x, B, C, _pos(x))[0]
    return y


def _selective_tree(dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor) -> Tensor:
    a, u = torch.exp(dt[..., None] * A), x[..., None] * B[:, :, None]
    return (_with_gradient(_tree)(a, u) * C[:, :, None]).sum(-1)


def _chunked(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    y: Tensor = MADE.module("kernels.chunked_scan").chunked_scan(log_a, k, v, q, _pos(v))[0]
    return y


def _chunked_keys(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    y: Tensor = MADE.module("kernels.chunked_scan").chunked_key_scan(log_a, k, v, q, _pos(v))[0]
    return y


def _outer(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """Every state in memory."""
    u = k[..., None] * v[..., None, :]
    return (_own(log_a.exp()[..., None, None], u) * q[..., None]).sum(-2)


def _with_gradient(prefix: Prefix) -> Callable[[Tensor, Tensor], Tensor]:
    """A scan from one that has no gradient: the adjoint runs backwards, with the decay of the token after."""

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, u: Tensor) -> Tensor:
            h = prefix(a, u, False)
            ctx.save_for_backward(a, h)
            return h

        @staticmethod
        def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor]:
            a, h = ctx.saved_tensors
            g = prefix(torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1), dh, True)
            return torch.cat([torch.zeros_like(h[:, :1]), g[:, 1:] * h[:, :-1]], 1), g

    apply: Callable[[Tensor, Tensor], Tensor] = Scan.apply
    return apply


def _linear(a: Tensor, u: Tensor, reverse: bool) -> Tensor:
    """One operation a token."""
    h = torch.empty_like(u)
    order = range(u.shape[1] - 1, -1, -1) if reverse else range(u.shape[1])
    decays, inputs, states = a.unbind(1), u.unbind(1), h.unbind(1)
    before: Tensor | None = None
    for t in order:
        if before is None:
            states[t].copy_(inputs[t])
        else:
            torch.addcmul(inputs[t], decays[t], before, out=states[t])
        before = states[t]
    return h


def _tree(a: Tensor, u: Tensor, reverse: bool) -> Tensor:
    """Pairs of neighbours become one, halving the sequence until it is short (Blelloch 1990)."""
    if reverse:
        return _tree(a.flip(1), u.flip(1), False).flip(1)
    time = u.shape[1]
    if time == 1:
        return u.clone()
    half = time // 2
    a1, a2 = a[:, : 2 * half].unflatten(1, (half, 2)).unbind(2)
    u1, u2 = u[:, : 2 * half].unflatten(1, (half, 2)).unbind(2)
    odd = _tree(a1 * a2, torch.addcmul(u2, a2, u1), False)
    h = torch.empty_like(u)
    h[:, 1::2] = odd
    h[:, 0] = u[:, 0]
    places = slice(2, None, 2)
    torch.addcmul(u[:, places], a[:, places], odd[:, : (time - 1) // 2], out=h[:, places])
    return h


def _read(rate: Tensor, phase: Tensor, u: Tensor, real: Tensor, imaginary: Tensor, pos: Tensor) -> Tensor:
    """As archc runs whole documents, or packed ones where positions are those of each sequence."""
    run = READ.module("kernels.long_convolution").long_convolution
    decay = torch.exp(torch.complex(rate, phase))
    found: Tensor = run(decay, u, torch.complex(real, imaginary), pos.to(u.device))[0].real
    return found


def _convolution(a: Tensor, u: Tensor) -> Tensor:
    """With the powers of a decay that is the same for every token, by Fourier transforms of twice the length."""
    time = u.shape[1]
    powers = torch.exp(torch.arange(time, device=u.device)[:, None] * a.log())
    product = torch.fft.rfft(u, 2 * time, 1) * torch.fft.rfft(powers, 2 * time, 0)
    return torch.fft.irfft(product, 2 * time, 1)[:, :time]


WAYS: Mapping[str, tuple[Way, ...]] = {
    kind: tuple(ways(kind)) for kind in ("diagonal", "constant", "read", "selective", "chunked", "keys")
}
