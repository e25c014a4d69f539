"""What holds for every spec: PyTorch, Flax and the reference compute the same, in one piece and in many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
from tests.parity import rounding
from tests.parity.models import (
    Case,
    Run,
    flax_inputs,
    flax_model,
    flax_outputs_and_gradients,
    flax_step,
    several,
    torch_gradients,
    torch_inputs,
    torch_model,
)
from tests.parity.nearness import require_near, require_same_gradients
from tests.parity.numpy_jax import run_in_numpy

Array = NDArray[np.float64]
POS = np.stack([np.r_[0:5, 0:6], np.r_[0:1, 0:3, 0:7]])  # [B, T]: two and three documents
PIECES = (4, 1, 1, 5)
FEW_PIECES = (4, 6, 1)  # every length is traced anew
STEP, SLOPE = 1e-6, 1e-4
DOUBLE, ROUNDED, SINGLE, BFLOAT16 = 1e-9, 1e-5, 1e-4, 0.1


def checked(text: str) -> Program:
    """The program of a text whose sums over keys are proved causal. Raises `ArchError`."""
    program = elaborate(load(Source("drawn.arch", text), None))
    Reference(program.graph, random_weights(program.graph))
    return program


def text_case(program: Program) -> Case:
    """Weights and two sequences of 11 tokens, none of them padding."""
    rng = np.random.default_rng(1)
    inputs = {name: rng.integers(0, 11 if name == "tokens" else 2, POS.shape) for name in program.graph.inputs}
    case = Case(program, random_weights(program.graph), inputs, ())
    scales = tuple(rng.normal(size=output.shape) for output in case.reference())
    return Case(program, case.weights, inputs, scales)


def files(program: Program, backend: api.Backend) -> tuple[Artifact, ...]:
    """The emitted project."""
    return project(program, api._target(backend), 64)


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def check_torch(program: Program) -> None:
    """PyTorch in double and single precision against the reference; AssertionError says where they part."""
    case = text_case(program)
    assert all(np.isfinite(output).all() for output in case.reference()), "the reference is not finite"
    for dtype, limit, error in ((torch.float64, _double(program), _error(program)), (torch.float32, SINGLE, 2.0**-24)):
        if dtype is torch.float32 and not case.is_moderate:
            return
        model: Any = torch_model(case, dtype)
        run = _torch_runs(case, model, dtype)
        for what, got, pos in run:
            require_near(f"torch in {dtype}, {what}", case, got, pos, limit, (error, rounding.SINGLE))
        if dtype is torch.float64:
            _check_gradients(case, model)


def check_bfloat16(program: Program) -> None:
    """PyTorch in bfloat16: it runs, forwards, backwards and in pieces, and comes as near as rounding lets it."""
    case = text_case(program)
    if not case.is_moderate:
        return
    model: Any = torch_model(case, torch.float32)
    kept = tuple(f".{name}" for name in model.FP32)
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if not f".{name}".endswith(kept):
            weight.data = weight.data.bfloat16()
    errors = (rounding.BFLOAT16, rounding.SINGLE)
    for what, got, pos in _torch_runs(case, model, torch.bfloat16):
        assert all(each.isfinite().all() for each in got), f"torch in bfloat16, {what}: not finite"
        require_near(f"torch in bfloat16, {what}", case, got, pos, BFLOAT16, errors)
    _torch_loss(case, model).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is None or weight.grad.isfinite().all(), f"the gradient of {name} in bfloat16 is not finite"


def _torch_runs(
    case: Case, model: Any, dtype: torch.dtype
) -> list[tuple[str, tuple[torch.Tensor, ...], NDArray[np.int64] | None]]:
    """What the model gives for whole sequences, packed documents and, if it decodes, piece by piece."""
    inputs = torch_inputs(case)
    with torch.no_grad():
        runs = [
            ("whole", several(model(*inputs)), None),
            ("packed", several(model(*inputs, torch.tensor(POS))), POS),
        ]
        if case.decodes:
            runs.append(("pieces", (_torch_pieces(model, inputs, dtype),), None))
    return runs


def _torch_pieces(model: Any, inputs: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    state = model.init_state(*POS.shape, dtype)
    parts = []
    for pieces in zip(*(x.split(PIECES, 1) for x in inputs), strict=True):
        part, state = model.step(*pieces, state)
        parts.append(part)
    return torch.cat(parts, 1)


def _torch_loss(case: Case, model: Any) -> torch.Tensor:
    """The outputs for packed documents, weighted."""
    outputs = several(model(*torch_inputs(case), torch.tensor(POS)))
    total: torch.Tensor = sum((o * torch.tensor(s)).sum() for o, s in zip(outputs, case.scales, strict=True))
    return total


def _check_gradients(case: Case, model: torch.nn.Module) -> None:
    """Finite, and the derivative along a direction is the difference of the losses on both sides."""
    _torch_loss(case, model).backward()
    rng = np.random.default_rng(3)
    directions = [torch.tensor(rng.normal(size=tuple(w.shape))) for w in model.parameters()]
    slope = 0.0
    for (name, weight), direction in zip(model.named_parameters(), directions, strict=True):
        if weight.grad is not None:  # else nothing depends on it, or the difference says so
            assert weight.grad.isfinite().all(), f"the gradient of {name} is not finite"
            slope += float((weight.grad * direction).sum())
    losses = []
    with torch.no_grad():
        for side in (STEP, -2 * STEP, STEP):
            for weight, direction in zip(model.parameters(), directions, strict=True):
                weight += side * direction
            losses.append(float(_torch_loss(case, model)))
    measured = (losses[0] - losses[1]) / (2 * STEP)
    # a kink between the two sides moves their difference, a wrong gradient moves it whatever the step is
    kink = abs(losses[0] + losses[1] - 2 * losses[2]) / STEP
    assert abs(slope - measured) < SLOPE * (1 + abs(measured)) + kink, f"the gradient is {slope}, not {measured}"


def _double(program: Program) -> float:
    """How near double precision comes."""
    return ROUNDED if _is_rounded(program) else DOUBLE


def _error(program: Program) -> float:
    return rounding.SINGLE if _is_rounded(program) else rounding.DOUBLE


def _is_rounded(program: Program) -> bool:
    """Numbers along an axis, fixed decays and quotients of positions are in single precision for any weights."""
    live = [v for region, _ in program.graph.regions() for v in region.live]
    decays = [v.args[0] for v in live if v.op == "scan"]
    quotients = [v for v in live if v.op == "div" and all(o.type.dtype == "int" for o in v.operands)]
    return bool(quotients) or any(v.op == "index" for v in live) or any(not isinstance(d, Value) for d in decays)


# ---- Flax -----------------------------------------------------------------------------------------------------------


def check_flax(program: Program, run: Run = run_in_numpy) -> None:
    """Flax in double precision against the reference, packed and in pieces; its gradients against those of PyTorch."""
    case = text_case(program)
    errors = (_error(program), rounding.SINGLE)
    with jax.enable_x64(True):
        outputs, gradients = flax_outputs_and_gradients(case, POS, jnp.float64, run)
        require_near("flax, packed", case, outputs, POS, _double(program), errors)
        wanted = torch_gradients(case, torch.float64, POS)
        assert set(gradients) == set(wanted), f"other gradients: {set(gradients) ^ set(wanted)}"
        require_same_gradients(case, gradients, wanted, POS, 100 * _double(program), errors[0])
        if case.decodes:
            require_near("flax, pieces", case, _flax_pieces(case, run), None, _double(program), errors)


def _flax_pieces(case: Case, run: Run) -> Array:
    model: Any = flax_model(case, jnp.float64)
    step = flax_step(model, run)
    state = model.init_state(*POS.shape, jnp.float64)
    parts = []
    for pieces in zip(*(jnp.split(x, np.cumsum(FEW_PIECES)[:-1], 1) for x in flax_inputs(case)), strict=True):
        part, state = step(*pieces, state)
        parts.append(part)
    return np.concatenate(parts, 1)


def check_bytes(text: str, backends: Sequence[api.Backend] = ("torch", "flax")) -> None:
    """Emitted twice is the same, byte by byte."""
    for backend in backends:
        assert files(checked(text), backend) == files(checked(text), backend), f"{backend} is emitted in two ways"
