"""What is said of kernels: every scan and every sum over keys once, with the bytes that its table of inputs gives."""

from __future__ import annotations

import pytest

from archc.reports.kernels import explanation
from archc.specs_index import program, shipped


def test_the_gates_of_griffin_run_in_the_kernel_of_its_scan() -> None:
    lines = explanation(program("griffin:tiny")).splitlines()
    at = lines.index("  recurrent, each of 4: rg_lru.h")
    assert "gated_scan" in lines[at + 2]
    # three inputs of the gates and that of the output gate in bfloat16 are read and one result written; going back they
    # are read again, with the derivative that comes in, and four written
    assert "10 bytes an element forward (at best 10), 18 backward (at best 18)" in lines[at + 3]
    assert "a projection" in lines[at + 4]


def test_the_kernel_of_a_selective_scan_has_a_name_of_its_own() -> None:
    lines = explanation(program("mamba:tiny")).splitlines()
    at = lines.index("  mixer, each of 4: selective_ssm.h")
    assert lines[at + 2].strip().startswith("kernel gated_selective_scan:")


@pytest.mark.parametrize("name", shipped())
def test_every_scan_and_every_sum_over_keys_is_explained(name: str) -> None:
    found = program(name)
    text = explanation(found)
    regions = [region for region, _ in found.graph.regions()]
    scans = [v for r in regions for v in r.values if v in r.live and v.op == "scan"]
    assert sum("  kernel " in line for line in text.splitlines()) == len(scans)
    assert all(f": {v.attrs['state']}" in text for v in scans)
