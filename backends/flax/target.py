"""The Flax backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Sequence

from archc.backends.flax.shape import FlaxShape

from archc.emit.header import KERNELS, imported_kernels
from archc.emit.module import Module, Shape
from archc.emit.project import Backend

WRITTEN = {
    "unflatten": "axes.py",
    "Frozen": "frozen.py",
    "Layers": "layers.py",
    "stacked": "layers.py",
    "single": "layers.py",
}
"""What the dialect and the shape write, not a rule."""


class FlaxTarget:
    """See `archc.emit.project.Target`."""

    name: Backend = "flax"
    shape: Shape = FlaxShape()
    kernels = KERNELS | WRITTEN
    framework = "Flax"
    requirements = "flax jax optax orbax-checkpoint safetensors numpy grain tokenizers pydantic tensorboard tqdm pytest"

    def imports(self, module: Module, used: Sequence[str]) -> list[str]:
        """The imports that lines of text need."""
        text = "\n".join(used)
        module.kernels.update(dict.fromkeys(name for name in WRITTEN if f"{name}(" in text))
        lines: list[str] = []
        if "math." in text:
            lines += ["import math", ""]
        if "jax." in text:
            lines.append("import jax")
        return [*lines, "import jax.numpy as jnp", "from flax import nnx", "", *imported_kernels(module, self.kernels)]
