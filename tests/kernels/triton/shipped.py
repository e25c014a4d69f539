"""The kernels that shipped specs start, as they start them, and what they asked of chips when that was last written
down.

`python -m tests.kernels.triton.update` writes it down again; the table is of the version of Triton in constraints.txt.
"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from archc.backends.torch.chips import CHIPS
from archc.backends.torch.launches import Launched, Shape, launched
from archc.backends.torch.machine_code import Resources, resources

from archc.api import compile
from archc.loading import import_project
from archc.specs_index import shipped

TABLE = Path(__file__).with_name("resources.json")
ARCHS = (80, 90, 100)
SETTINGS = {"depth": 4}
"""The published sizes of a spec, in as many layers as the longest pattern of layers has."""
SHAPES = (Shape(1, 512), Shape(32, 512))
"""Few programs, where time is cut into pieces, and many."""
SEQUENCES = ("composed_normalisers", "composed_values", "composed_back_queries", "composed_back_keys", "laid_forward")
SEQUENCES += ("laid_back_queries", "laid_back_keys")
LEAST_WARPS = 8
"""Of a multiprocessor, so that its four schedulers have two each."""


def label(found: Launched) -> str:
    """What a kernel is called in the table."""
    return f"{found.launch.name}: {found.launch.arguments}"


@cache
def project(spec: str) -> dict[str, ModuleType] | None:
    """The modules of a spec, whatever the chip; None if it has no kernels of its own."""
    artifacts = compile(spec, backend="torch", settings=SETTINGS)
    if all(a.path != "kernels/operators.py" for a in artifacts):
        return None
    return import_project(artifacts, "model")


@cache
def launches(spec: str, arch: int) -> dict[str, Launched]:
    """Every different kernel of a spec for a chip, by label; sequences of attention with composed heads have limits of
    their own, in test_composed_compiled.py.
    """
    modules = project(spec)
    if modules is None:
        return {}
    found: dict[str, Launched] = {}
    for each in (each for shape in SHAPES for each in launched(modules, shape, arch, "bf16")):
        if each.launch.name in SEQUENCES:
            continue
        same = [name for name in found if name.partition(" (")[0] == label(each)]
        if all(found[name].launch.key != each.launch.key for name in same):
            found[label(each) + (f" ({len(same) + 1})" if same else "")] = each
    return found


def recorded() -> dict[str, dict[str, Any]]:
    """By kernel: the first spec that starts it, where, and its resources by chip ("sm_90")."""
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text("utf-8"))
    return table


def problems(arch: int, found: Resources) -> list[str]:
    """What of a kernel is beyond its limits."""
    chip, out = CHIPS[arch], []
    if found.spills or found.stack:
        out.append(f"{found.spills} spills in the loop, {found.stack} bytes of stack")
    if found.shared > chip.shared:
        out.append(f"{found.shared} bytes of shared memory, the chip has {chip.shared}")
    if found.programs * found.warps < LEAST_WARPS:
        out.append(f"{found.programs} programs of {found.warps} warps at a time")
    return out


def main() -> None:
    """Replaces the table, and says what is beyond the limits."""
    rows: dict[str, dict[str, Any]] = {}
    for spec in shipped():
        for arch in ARCHS:
            for name, each in launches(spec, arch).items():
                row = rows.setdefault(name, {"spec": spec, "use": each.use, "backward": each.backward})
                if f"sm_{arch}" not in row:
                    found = resources(each.launch, arch)
                    row[f"sm_{arch}"] = asdict(found)
                    for what in problems(arch, found):
                        print(f"{spec}, sm_{arch}, {name}: {what}")
    lines = ",\n".join(f"  {json.dumps(name)}: {_row(row)}" for name, row in rows.items())
    TABLE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def _row(row: dict[str, Any]) -> str:
    parts = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in row.items()]
    return "{\n" + ",\n".join(parts) + "\n  }"
