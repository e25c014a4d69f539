"""Running what was compiled: the training and generation scripts of a run folder, in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from archc.api import Backend, compile
from archc.diagnostics import ArchError, error
from archc.exchange.run import TEXT, TOKENIZER, is_run
from archc.passes.vocabulary import gives_logits
from archc.specs_index import MODEL, Settings, program

_HEAD = "return one number for each token first: 'logits = x @ U[width -> vocab]'"
_EXTRAS = {"torch": "torch", "triton": "torch", "flax": "jax", "jax": "jax"}
_FRAMEWORK = re.compile(r"^(?:import|from) (torch|jax|flax)\b", re.MULTILINE)


def train(
    spec: str,
    backend: Backend,
    out: Path | None,
    settings: Settings,
    arguments: tuple[str, ...],
    *,
    context: int | None,
    force: bool = False,
) -> int:
    """Compiles into the run folder and runs its train.py with the arguments; its exit code.

    An unchanged run folder is used as it is, so that `--resume` goes on where it stopped. `ArchError` as of `compile`,
    E608 where the framework is not installed, E616 for a model without logits.
    """
    graph = program(spec, settings).graph
    if not gives_logits(graph):
        given = f"its first output is a {graph.main.results[0].type}"
        raise error("E616", f"'{graph.name}' gives no logits for its tokens: {given}", help=_HEAD)
    run = out or Path("runs") / _run_name(spec, backend, settings)
    require(backend)
    try:
        compile(spec, backend=backend, out=run, settings=settings, context=context, force=force)
    except ArchError as refused:
        if not (run / "checkpoints").is_dir() or refused.diagnostics[0].code != "E605":
            raise
        help = "train into another folder; --force compiles over it and keeps its checkpoints"
        raise error("E605", f"'{run}' holds a training of another model or version of archc", help=help) from None
    return _run(run / "train.py", arguments)


def generate(run: Path, arguments: tuple[str, ...]) -> int:
    """Runs the generate.py that belongs to a run folder or a checkpoint in it; its exit code.

    A folder that `archc import` wrote has none: its model is compiled for this once. `ArchError` E609 where there is no
    run, E615 where it has no tokenizer that can be read, E608 where the framework is not installed.
    """
    if not run.exists():
        raise error("E609", f"no run folder or checkpoint '{run}'")
    if is_run(run):
        return _generate_imported(run, arguments)
    for folder in (run, *run.resolve().parents[:2]):
        script = folder / "generate.py"
        if script.is_file():
            found = _FRAMEWORK.search(script.read_text("utf-8"))
            require(found[1] if found else "torch")
            return _run(script, (str(run), *arguments))
        if (folder / "masking.py").is_file():
            raise _encoder(run)
    raise error("E609", f"'{run}' is no run folder: it has no generate.py", help="'archc train' makes run folders")


def _generate_imported(run: Path, arguments: tuple[str, ...]) -> int:
    """With the first framework that is installed."""
    if program(run / MODEL).graph.kind == "encoder":
        raise _encoder(run)
    if not (run / TOKENIZER).is_file():
        raise error("E615", f"'{run}' has no {TOKENIZER}: its text cannot be read or written", help=_instead(run))
    backend: Backend = "torch" if find_spec("torch") or not find_spec("flax") else "flax"
    require(backend)
    with TemporaryDirectory(prefix="archc-") as scratch:
        compile(run / MODEL, backend=backend, out=Path(scratch) / "project")
        return _run(Path(scratch) / "project" / "generate.py", (str(run.resolve()), *arguments))


def _instead(run: Path) -> str:
    others = [name for name in TEXT if (run / name).is_file()]
    if not others:
        return f"put the {TOKENIZER} of the model there"
    return f"of '{others[0]}' transformers makes one: AutoTokenizer.from_pretrained(...).save_pretrained(...)"


def _encoder(run: Path) -> ArchError:
    return error("E609", f"'{run}' holds an encoder: it fills in masked tokens and cannot continue a text")


def _run_name(spec: str, backend: str, settings: Settings) -> str:
    values = [f"{name}={value}" for name, value in settings.items()]
    name = re.sub(r"\.arch\b", "", Path(spec).name)
    return re.sub(r"[^\w.=-]+", "-", "-".join([name, *values, backend]))


def require(framework: str) -> None:
    """`ArchError` E608 where a framework is not installed."""
    if find_spec(framework) is None:
        raise error("E608", f"{framework} is not installed", help=f"pip install 'archc[{_EXTRAS[framework]}]'")


def _run(script: Path, arguments: tuple[str, ...]) -> int:
    """Runs a script to its end. Ctrl-C reaches it by itself; it decides how to stop, and is waited for."""
    process = subprocess.Popen([sys.executable, str(script), *arguments])
    while True:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            continue
        return status if status >= 0 else 128 - status
