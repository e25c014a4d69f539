"""The functions that are generated for the equations around a scan or behind a convolution, as kernels take them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from archc.backends.flax import gates as printed
from archc.backends.flax import kernels as folder
from archc.backends.flax.target import sides

from archc.fuse.convs import FusedConv
from archc.fuse.fused_scan import FusedScan

PARTS = ("gates", "gates_grad", "out", "out_grad")


def activation_of(kernels: SimpleNamespace, fused: FusedConv) -> Any:
    """Those of a convolution, as an `Activation` of these kernels."""
    place = _run(printed.activation_functions("f", fused))
    return kernels.conv.Activation(place["f"], place["f_grad"])


def _run(text: str) -> dict[str, Any]:
    """What the text defines."""
    place: dict[str, Any] = {}
    device = (Path(folder.__path__[0]) / "device.py").read_text("utf-8")
    exec(device + "\n\n" + text, place)
    return place


def gates_of(kernels: SimpleNamespace, fused: FusedScan) -> Any:
    """Those of a scan of outer products, as a `Gates` of these kernels."""
    place = _run(printed.gate_functions("g", fused))
    functions = (place.get(f"g_{part}") for part in PARTS)
    x_sides, w_sides = sides(fused, fused.inputs), sides(fused, fused.weights)
    return kernels.gated.Gates(*functions, x_sides, w_sides, normalised=fused.normaliser is not None)
