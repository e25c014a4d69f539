"""Whole training steps and decoding of the models: what the kernels come to where everything else is there too."""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from archc import api
from benchmarks.gpu.models import SUBJECTS, Subject
from benchmarks.gpu.place import Place
from benchmarks.gpu.projects import project
from benchmarks.gpu.records import Log
from benchmarks.gpu.timing import times

TOKENS = 16_384  # of a step, in sequences of one document each
LENGTHS = 2048, 4096, 8192, 16_384
CONTEXTS = 1024, 4096, 16_384, 65_536
STREAMS = 16  # decoded at once
ROWS = 512  # logits that the loss holds in single precision at once, in tokens


def steps(place: Place, log: Log, ceilings: Mapping[str, float], late: Callable[[], bool]) -> None:
    """A row for each model, size and length: milliseconds, tokens a second, share of the measured product, memory."""
    for size in _sizes(place):
        for length in (8,) if place.dry else LENGTHS[::2] if place.quick else LENGTHS:
            for subject in SUBJECTS:
                if late():
                    return
                run = partial(_step, subject, size, length, place, ceilings)
                _guarded({"model": subject.name, "size": size, "length": length}, place, log, run)


def decoding(place: Place, log: Log, late: Callable[[], bool]) -> None:
    """A row for each model, size and context: tokens a second, and bytes of the states."""
    for size in _sizes(place):
        for context in (8,) if place.dry else CONTEXTS[:2] if place.quick else CONTEXTS:
            for subject in SUBJECTS:
                if late():
                    return
                run = partial(_decode, subject, size, context, place)
                _guarded({"model": subject.name, "size": size, "context": context}, place, log, run)


def _sizes(place: Place) -> tuple[str, ...]:
    return ("tiny",) if place.dry else ("400m",) if place.quick else ("400m", "1b")


def _guarded(about: Mapping[str, Any], place: Place, log: Log, run: Callable[[], Mapping[str, Any]]) -> None:
    """One row; that a model does not fit into memory is a finding."""
    try:
        log.add(**about, **run())
    except torch.OutOfMemoryError as failure:
        log.add(**about, failed=str(failure).splitlines()[0])
    if not place.dry:
        torch.cuda.empty_cache()


def _model(subject: Subject, size: str, place: Place, remat: bool = False) -> Any:
    spec, settings = subject.sized(size)
    torch.manual_seed(0)
    with place.device:
        return project(spec, settings).model.Model(remat=remat)


class Step(nn.Module):
    """Forward pass, loss and backward pass as one call, so that weights exchanged for it stay exchanged."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> None:
        """Adds the gradients of the mean loss of predicting the next token; tokens [B, T]."""
        logits = self.model(tokens)[:, :-1].flatten(0, 1)
        pieces = zip(logits.split(ROWS), tokens[:, 1:].flatten().split(ROWS), strict=True)
        total = torch.stack([checkpoint(_nats, *piece, use_reentrant=False) for piece in pieces]).sum()
        (total / logits.shape[0]).backward()


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def _halves(model: Any, prefix: str = "") -> dict[str, Tensor]:
    """The weights as the model computes with them: those that it keeps in single precision as they are."""
    kept = tuple(f".{name}" for name in model.FP32)
    named = [*model.named_parameters(), *model.named_buffers()]
    return {prefix + name: w if f".{name}".endswith(kept) else w.bfloat16() for name, w in named}


def _step(subject: Subject, size: str, length: int, place: Place, ceilings: Mapping[str, float]) -> Mapping[str, Any]:
    """Weights in single precision, computation in half, AdamW; blocks computed again in the larger size."""
    count = 16 if place.dry else TOKENS
    spec, settings = subject.sized(size)
    model = _model(subject, size, place, remat=size == "1b")
    step = Step(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=not place.dry)
    tokens = torch.randint(model.VOCAB, (count // length, length), device=place.device)

    def run() -> None:
        torch.func.functional_call(step, _halves(model, "model."), (tokens,))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    run()
    with place.peak() as peak:
        run()
    spent = times(run, place, milliseconds=3000)
    work = api.report(spec, settings, seq=length).flops.train_per_token.matrix * count
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "ms": spent.median / 1e3,
        "ms_20": spent.low / 1e3,
        "ms_80": spent.high / 1e3,
        "tokens_s": 1e6 * count / spent.median,
        "share_of_product": 1e6 * work / spent.median / ceilings["product"] if "product" in ceilings else None,
        "remat": size == "1b",
        "peak_bytes": peak[0],
    }


@torch.inference_mode()
def _decode(subject: Subject, size: str, context: int, place: Place) -> Mapping[str, Any]:
    """One token for each of several streams that have `context` tokens behind them; what those were costs nothing."""
    streams = 2 if place.dry else STREAMS
    model = _model(subject, size, place)
    for name, weight in _halves(model).items():
        owner, _, last = name.rpartition(".")
        held = model.get_submodule(owner)
        setattr(held, last, nn.Parameter(weight.detach(), requires_grad=False))
    state = model.init_state(streams, context, torch.bfloat16, place.device)
    size_of = sum(each.nbytes for each in _tensors(state))
    token = torch.randint(model.VOCAB, (streams, 1), device=place.device)
    held = {**state, "pos": torch.full_like(state["pos"], context - 1)}
    spent = times(lambda: model.step(token, held), place, milliseconds=500)
    return {
        "us": spent.median,
        "us_20": spent.low,
        "us_80": spent.high,
        "us_graph": spent.graph,
        "tokens_s": 1e6 * streams / spent.best,
        "state_bytes": size_of,
    }


def _tensors(state: Any) -> list[Tensor]:
    """All of a nested state."""
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [each for part in parts for each in _tensors(part)]
