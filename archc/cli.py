"""The `archc` command: arguments to calls, nothing else. Every mistake of a user ends in a message and exit code 1."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from archc.api import CONTEXT, Backend
from archc.diagnostics import ArchError, as_json, error, render

Format = Literal["text", "json"]

app = typer.Typer(
    name="archc",
    help="From the equations of one token to a model that trains.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC[:SIZE]", help="a shipped spec, or FILE.arch[#MODEL][:SIZE]")]
BackendOption = Annotated[Backend, typer.Option(help="the framework to write for")]
SetOption = Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="another value for a parameter")]
FormatOption = Annotated[Format, typer.Option(help="how diagnostics are written")]
ContextOption = Annotated[int, typer.Option(min=1, help="tokens in a training sequence")]
ForceOption = Annotated[bool, typer.Option("--force", help="overwrite files in the way; no other file is touched")]
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


def main() -> None:
    """Runs the command line and ends the process: 0 if all went well, 1 after a mistake, 130 after Ctrl-C."""
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as mistake:
        print(f"error: {mistake.format_message()} (archc --help lists the commands)", file=sys.stderr)
        status = 1
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status)


@contextmanager
def told(form: Format = "text") -> Iterator[None]:
    """Turns a mistake in a spec or its surroundings, and what the system refuses, into messages and exit code 1."""
    try:
        yield
    except ArchError as mistakes:
        failed = mistakes
    except BrokenPipeError:
        raise
    except OSError as refused:
        where = f" '{refused.filename}'" if refused.filename else ""
        failed = error("E607", f"cannot read or write{where}: {(refused.strerror or str(refused)).lower()}")
    else:
        return
    if form == "json":
        print(json.dumps(as_json(failed.diagnostics), indent=2))
    else:
        print("\n\n".join(map(render, failed.diagnostics)), file=sys.stderr)
    raise typer.Exit(1)


@app.command()
def check(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC[:SIZE]...", help="shipped specs or files")],
    settings: SetOption = [],  # noqa: B006
    format: FormatOption = "text",
) -> None:
    """Check specs: everything that is wrong, or a summary."""
    from archc.reports.summary import summary
    from archc.specs_index import parse_settings, program

    with told(format):
        given = parse_settings(settings)
        lines = [summary(program(spec, given)) for spec in specs]
        print("[]" if format == "json" else "\n\n".join(lines))


@app.command()
def report(
    spec: SpecArgument,
    settings: SetOption = [],  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="sequences at once")] = 1,
    seq: Annotated[int, typer.Option(min=1, help="tokens in a training sequence")] = 2048,
    context: Annotated[int, typer.Option(min=1, help="tokens before the one that is decoded")] = 2048,
    as_data: Annotated[bool, typer.Option("--json", help="everything as JSON")] = False,
    format: FormatOption = "text",
) -> None:
    """Report parameters, work, caches, scans, attention and memory."""
    from archc.reports.build import build
    from archc.reports.text import tables
    from archc.specs_index import parse_settings, program

    with told("json" if as_data else format):
        found = build(program(spec, parse_settings(settings)), batch=batch, seq=seq, context=context)
        print(found.model_dump_json(indent=2) if as_data else tables(found))


@app.command()
def compile(
    spec: SpecArgument,
    backend: BackendOption,
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to write")],
    settings: SetOption = [],  # noqa: B006
    context: ContextOption = CONTEXT,
    force: ForceOption = False,
    format: FormatOption = "text",
) -> None:
    """Write a project folder that trains and generates, whole or not at all."""
    from archc.api import compile
    from archc.specs_index import parse_settings

    with told(format):
        given = parse_settings(settings)
        artifacts = compile(spec, backend=backend, out=out, settings=given, context=context, force=force)
        print(f"{len(artifacts)} files in {out}")


@app.command(context_settings=PASS_THROUGH)
def train(
    command: typer.Context,
    spec: SpecArgument,
    backend: BackendOption,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="the run folder [runs/SPEC-SIZE-BACKEND]")] = None,
    settings: SetOption = [],  # noqa: B006
    context: ContextOption = CONTEXT,
    force: ForceOption = False,
) -> None:
    """Compile into a run folder and train there; more options go to its train.py (--steps 1000, --data PATH...)."""
    from archc.runs import train
    from archc.specs_index import parse_settings

    with told():
        given = parse_settings(settings)
        status = train(spec, backend, out, given, tuple(command.args), context=context, force=force)
    raise typer.Exit(status)


@app.command(context_settings=PASS_THROUGH)
def generate(
    command: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run folder, or one of its checkpoints")],
) -> None:
    """Continue text with a trained model; options go to the run's generate.py (--prompt TEXT, --tokens 200)."""
    from archc.runs import generate

    with told():
        status = generate(run, tuple(command.args))
    raise typer.Exit(status)


@app.command()
def specs() -> None:
    """List the specs that come with archc, their sizes and what they are."""
    from archc.reports.listing import listing

    with told():
        print(listing())


@app.command()
def fmt(
    files: Annotated[list[Path], typer.Argument(help="spec files, rewritten in place")],
    only_check: Annotated[bool, typer.Option("--check", help="write nothing; exit code 1 if one would change")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="write nothing; show what would change")] = False,
) -> None:
    """Format spec files."""
    from archc.formatting import format_files

    with told():
        changed = format_files(files, write=not (only_check or diff), diff=diff)
    if only_check and changed:
        raise typer.Exit(1)


@app.command()
def graph(
    spec: SpecArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="FILE.svg, .dot, .mmd (Mermaid) or .json")],
    settings: SetOption = [],  # noqa: B006
) -> None:
    """Draw the graph of a spec."""
    from archc.reports.pictures import draw
    from archc.specs_index import parse_settings, program

    with told():
        out.write_text(draw(program(spec, parse_settings(settings)).graph, out.suffix), encoding="utf-8")


@app.command()
def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="the code of a diagnostic: E301")],
) -> None:
    """Explain a diagnostic, with a wrong and a right example."""
    from archc.reports.explain import explanation

    with told():
        print(explanation(code))
