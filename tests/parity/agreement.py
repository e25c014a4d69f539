"""What holds for every decoding spec: PyTorch, Flax and the reference compute the same, in one piece and in many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from archc import api
from archc.diagnostics import Source
from archc.elaborate import Program, elaborate, load
from archc.emit.artifact import Artifact
from archc.emit.project import project
from archc.ir.graph import Value
from archc.reference import Reference, random_weights
from tests.parity.models import Case, compiled, flax_inputs, flax_model, torch_inputs, torch_model

Array = NDArray[np.float64]
POS = np.stack([np.r_[0:5, 0:6], np.r_[0:1, 0:3, 0:7]])  # [B, T]: two and three documents
PIECES = (4, 1, 1, 5)
FEW_PIECES = (10, 1)  # every length is compiled
STEP, SLOPE = 1e-6, 1e-4
DOUBLE, ROUNDED, SINGLE = 1e-9, 1e-5, 1e-4


def checked(text: str) -> Program:
    """The program of a text whose sums over keys are proved causal. Raises `ArchError`."""
    program = elaborate(load(Source("drawn.arch", text), None))
    Reference(program.graph, random_weights(program.graph))
    return program


def text_case(program: Program) -> Case:
    """Weights and two sequences of 11 tokens, none of them padding."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 11, POS.shape)
    scale = rng.normal(size=(*POS.shape, 1))
    return Case(program, random_weights(program.graph), {"tokens": tokens}, (scale,))


def files(program: Program, backend: api.Backend) -> tuple[Artifact, ...]:
    """The emitted project."""
    return project(program, api._target(backend), 64)


def check_torch(text: str, single: bool = True) -> None:
    """PyTorch in double and single precision against the reference; raises AssertionError that says where they part."""
    case = text_case(checked(text))
    whole, packed = (case.reference(pos)[0] for pos in (None, POS))
    assert np.isfinite(whole).all(), "the reference is not finite"
    double = _double(case.program)
    for dtype, limit in ((torch.float64, double), (torch.float32, SINGLE)):
        if dtype is torch.float32 and not single:
            return
        model: Any = torch_model(case, dtype)
        (tokens,) = torch_inputs(case)
        got = model(tokens)
        _near("torch, whole", dtype, got, whole, limit)
        got = model(tokens, torch.tensor(POS))
        _near("torch, packed", dtype, got, packed, limit)
        if dtype is torch.float64:
            _check_gradients(model, tokens, got)
        with torch.no_grad():
            _near("torch, pieces", dtype, _torch_pieces(model, tokens, dtype), whole, limit)


def _double(program: Program) -> float:
    """Numbers along an axis, fixed decays and quotients of positions are in single precision for any weights."""
    live = [v for region, _ in program.graph.regions() for v in region.live]
    decays = [v.args[0] for v in live if v.op == "scan"]
    quotients = [v for v in live if v.op == "div" and all(o.type.dtype == "int" for o in v.operands)]
    rounded = quotients or any(v.op == "index" for v in live) or any(not isinstance(d, Value) for d in decays)
    return ROUNDED if rounded else DOUBLE


def _torch_pieces(model: Any, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    state = model.init_state(len(tokens), tokens.shape[1], dtype)
    parts = []
    for piece in tokens.split(PIECES, 1):
        part, state = model.step(piece, state)
        parts.append(part)
    return torch.cat(parts, 1)


def _check_gradients(model: torch.nn.Module, tokens: torch.Tensor, logits: torch.Tensor) -> None:
    """Finite, and the derivative along a direction is the difference of the losses on both sides."""
    rng = np.random.default_rng(3)
    scale = torch.tensor(rng.normal(size=logits.shape))
    (logits * scale).sum().backward()
    directions = [torch.tensor(rng.normal(size=tuple(w.shape))) for w in model.parameters()]
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"{name} has no gradient"
        assert weight.grad.isfinite().all(), f"the gradient of {name} is not finite"
    slope = sum(float((w.grad * d).sum()) for w, d in zip(model.parameters(), directions, strict=True))
    losses = []
    with torch.no_grad():
        for side in (STEP, -2 * STEP, STEP):
            for weight, direction in zip(model.parameters(), directions, strict=True):
                weight += side * direction
            losses.append(float((model(tokens, torch.tensor(POS)) * scale).sum()))
    measured = (losses[0] - losses[1]) / (2 * STEP)
    # a kink between the two sides moves their difference, a wrong gradient moves it whatever the step is
    kink = abs(losses[0] + losses[1] - 2 * losses[2]) / STEP
    assert abs(slope - measured) < SLOPE * (1 + abs(measured)) + kink, f"the gradient is {slope}, not {measured}"


def _near(what: str, dtype: object, got: Any, wanted: Array, limit: float) -> None:
    """Within the limit relative to the largest logit."""
    found = got.detach().double().numpy() if isinstance(got, torch.Tensor) else np.asarray(got, np.float64)
    assert found.shape == wanted.shape, f"{what}, {dtype}: {found.shape} is not {wanted.shape}"
    off = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert off < limit, f"{what}, {dtype}: off by {off:.1e}"


def check_flax(text: str) -> None:
    """Flax in double precision against the reference: whole, packed, in pieces."""
    import jax
    import jax.numpy as jnp

    case = text_case(checked(text))
    with jax.enable_x64(True):
        model: Any = flax_model(case, jnp.float64)
        (tokens,) = flax_inputs(case)
        run = compiled(model, lambda model, *arrays: model(*arrays))
        limit = _double(case.program)
        _near("flax, packed", "float64", run(tokens, jnp.asarray(POS)), case.reference(POS)[0], limit)
        step = compiled(model, lambda model, *arrays: model.step(*arrays))
        state = model.init_state(*POS.shape, jnp.float64)
        parts = []
        for piece in jnp.split(tokens, np.cumsum(FEW_PIECES)[:-1], 1):
            part, state = step(piece, state)
            parts.append(part)
        _near("flax, pieces", "float64", np.concatenate(parts, 1), case.reference()[0], limit)


def check_bytes(text: str, backends: Sequence[api.Backend] = ("torch", "flax")) -> None:
    """Emitted twice is the same, byte by byte."""
    for backend in backends:
        assert files(checked(text), backend) == files(checked(text), backend), f"{backend} is emitted in two ways"
