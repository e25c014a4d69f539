"""What can be written behind `archc`: commands, options, and what is said about them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import NoReturn

from archc.diagnostics import closest
from archc.version import VERSION

SPEC = "a shipped spec, or FILE.arch[#MODEL][:SIZE]"
PASSED_ON = {
    "train": "Every field of the run's config.toml is an option too: --steps 1000, --lr 1e-3, --data PATH... (or "
    "a synthetic task, task:recall:pairs=8; train.py --help lists tasks), --resume",
    "generate": "Such as --prompt TEXT (may be repeated), --tokens 200, --temperature 0.8, --top-k, --top-p, --seed",
}
"""Commands whose other options go to a script of the run folder, and what these are."""


def parse() -> Namespace:
    """The command line of this process; `rest` holds what is passed on. A mistake ends the process with exit code 1."""
    parser, commands = _parsers()
    arguments, rest = parser.parse_known_args()
    command = commands[arguments.command]
    if rest and arguments.command not in PASSED_ON:
        known = [option for action in command._actions for option in action.option_strings]
        near = closest(rest[0], known)
        command.error(f"unknown argument '{rest[0]}'" + (f"; {near}" if near else ""))
    return Namespace(**{"format": "text", **vars(arguments), "rest": tuple(rest)})


class _Parser(ArgumentParser):
    """argparse that ends as everything here does: one message and exit code 1."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ('{self.prog} --help' says what there is)", file=sys.stderr)
        raise SystemExit(1)


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of all, and those of the commands by name."""
    parser = _Parser(
        prog="archc", description="From the equations of one token to a model that trains.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"archc {VERSION}")
    added = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=_Parser)
    commands: dict[str, _Parser] = {}
    for name, (what, fill) in _COMMANDS.items():
        sentence = f"{what[0].upper()}{what[1:]}."
        epilog = PASSED_ON.get(name)
        commands[name] = added.add_parser(name, help=what, description=sentence, epilog=epilog, allow_abbrev=False)
        fill(commands[name])
    return parser, commands


def _check(command: _Parser) -> None:
    command.add_argument("specs", nargs="+", metavar="SPEC[:SIZE]", help=SPEC)
    _settings(command)
    _format(command)


def _report(command: _Parser) -> None:
    _spec(command)
    _settings(command)
    _count(command, "--batch", 1, "sequences at once")
    _count(command, "--seq", 2048, "tokens in a training sequence")
    _count(command, "--context", 2048, "tokens before the one that is decoded")
    command.add_argument("--json", action="store_true", help="everything as JSON")
    _format(command)


def _compile(command: _Parser) -> None:
    _project(command)
    command.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    what = "say which kernel runs each scan and attention, what it moves, and why no more is fused"
    command.add_argument("--explain-kernels", action="store_true", help=what)
    _format(command)


def _kernels(command: _Parser) -> None:
    _spec(command)
    _settings(command)
    what = "sm_80, sm_90 or another GPU's Triton kernels; tpu or cuda: the Pallas kernels of the Flax project"
    command.add_argument("--target", required=True, help=what)
    _count(command, "--batch", 8, "sequences at once")
    _count(command, "--seq", 2048, "tokens in a sequence")
    what = "the type of computation [bf16]"
    command.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help=what)
    command.add_argument("--json", action="store_true", help="everything as JSON")
    _format(command)


def _train(command: _Parser) -> None:
    _project(command)
    command.add_argument("-o", "--out", type=Path, metavar="RUN", help="the run folder [runs/SPEC-SIZE-BACKEND]")


def _generate(command: _Parser) -> None:
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one of its checkpoints")


def _import(command: _Parser) -> None:
    command.add_argument("what", choices=("hf", "pattern"), help="a model of transformers, or its layers alone")
    what = "a folder with config.json and safetensors, or a config.json; or layers, such as 'M-M*-'"
    command.add_argument("source", metavar="SOURCE", help=what)
    what = "NAME.arch for the spec alone [printed], or a folder for model.arch and its weights"
    command.add_argument("-o", "--out", type=Path, metavar="OUT", help=what)
    _force(command)
    _format(command)


def _export(command: _Parser) -> None:
    command.add_argument("what", choices=("hf",), help="for transformers")
    command.add_argument("run", type=Path, metavar="RUN", help="a folder with model.arch and weights.safetensors")
    command.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    _force(command)
    _format(command)


def _specs(command: _Parser) -> None:
    what = "the page of docs/gallery.md: every spec as it is written, its sizes, what they cost, a picture"
    command.add_argument("--gallery", action="store_true", help=what)


def _fmt(command: _Parser) -> None:
    command.add_argument("files", nargs="+", type=Path, metavar="FILE.arch", help="a spec file")
    command.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file would change")
    command.add_argument("--diff", action="store_true", help="write nothing; show what would change")


def _graph(command: _Parser) -> None:
    _spec(command)
    _settings(command)
    what = "FILE.svg, .dot (Graphviz), .mmd (Mermaid) or .json"
    command.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=what)


def _explain(command: _Parser) -> None:
    command.add_argument("code", metavar="CODE", help="the code of a diagnostic, such as E301")


def _project(command: _Parser) -> None:
    """What compile and train share."""
    _spec(command)
    command.add_argument("--backend", choices=("torch", "flax"), required=True, help="the framework to write for")
    _settings(command)
    what = "tokens in a training sequence [256, or as many as the model has positions for]"
    command.add_argument("--context", type=_positive, metavar="N", help=what)
    _force(command)


def _force(command: _Parser) -> None:
    what = "overwrite files in the way; no other file is touched"
    command.add_argument("--force", action="store_true", help=what)


def _spec(command: _Parser) -> None:
    command.add_argument("spec", metavar="SPEC[:SIZE]", help=SPEC)


def _settings(command: _Parser) -> None:
    what = "another value for a parameter; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=what)


def _format(command: _Parser) -> None:
    what = "how diagnostics are written [text]"
    command.add_argument("--format", choices=("text", "json"), default="text", help=what)


def _count(command: _Parser, name: str, default: int, what: str) -> None:
    command.add_argument(name, type=_positive, default=default, metavar="N", help=f"{what} [{default}]")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"'{text}' is no whole number above zero")
    return number


_COMMANDS = {
    "check": ("check specs: everything that is wrong, or a summary", _check),
    "report": ("report parameters, work, caches, scans, attention and memory", _report),
    "compile": ("write a project folder that trains and generates, whole or not at all", _compile),
    "kernels": ("compile the kernels of a spec without their device: registers, memory, what limits them", _kernels),
    "train": ("compile into a run folder and train there; other options go to its train.py", _train),
    "generate": ("continue text with a trained model; other options go to its generate.py", _generate),
    "import": ("write the spec of another library's model, and its weights in archc's names", _import),
    "export": ("write a model and its weights for another library", _export),
    "specs": ("list the specs that come with archc, their sizes and what they are", _specs),
    "fmt": ("format spec files in place", _fmt),
    "graph": ("draw the graph of a spec", _graph),
    "explain": ("explain a diagnostic, with a wrong and a right example", _explain),
}
