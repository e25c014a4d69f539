"""What small models find again in a sequence, and what a window or a state of fixed size cannot: accuracy on tasks.

`python -m benchmarks.tasks`, from the root of the repository; about 12 minutes of one processor. Every model is trained
by `archc train SPEC --data task:...` on sequences of one length and judged on others; a line of a table for each.
induction: what followed the special token, at up to 16 times the distance of training. recall: the value of each of
several keys, one for every four tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import archc
from benchmarks.measure import limit, machine

ARCHC = (sys.executable, "-P", "-c", "from archc.cli import main; main()")


@dataclass(frozen=True)
class Subject:
    """A model: a spec, the values of its parameters besides those that all share, and its learning rate."""

    spec: str
    settings: dict[str, int]
    lr: float


@dataclass(frozen=True)
class Exam:
    """A task, the length of sequences in training, those of the evaluation, how long is trained, and on how many of
    the sequences of training's length a model is judged (of other lengths on as many tokens)."""

    data: str
    vocab: int
    context: int
    lengths: tuple[int, ...]
    batch: int
    steps: int
    judged: int


SHARED = {"width": 64}
WINDOW = 16  # keys
HEADS = {"depth": 2, "heads": 2, "kv": 2, "hidden": 128, "base": 10_000}
UNITS = {"rnn": 64, "gates": 2}
SUBJECTS = {
    "attention": Subject("llama", HEADS, 1e-3),
    "window": Subject("mistral", {**HEADS, "window": WINDOW}, 1e-3),
    "hawk": Subject("hawk", {"depth": 2, **UNITS}, 2e-3),
    "mamba": Subject("mamba", {"depth": 2}, 4e-3),
    "griffin": Subject("griffin", {"depth": 3, **UNITS, "heads": 2, "window": WINDOW}, 2e-3),
}
EXAMS = {
    "induction": Exam("task:induction:vocab=16", 16, 32, (32, 64, 128, 256, 512), 64, 800, 2048),
    "recall": Exam("task:recall:vocab=64,pairs=0", 64, 32, (8, 16, 32, 60), 32, 1200, 512),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """A table for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=EXAMS, default=list(EXAMS))
    parser.add_argument(
        "--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help=f"window: of {WINDOW} keys"
    )
    parser.add_argument("--steps", type=int, help="of each training, in place of those of the task")
    parser.add_argument("--seed", type=int, default=0, help="of weights and sequences")
    parser.add_argument("--threads", type=int, default=1, help="processors that may be used")
    args = parser.parse_args(arguments)
    limit(args.threads)
    print(machine(args.threads, "torch"), flush=True)
    for task in args.tasks:
        exam = EXAMS[task]
        steps = args.steps or exam.steps
        print(f"\n{exam.data}, trained for {steps} steps of {exam.batch} x {exam.context} tokens: accuracy by tokens")
        print(row("model", "weights", "state", *exam.lengths, "seconds"))
        print(row(*["---"] * (len(exam.lengths) + 4)), flush=True)
        for model in args.models:
            print(examined(model, exam, steps, args.seed, args.threads), flush=True)


def examined(model: str, exam: Exam, steps: int, seed: int, threads: int) -> str:
    """A line of the table: weights, what a decoder keeps after the longest sequence, accuracies, processor seconds."""
    subject = SUBJECTS[model]
    settings = {**SHARED, "vocab": exam.vocab, **subject.settings}
    report = archc.report(subject.spec, settings, context=exam.lengths[-1])
    began = processor_time()
    found = trained(subject, settings, exam, steps, seed, threads)
    spent = processor_time() - began
    names = ("heldout" if length == exam.context else f"heldout_{length}" for length in exam.lengths)
    accuracies = (f"{found[f'{name}_accuracy']:.1%}" for name in names)
    return row(model, f"{report.params.total:,}", f"{report.cache.bytes_per_sequence:,}", *accuracies, f"{spent:.0f}")


def trained(
    subject: Subject, settings: dict[str, int], exam: Exam, steps: int, seed: int, threads: int
) -> dict[str, float]:
    """The last line of the metrics of a training as a user runs it; ends with its message if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*ARCHC, "train", subject.spec, "--backend", "torch", "-o", str(run)]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        fields = {
            "data": exam.data,
            "context": exam.context,
            "eval-lengths": " ".join(map(str, exam.lengths)),
            "batch": exam.batch,
            "steps": steps,
            "warmup": min(steps, 100),
            "lr": subject.lr,
            "seed": seed,
            "threads": threads,
            "eval-every": 0,
            "eval-sequences": exam.judged,
            "save-every": 0,
        }
        command += [word for name, value in fields.items() for word in (f"--{name}", *str(value).split())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found: dict[str, float] = json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
        return found


def processor_time() -> float:
    """Seconds of processor time of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(*cells: object) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
