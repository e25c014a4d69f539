"""What small models find again in a sequence, and what a window or a state of fixed size cannot: accuracy on tasks.

`python -m benchmarks.tasks`, from the root of the repository; about twenty minutes of one processor for each seed.
Every model is trained by `archc train SPEC --data task:...` from each seed; a line of a table has its mean accuracies,
with the least and the greatest where seeds differ.
recall: the value of each of several keys, trained anew for each number of them. induction: what followed the special
token, trained at one distance and judged at up to 16 times as much.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

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
class Course:
    """One training: steps, tokens of its sequences, and tokens of those that the model is judged on."""

    steps: int
    context: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Exam:
    """A task and its trainings: sequences of a step, and how many of the training's length a model is judged on (of
    other lengths on as many tokens)."""

    data: str
    vocab: int
    batch: int
    judged: int
    courses: tuple[Course, ...]


SHARED = {"width": 64}
WINDOW = 8  # keys
HEADS = {"depth": 2, "heads": 2, "kv": 2, "hidden": 128, "base": 10_000}
UNITS = {"rnn": 128, "gates": 2}
SUBJECTS = {
    "attention": Subject("llama", HEADS, 1e-3),
    "window": Subject("mistral", {**HEADS, "window": WINDOW}, 1e-3),
    "hawk": Subject("hawk", {"depth": 2, **UNITS}, 3e-3),
    "hawk-32": Subject("hawk", {"depth": 2, **UNITS, "rnn": 32}, 3e-3),
    "mamba": Subject("mamba", {"depth": 2}, 4e-3),
    "griffin": Subject("griffin", {"depth": 3, **UNITS, "heads": 2, "window": WINDOW}, 2e-3),
}
PAIRS = ((600, 8), (1000, 16), (1000, 32))  # steps, tokens: 2, 4 and 8 pairs
EXAMS = {
    "recall": Exam("task:recall:vocab=32,pairs=0", 32, 64, 256, tuple(Course(n, t, (t,)) for n, t in PAIRS)),
    "induction": Exam("task:induction:vocab=16", 16, 64, 2048, (Course(800, 32, (32, 64, 128, 256, 512)),)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """A table for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=EXAMS, default=list(EXAMS))
    parser.add_argument(
        "--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help=f"window: of {WINDOW} keys"
    )
    parser.add_argument("--steps", type=int, help="of each training, in place of those of the task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and sequences")
    parser.add_argument("--threads", type=int, default=1, help="processors that may be used")
    args = parser.parse_args(arguments)
    limit(args.threads)
    print(machine(args.threads, "torch"), flush=True)
    for task in args.tasks:
        exam = EXAMS[task]
        courses = [replace(course, steps=args.steps or course.steps) for course in exam.courses]
        said = ", ".join(f"{course.steps} steps of {exam.batch} x {course.context} tokens" for course in courses)
        lengths = [length for course in courses for length in course.lengths]
        print(f"\n{exam.data}, trained for {said}, seeds {args.seeds}: accuracy by tokens")
        print(row("model", "weights", "state", *lengths, "seconds"))
        print(row(*["---"] * (len(lengths) + 4)), flush=True)
        for model in args.models:
            print(examined(model, replace(exam, courses=tuple(courses)), args.seeds, args.threads), flush=True)


def examined(model: str, exam: Exam, seeds: Sequence[int], threads: int) -> str:
    """A line of the table: weights, what a decoder keeps after the longest sequence, accuracies, processor seconds."""
    subject = SUBJECTS[model]
    settings = {**SHARED, "vocab": exam.vocab, **subject.settings}
    report = archc.report(subject.spec, settings, context=max(exam.courses[-1].lengths))
    began = processor_time()
    accuracies: list[str] = []
    for course in exam.courses:
        found = [trained(subject, settings, exam, course, seed, threads) for seed in seeds]
        names = ("heldout" if length == course.context else f"heldout_{length}" for length in course.lengths)
        accuracies += [spread([each[f"{name}_accuracy"] for each in found]) for name in names]
    spent = processor_time() - began
    return row(model, f"{report.params.total:,}", f"{report.cache.bytes_per_sequence:,}", *accuracies, f"{spent:.0f}")


def spread(accuracies: Sequence[float]) -> str:
    """The mean, and the least and the greatest if they are others."""
    least, most = (f"{100 * each:.1f}" for each in (min(accuracies), max(accuracies)))
    return f"{mean(accuracies):.1%}" + (f" ({least} to {most})" if least != most else "")


def trained(
    subject: Subject, settings: dict[str, int], exam: Exam, course: Course, seed: int, threads: int
) -> dict[str, float]:
    """The last line of the metrics of a training as a user runs it; ends with its message if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*ARCHC, "train", subject.spec, "--backend", "torch", "-o", str(run)]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        fields = {
            "data": exam.data,
            "context": course.context,
            "eval-lengths": " ".join(map(str, course.lengths)),
            "batch": exam.batch,
            "steps": course.steps,
            "warmup": min(course.steps, 100),
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
