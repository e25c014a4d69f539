"""Drawn models whose recurrences and convolutions run as kernels: any gate equations, in one piece and in many."""

from pathlib import Path
from random import Random

import pytest

from archc.diagnostics import ArchError
from archc.elaborate import Program
from tests.parity import in_process, random_mixers
from tests.parity.agreement import check_torch, checked
from tests.parity.random_bodies import Writer

CASE = Path(__file__).parents[3] / "parity" / "cases" / "numbers_handed_to_kernels.arch"
WITH_KERNELS = (random_mixers.diagonal, random_mixers.selective, random_mixers.matrix, random_mixers.convolution)
AROUND = (random_mixers.element_wise, random_mixers.activation)


def drawn(seed: int) -> Program:
    """The first well-typed model with a live kernel of the seeds `seed`, `seed + 1_000`, ..."""
    while True:
        rng = Random(seed)
        writer = Writer(rng, {"width": 4}, "mixer")
        for mixer in (rng.choice(AROUND), rng.choice(WITH_KERNELS), rng.choice(AROUND)):
            mixer(writer)
        text, arguments = writer.finish(("width",))
        lines = [
            "model drawn(width = 4, depth = 1, vocab = 11) {",
            f"    block mix {{ x = x + mixer({', '.join(['rms_norm(x)', *arguments])}) }}",
            "    x = E[vocab width](tokens)",
            "    x = stack(x, depth, [mix])",
            "    logits = x @ E[width -> vocab]",
            "    tied E",
            "}",
        ]
        try:
            program = checked("\n".join([*lines, *writer.functions, text, ""]))
            if any(v.op in ("conv", "scan") for region, _ in program.graph.regions() for v in region.live):
                return program
        except ArchError:
            pass
        seed += 1_000


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that the emitted model has started."""
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(in_process._kernels("torch")["kernels.operators"], "INTERPRETED", True)
    started: list[str] = []
    start = GridExecutor.__call__

    def noted(executor: GridExecutor, *args: object, **kwargs: object) -> None:
        started.append(executor.fn.__name__)
        start(executor, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", noted)
    return started


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_recurrence_means_the_same_as_kernels(seed: int, launches: list[str]) -> None:
    program = drawn(seed)
    check_torch(program)
    assert any("backward" in name for name in launches)


def test_numbers_are_handed_to_kernels(launches: list[str]) -> None:
    check_torch(checked(CASE.read_text("utf-8")))
    both = {f"{kind}_{way}" for kind in ("scan", "selective") for way in ("forward", "backward")}
    assert both == set(launches)
