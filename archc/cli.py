"""The `archc` command: arguments to calls, nothing else. Every mistake of a user ends in a message and exit code 1."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from archc.arguments import parse
from archc.diagnostics import ArchError, Diagnostic, as_json, error, render

Command = Callable[[Namespace], int]


def main() -> None:
    """Runs the command line and ends the process: 0 if all went well, 1 after a mistake, 130 after Ctrl-C."""
    arguments = parse()
    sys.exit(_told(COMMANDS[arguments.command], arguments))


def _told(run: Command, arguments: Namespace) -> int:
    """The exit code of a command; a mistake in a spec or around it, and what the system refuses, become messages."""
    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except ArchError as mistakes:
        failed = mistakes
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as refused:
        where = f" '{refused.filename}'" if refused.filename else ""
        failed = error("E607", f"cannot read or write{where}: {(refused.strerror or str(refused)).lower()}")
    if arguments.format == "json" or vars(arguments).get("json"):
        print(json.dumps(as_json(failed.diagnostics), indent=2))
    else:
        print("\n\n".join([*map(render, failed.diagnostics), *_examples(failed.diagnostics)]), file=sys.stderr)
    return 1


def _examples(diagnostics: Iterable[Diagnostic]) -> Iterator[str]:
    """Where to read on about mistakes in a spec for which no diagnostic has a suggestion."""
    bare = (d for d in diagnostics if d.span is not None and not d.help and "did you mean" not in d.message)
    for code in dict.fromkeys(d.code for d in bare):
        yield f"'archc explain {code}' says more"


def _check(arguments: Namespace) -> int:
    from archc.reports.summary import summary
    from archc.specs_index import parse_settings, program

    given = parse_settings(arguments.set)
    lines = [summary(program(spec, given)) for spec in arguments.specs]
    print("[]" if arguments.format == "json" else "\n\n".join(lines))
    return 0


def _report(arguments: Namespace) -> int:
    from archc.reports.build import build
    from archc.reports.text import tables
    from archc.specs_index import parse_settings, program

    checked = program(arguments.spec, parse_settings(arguments.set))
    found = build(checked, batch=arguments.batch, seq=arguments.seq, context=arguments.context)
    if arguments.json:
        from archc.reports.schema import Report  # pydantic takes longer to import than a report takes to make

        print(Report.of(found).model_dump_json(indent=2))
    else:
        print(tables(found))
    return 0


def _compile(arguments: Namespace) -> int:
    from archc.api import compile
    from archc.specs_index import parse_settings

    artifacts = compile(
        arguments.spec,
        backend=arguments.backend,
        out=arguments.out,
        settings=parse_settings(arguments.set),
        context=arguments.context,
        force=arguments.force,
    )
    if arguments.explain_kernels:
        from archc.reports.kernels import explanation
        from archc.specs_index import program

        print(explanation(program(arguments.spec, parse_settings(arguments.set))))
    print(f"{len(artifacts)} files in {arguments.out}")
    return 0


def _kernels(arguments: Namespace) -> int:
    from archc.offline import kernels
    from archc.reports.compiled import table
    from archc.specs_index import parse_settings

    found = kernels(
        arguments.spec,
        arguments.target,
        parse_settings(arguments.set),
        batch=arguments.batch,
        seq=arguments.seq,
        dtype=arguments.dtype,
    )
    print(json.dumps(found.data, indent=2) if arguments.json else table(found))
    return 0


def _train(arguments: Namespace) -> int:
    from archc.runs import train
    from archc.specs_index import parse_settings

    return train(
        arguments.spec,
        arguments.backend,
        arguments.out,
        parse_settings(arguments.set),
        arguments.rest,
        context=arguments.context,
        force=arguments.force,
    )


def _generate(arguments: Namespace) -> int:
    from archc.runs import generate

    return generate(arguments.run, arguments.rest)


def _import(arguments: Namespace) -> int:
    from archc.api import import_hf, import_pattern

    if arguments.what == "hf" and arguments.out is not None and arguments.out.suffix != ".arch":
        import_hf(arguments.source, arguments.out, force=arguments.force)
        print(f"model and weights in {arguments.out}{_with_text(arguments.out)}")
        return 0
    text = import_hf(arguments.source) if arguments.what == "hf" else import_pattern(arguments.source)
    if arguments.out is None:
        print(text, end="")
        return 0
    if arguments.out.exists() and not arguments.force:
        raise error("E605", f"'{arguments.out}' is there already", help="choose another name, or add --force")
    arguments.out.write_text(text, encoding="utf-8")
    return 0


def _with_text(run: Path) -> str:
    from archc.exchange.run import TOKENIZER

    if (run / TOKENIZER).is_file():
        return f", and its {TOKENIZER}"
    return f"; there was no {TOKENIZER} to read text with"


def _export(arguments: Namespace) -> int:
    from archc.api import export_hf

    export_hf(arguments.run, arguments.out, force=arguments.force)
    print(f"config.json and model.safetensors in {arguments.out}")
    return 0


def _specs(arguments: Namespace) -> int:
    if arguments.gallery:
        from archc.reports.gallery import gallery

        print(gallery(), end="")
    else:
        from archc.reports.listing import listing

        print(listing())
    return 0


def _fmt(arguments: Namespace) -> int:
    from archc.formatting import format_files

    write = not (arguments.check or arguments.diff)
    changed = format_files(arguments.files, write=write, diff=arguments.diff)
    return int(arguments.check and bool(changed))


def _graph(arguments: Namespace) -> int:
    from archc.reports.pictures import draw
    from archc.specs_index import parse_settings, program

    text = draw(program(arguments.spec, parse_settings(arguments.set)).graph, arguments.out.suffix)
    arguments.out.write_text(text, encoding="utf-8")
    return 0


def _explain(arguments: Namespace) -> int:
    from archc.reports.explain import explanation

    print(explanation(arguments.code))
    return 0


COMMANDS: dict[str, Command] = {
    "check": _check,
    "report": _report,
    "compile": _compile,
    "kernels": _kernels,
    "train": _train,
    "generate": _generate,
    "import": _import,
    "export": _export,
    "specs": _specs,
    "fmt": _fmt,
    "graph": _graph,
    "explain": _explain,
}
