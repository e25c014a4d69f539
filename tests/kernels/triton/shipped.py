"""The kernels as they are started, and what they asked of chips when that was last written down.

`python -m tests.kernels.triton.update` writes it down again; the table is of the version of Triton in constraints.txt.
"""

import json
from dataclasses import asdict
from pathlib import Path

import kernels.conv_fused
import kernels.gated_launch
import kernels.gated_tiles
from archc.backends.torch.resources import Launch, conv_launches, resources, scan_launches

from tests.kernels.triton.gates import RG_LRU

TABLE = Path(__file__).with_name("resources.json")


def launches() -> dict[tuple[str, int], Launch]:
    """Everything for Hopper; for the chips before and after it, the passes that fill the registers."""
    found: dict[tuple[str, int], Launch] = {}
    for arch in (80, 90, 100):
        for name, launch in scan_launches(kernels.gated_tiles, kernels.gated_launch, RG_LRU, 3, 1, arch).items():
            if arch == 90 or name in ("forward, few", "backward"):
                found[f"scan {name}", arch] = launch
    for name, launch in conv_launches(kernels.conv_fused, 4, silu=True).items():
        found[f"convolution {name}", 90] = launch
    return found


def recorded() -> dict[str, dict[str, float]]:
    """By kernel and chip."""
    table: dict[str, dict[str, float]] = json.loads(TABLE.read_text("utf-8"))
    return table


def main() -> None:
    """Replaces the table."""
    rows = {f"{name}, sm_{arch}": asdict(resources(launch, arch)) for (name, arch), launch in launches().items()}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    TABLE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
