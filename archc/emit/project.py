"""The whole emitted project: model.py from the call tree, kernels verbatim, the training files from their skeletons."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import jinja2

from archc.diagnostics import error
from archc.elaborate.call import Program
from archc.emit.artifact import Artifact
from archc.emit.header import header_lines
from archc.emit.module import Module
from archc.emit.texts import Shape
from archc.passes.caches import caches
from archc.passes.flops import flops
from archc.passes.params import params
from archc.passes.positions import keeps_apart, longest
from archc.passes.vocabulary import gives_logits
from archc.passes.workload import Workload
from archc.resources import kernel, paths, read
from archc.version import VERSION

Backend = Literal["torch", "flax"]

CONTEXT = 256
OF_MODELS = frozenset({"generate.py", "ngram.py", "request.py", "tasks.py", "texts.py"})
OF_ENCODERS = frozenset({"masking.py"})
"""Files that only projects of one kind have: the others have nothing to continue, or nothing to mask."""


class Target(Protocol):
    """A backend: how it lays out a module, and which kernel file has which function."""

    name: Backend
    shape: Shape
    kernels: dict[str, str]
    framework: str
    requirements: str

    def imports(self, module: Module, used: Sequence[str]) -> list[str]:
        """The imports that lines of text need."""

    def gates(self, module: Module) -> dict[str, str]:
        """The files with the equations that kernels run: none if no kernel of a written module runs any."""


def project(program: Program, target: Target, context: int) -> tuple[Artifact, ...]:
    """Every file of the output folder, formatted. A pure function of the program, the backend and archc's version."""
    module = Module(program, target.shape, context)
    files = {"model.py": "\n".join([*header_lines(module), _code(module, target)])}
    gates = target.gates(module)
    files |= gates
    files |= {f"kernels/{name}": kernel(target.name, name) for name in _kernel_files(target, module, gates.values())}
    files |= _skeletons(program, target, context)
    return tuple(Artifact(p, t) for p, t in sorted(_formatted(files).items()))


def training_context(program: Program, asked: int | None) -> int:
    """Tokens in a training sequence: as many as asked for, else 256 or what the tables of positions have rows for.

    `ArchError` E612 if more are asked for than that: one backend would stop at the first such token, the other look up
    the last row for it.
    """
    most = longest(program.graph)
    if asked is not None and most is not None and asked > most:
        name = program.graph.name
        raise error(
            "E612", f"'{name}' has positions for {most} tokens, not for {asked}", help="enlarge its table of positions"
        )
    return min(asked or CONTEXT, most or asked or CONTEXT)


def model_code(program: Program, target: Target, context: int) -> dict[str, str]:
    """What model.py and the files of equations that it imports run: without its doc, and not laid out."""
    module = Module(program, target.shape, context)
    code = _code(module, target)
    return {**target.gates(module), "model.py": code}


def _code(module: Module, target: Target) -> str:
    """Imports, then a class or function per unit; from then on the module knows which kernels it uses."""
    blocks = module.blocks()
    imports = target.imports(module, [line for lines in blocks for line in lines])
    name = module.units.of[module.program.root].name
    return "\n\n\n".join("\n".join(lines) for lines in [imports, *blocks, [f"Model = {name}"]]) + "\n"


def _kernel_files(target: Target, module: Module, texts: Iterable[str]) -> list[str]:
    """The files that model.py and other texts import, and those that these import."""
    todo = list(dict.fromkeys(target.kernels[k] for k in module.kernels))
    todo += [name for text in texts for name in _imported(text)]
    done: list[str] = []
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.append(name)
        todo += _imported(kernel(target.name, name))
    return [*sorted(done), "__init__.py"]


def _imported(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [f"{line.split()[1].removeprefix('kernels.')}.py" for line in lines if line.startswith("from kernels.")]


def _skeletons(program: Program, target: Target, context: int) -> dict[str, str]:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        loader=jinja2.FunctionLoader(_skeleton),
    )
    values = _values(program, target, context)
    left_out = OF_ENCODERS if program.graph.kind == "model" else OF_MODELS
    out: dict[str, str] = {}
    for path in paths("templates"):
        folder, _, file = path.rpartition("/")
        name = file.removesuffix(".j2")
        if folder in ("", target.name) and name not in left_out:
            out[name] = environment.get_template(path).render(values)
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
        "version": VERSION,
        "framework": target.framework,
        "requirements": target.requirements,
        "context": context,
        "parameters": f"{counted.total:_}",
        "inputs": graph.inputs,
        "outputs": len(graph.outputs),
        "longest": longest(graph),
        "apart": keeps_apart(graph),
        "logits": gives_logits(graph),
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
