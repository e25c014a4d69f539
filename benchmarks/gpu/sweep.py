"""Other tiles than the shipped ones, around the set that does not spill: which of them this device likes best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.cases import CASES, Case, Sizes, positions
from benchmarks.gpu.place import Place
from benchmarks.gpu.records import Log
from benchmarks.gpu.timing import times

DIAGONAL, SELECTIVE, PER_HEAD = (
    "diagonal scan with gates",
    "selective scan with gates",
    "outer products, a decay per head",
)
FORWARD = ((8, 2, 64, 1), (8, 4, 32, 2), (8, 8, 32, 4), (8, 8, 16, 4), (4, 8, 32, 4), (8, 4, 64, 4), (8, 16, 16, 4))
BACKWARD = ((8, 4, 32, 4), (8, 8, 32, 4), (8, 4, 16, 2), (4, 8, 32, 4), (8, 8, 16, 4))
BLOCKS = 2, 4, 8
CHUNKS = (32, 64, 8, 2), (32, 64, 4, 2), (16, 64, 8, 2), (16, 64, 4, 2), (32, 32, 8, 2), (32, 32, 4, 2), (64, 32, 8, 2)
EVERY, NEVER = 0, 1 << 40  # programs from which a wide tile is taken
Change = tuple[str, str, Any]


def sweep(place: Place, log: Log, late: Callable[[], bool]) -> None:
    """A row for each tile: the pass that it belongs to, its constants, microseconds."""
    for case, what, tile, changes in _settings(place):
        for sizes in (case.tiny,) if place.dry else case.shapes[:1] if place.quick else case.shapes:
            if late():
                return
            log.add(case=case.name, **sizes, what=what, tile=list(tile), **_timed(case, sizes, what, changes, place))


def _settings(place: Place) -> Iterator[tuple[Case, str, tuple[int, ...], list[Change]]]:
    """Case, pass, constants, and what has to be put where: module, name, value."""
    cases = {case.name: case for case in CASES}
    tiles = cases[DIAGONAL].project().module("kernels.gated_tiles")
    for what, choices in (("forward", FORWARD), ("backward", BACKWARD)):
        for tile in choices[:1] if place.dry else choices:
            chosen = tiles.Tile(*tile)
            table = {arch: {**passes, what: (chosen, chosen)} for arch, passes in tiles.TILES.items()}
            yield cases[DIAGONAL], what, tile, [("kernels.gated_tiles", "TILES", table)]
    for block in BLOCKS[:1] if place.dry else BLOCKS:
        for channels, many in ((64, EVERY), (32, NEVER)):
            changes: list[Change] = [
                ("kernels.selective_launch", "BLOCK", block),
                ("kernels.selective_launch", "MANY", many),
            ]
            yield cases[SELECTIVE], "both", (block, channels), changes
    launch = cases[PER_HEAD].project().module("kernels.chunked_launch")
    for what, kernels in (("forward", ("FORWARD",)), ("backward", ("QUERIES", "KEYS"))):
        for tile in CHUNKS[:1] if place.dry else CHUNKS:
            table = {launch.MOST_KEYS: launch.Tile(*tile)}
            yield cases[PER_HEAD], what, tile, [("kernels.chunked_launch", name, table) for name in kernels]


def _timed(case: Case, sizes: Sizes, what: str, changes: list[Change], place: Place) -> dict[str, Any]:
    """A tile that the device can't run is a finding too."""
    made = case.project()
    inputs, pos = case.inputs(sizes, place.device), positions(sizes, place.device)
    with ExitStack() as stack:
        stack.enter_context(made.path(kernels=True))
        for module, name, value in changes:
            stack.enter_context(patch.object(made.module(module), name, value))
        try:
            y = case.run(made, inputs, pos)
            dy = torch.randn_like(y)
            runs = {
                "forward": lambda: case.run(made, tuple(x.detach() for x in inputs), pos),
                "backward": lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True),
                "both": lambda: torch.autograd.grad(case.run(made, inputs, pos), inputs, dy),
            }
            return dict(times(runs[what], place).row())
        except Exception as failure:  # of the compiler or the device, which name them by many classes
            return {"failed": f"{type(failure).__name__}: {str(failure)[:200]}"}
