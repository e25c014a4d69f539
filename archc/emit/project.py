"""The whole emitted project: model.py from the call tree, kernels verbatim, the training files from their skeletons."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import jinja2

from archc.elaborate.call import Program
from archc.emit.artifact import Artifact
from archc.emit.module import Module, Shape
from archc.passes.caches import caches
from archc.passes.flops import flops
from archc.passes.params import params
from archc.passes.workload import Workload
from archc.resources import kernel, paths, read
from archc.text.format import format as canonical
from archc.version import VERSION

Backend = Literal["torch", "flax"]


class Target(Protocol):
    """A backend: how it lays out a module, and which kernel file has which function."""

    name: Backend
    shape: Shape
    kernels: dict[str, str]
    framework: str
    requirements: str

    def header(self, module: Module, used: Sequence[str]) -> list[str]:
        """The lines before the first class: the doc of the file and the imports."""


def project(program: Program, target: Target, context: int) -> tuple[Artifact, ...]:
    """Every file of the output folder, formatted. A pure function of the program, the backend and archc's version."""
    module = Module(program, target.shape, context)
    blocks = module.blocks()
    text = "\n\n\n".join("\n".join(lines) for lines in blocks)
    files = {"model.py": "\n".join(target.header(module, [b for ls in blocks for b in ls])) + "\n\n\n" + text}
    files["model.py"] += f"\n\n\nModel = {module.units.of[program.root].name}\n"
    files |= {f"kernels/{name}": kernel(target.name, name) for name in _kernel_files(target, module)}
    files |= _skeletons(program, target, context)
    return tuple(Artifact(p, t) for p, t in sorted(_formatted(files).items()))


def _kernel_files(target: Target, module: Module) -> list[str]:
    todo = list(dict.fromkeys(target.kernels[k] for k in module.kernels))
    done: list[str] = []
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.append(name)
        for line in map(str.strip, kernel(target.name, name).splitlines()):
            if line.startswith("from kernels."):
                todo.append(line.split()[1].removeprefix("kernels.") + ".py")
    return [*sorted(done), "__init__.py"]


def _skeletons(program: Program, target: Target, context: int) -> dict[str, str]:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        loader=jinja2.FunctionLoader(_skeleton),
    )
    values = _values(program, target, context)
    out: dict[str, str] = {}
    for path in paths("templates"):
        folder, _, name = path.rpartition("/")
        if folder in ("", target.name):
            out[name.removesuffix(".j2")] = environment.get_template(path).render(values)
    return out


def _values(program: Program, target: Target, context: int) -> dict[str, object]:
    """What the skeletons ask for."""
    graph = program.graph
    counted = params(graph)
    train = flops(graph, Workload(1, context, context, "train")).per_token
    numbers = [("parameters", f"{counted.total:,}"), ("of which embeddings", f"{counted.embedding:,}")]
    numbers.append((f"FLOPs per token, forward and backward, at {context:,} tokens", f"{train.total:,.0f}"))
    if graph.kind == "model":
        held = sum(c.bytes(context) for c in caches(graph))
        numbers.append((f"state of a decoder after {context:,} tokens, in bf16", f"{held:,} bytes per sequence"))
    return {
        "name": graph.name + (f":{program.size}" if program.size else ""),
        "doc": program.model.doc.strip() or f"The model {graph.name}.",
        "numbers": numbers,
        "version": archc_version(),
        "framework": target.framework,
        "requirements": target.requirements,
        "context": context,
        "parameters": f"{counted.total:_}",
        "inputs": len(graph.inputs),
        "decodes": graph.kind == "model",
    }


def _skeleton(path: str) -> str:
    return read("templates", path)


def _formatted(files: dict[str, str]) -> dict[str, str]:
    """The Python files as ruff lays them out."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [n for n in files if n.endswith(".py")]
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[name], encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "ruff",
            "format",
            "--isolated",
            "--line-length",
            "120",
            "--no-cache",
            str(root),
        ]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True)
        assert done.returncode == 0, done.stderr
        return {n: (root / n).read_text(encoding="utf-8") if n in names else t for n, t in files.items()}


def fingerprint(program: Program) -> str:
    """sha256 of the canonical text of the spec and its imports."""
    digest = hashlib.sha256()
    for source in program.sources:
        digest.update(canonical(source).encode())
    return digest.hexdigest()


def archc_version() -> str:
    """The version that wrote a file."""
    return VERSION
