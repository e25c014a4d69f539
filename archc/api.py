"""What Python programs and notebooks call: parse, check, compile, report, load, import and export.

A spec is named as on the command line (`"griffin:tiny"`, `"./my.arch#other:2b"`), by a path, or given as its text (any
string with a `{`). `settings` gives parameters of the model other values than its size does. Whatever a function needs
is imported when it is called, so that `import archc` costs nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from flax import nnx

    from archc.elaborate import Program
    from archc.emit.artifact import Artifact
    from archc.emit.project import Target
    from archc.exchange.safetensors import Tensor
    from archc.reports.schema import Report
    from archc.specs_index import Setting, Settings
    from archc.text import ast

Backend = Literal["torch", "flax"]
Spec = str | os.PathLike[str]


def parse(spec: Spec) -> ast.File:
    """The syntax tree of a spec, without its imports. Raises `ArchError` with every syntax error.

    >>> [item.name.text for item in parse("fn double(x) { return 2 * x }").items]
    ['double']
    """
    from archc.specs_index import find
    from archc.text.parse import parse

    return parse(find(spec).source)


def check(spec: Spec, settings: Settings | None = None) -> Program:
    """The checked program: graph and call tree. Raises `ArchError` with everything that is wrong.

    >>> check("griffin:tiny").graph.outputs
    ('logits',)
    """
    from archc.specs_index import program

    return program(spec, settings)


def report(
    spec: Spec, settings: Settings | None = None, *, batch: int = 1, seq: int = 2048, context: int = 2048
) -> Report:
    """Parameters, FLOPs, caches, scans, attention and memory of a spec, as a pydantic model.

    `batch` sequences of `seq` tokens are trained on at once; decoding is counted at a token that has `context` tokens
    before it. Raises `ArchError`.
    """
    from archc.reports.build import build
    from archc.reports.schema import Report
    from archc.specs_index import program

    return Report.of(build(program(spec, settings), batch=batch, seq=seq, context=context))


def compile(
    spec: Spec,
    *,
    backend: Backend,
    out: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    context: int | None = None,
    force: bool = False,
) -> tuple[Artifact, ...]:
    """The files of a project that trains and generates: a pure function of the spec, the options and archc's version.

    `context` is how many tokens a training sequence has, unless its config.toml or command line says otherwise; 256 or
    as many as the model has positions for.
    Written into the folder `out` if one is given, whole or not at all (see `archc.emit.write.write`). Raises
    `ArchError`.
    """
    from archc.emit.project import project, training_context
    from archc.emit.write import write
    from archc.specs_index import program

    checked = program(spec, settings)
    artifacts = project(checked, _target(backend), training_context(checked, context))
    if out is not None:
        write(artifacts, Path(out), force=force)
    return artifacts


def _target(backend: Backend) -> Target:
    if backend == "torch":
        from archc.backends.torch.target import TorchTarget

        return TorchTarget()
    from archc.backends.flax.target import FlaxTarget

    return FlaxTarget()


@overload
def load(spec: Spec, backend: Literal["torch"] = "torch", *, seed: int = 0, **settings: Setting) -> torch.nn.Module: ...
@overload
def load(spec: Spec, backend: Literal["flax"], *, seed: int = 0, **settings: Setting) -> nnx.Module: ...
def load(spec: Spec, backend: Backend = "torch", *, seed: int = 0, **settings: Setting) -> Any:
    """An initialised model: called with integer tokens [B, T] it gives logits [B, T, vocab].

    Other values for parameters are given by name: `load("griffin:tiny", width=256)`. The same seed gives the same
    weights. A folder that `import_hf` wrote gives the model with its weights, in single precision. Models of several
    specs and of both backends live side by side. Raises `ArchError`; ImportError where the framework is not installed.
    """
    from archc.loading import instantiate

    return instantiate(compile(spec, backend=backend, settings=settings), backend, seed, _weights(spec, settings))


def _weights(spec: Spec, settings: Settings) -> Mapping[str, Tensor] | None:
    """The weights of a run folder; none of what is no such folder."""
    from archc.exchange.run import is_run, weights
    from archc.specs_index import program, shipped

    text = os.fspath(spec)
    if "{" in text or text in shipped() or not is_run(Path(text)):
        return None
    return weights(Path(text), program(spec, settings).graph)


def import_hf(path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, force: bool = False) -> str:
    """The spec of a model of transformers, from its folder or its config.json; its text.

    With `out`, a folder, its safetensors are written there too, in archc's names: `load(out)` gives the model. Reads
    and writes tensor by tensor and changes no bit. Raises `ArchError`: E701 to E712, E605 where `out` is not empty
    (unless `force`), or what the sizes break.
    """
    from archc.exchange.importing import import_run, read_spec

    imported = read_spec(Path(path)) if out is None else import_run(Path(path), Path(out), force=force)
    return imported.text


def export_hf(run: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes a run folder (model.arch and weights.safetensors) as config.json and safetensors that transformers loads.

    The equations must be those of a shipped spec that transformers has. Raises `ArchError`: E711, E713, E714, E605.
    """
    from archc.exchange.exporting import export_run

    export_run(Path(run), Path(out), force=force)


def import_pattern(pattern: str) -> str:
    """The spec of a stack written as letters, `"M-M*-"`: one a layer. Raises `ArchError` E715."""
    from archc.exchange.letters import pattern_spec

    return pattern_spec(pattern)
