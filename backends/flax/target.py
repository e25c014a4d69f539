"""The Flax backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Sequence
from re import search

from archc.backends.flax.gates import activation_functions, device_names, gate_functions, mix_texts
from archc.backends.flax.shape import FlaxShape

from archc.emit.code import call
from archc.emit.equations import row
from archc.emit.gated import constant
from archc.emit.header import KERNELS, imported_gates, imported_kernels, subject
from archc.emit.mixes import Mix, Mixes
from archc.emit.module import Module
from archc.emit.project import Backend
from archc.emit.texts import Shape
from archc.fuse.fused_scan import OUTER, PER_HEAD, PER_KEY, PER_VALUE, FusedScan, Handed
from archc.fuse.parts import is_complex

WRITTEN = {
    "unflatten": "axes.py",
    "Frozen": "frozen.py",
    "Layers": "layers.py",
    "stacked": "layers.py",
    "single": "layers.py",
}
"""What the dialect and the shape write, not a rule."""
_SIDES = {PER_HEAD: "head", PER_KEY: "keys", PER_VALUE: "values"}
"""As the kernels of outer products call them."""


class FlaxTarget:
    """See `archc.emit.project.Target`."""

    name: Backend = "flax"
    shape: Shape = FlaxShape()
    kernels = KERNELS | WRITTEN | {"gated_selective_scan": "gated.py", "power": "device.py", "root": "device.py"}
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
        imports = [*imported_gates(module), *imported_kernels(module, self.kernels)]
        return [*lines, "import jax.numpy as jnp", "from flax import nnx", "", *imports]

    def gates(self, module: Module) -> dict[str, str]:
        """gates.py."""
        scans, convs, mixes = module.scans, module.convs, module.mixes
        if not module.gates and not mixes:
            return {}
        functions = [gate_functions(stem, fused) for stem, fused in scans.items()]
        functions += [activation_functions(stem, fused) for stem, fused in convs.items()]
        functions += [mix_texts(stem, found) for stem, found in mixes.items()]
        text = "\n\n\n".join(functions)
        used = device_names(text)
        on = "of whole arrays or of tiles" if module.gates else "of tiles"
        lines = [
            f'"""{subject(module)} and their derivatives, {on}."""',
            "",
            *(["import jax"] if search(r"\bjax\.", text) else []),
            *(["import jax.numpy as jnp"] if search(r"\bjnp\.", text) else []),
            *(["from kernels.composed import Composed, Mix"] if mixes else []),
            *([f"from kernels.device import {', '.join(used)}"] if used else []),
            *(["from kernels.complex_tiles import ComplexGates"] if any(f.is_complex for f in scans.values()) else []),
            *(["from kernels.taps import Activation"] if convs else []),
            *(["from kernels.tiles import Gates"] if not all(f.is_complex for f in scans.values()) else []),
            "",
            "",
            text,
            "",
            "",
            *(_together(stem, fused) for stem, fused in scans.items()),
            *(f"{constant(stem)} = Activation({stem}, {stem}_grad)" for stem in convs),
            *(_composed(stem, found) for stem, found in mixes.items()),
        ]
        return {"gates.py": "\n".join(lines) + "\n"}


def _together(stem: str, fused: FusedScan) -> str:
    """All functions of a scan in one object."""
    parts = ["gates", *(["out"] if fused.out is not None else [])]
    given = [f"{stem}_{part}" for each in parts for part in (each, f"{each}_grad")]
    if fused.kind in OUTER:
        named = {"x_sides": fused.inputs, "w_sides": fused.weights}
        words = {name: row([f'"{side}"' for side in sides(fused, each)]) for name, each in named.items() if each}
        given += [f"{name}={text}" for name, text in words.items()]
    given += ["real=True"] if fused.is_complex and not is_complex(fused.result) else []
    given += ["before=True"] if fused.found.before else []
    given += ["normalised=True"] if fused.normaliser is not None else []
    return call(f"{constant(stem)} = {'ComplexGates' if fused.is_complex else 'Gates'}", *given).text


def sides(fused: FusedScan, handed: Sequence[Handed]) -> tuple[str, ...]:
    """Along what each of the inputs or weights of a scan of outer products varies."""
    return tuple(_SIDES[fused.room(each)] for each in handed)


def _composed(stem: str, mixes: Mixes) -> str:
    """The compositions of a program in one object."""

    def one(mix: Mix) -> str:
        name = mixes.function(stem, mix)
        return f'{mix.place}=Mix("{mix.sides}", "{mix.shapes}", {name}, {name}_grad)'

    given = map(one, mixes.found)
    return f"{constant(stem)} = Composed({', '.join(given)})"
