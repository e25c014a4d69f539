"""A model whose queries see keys of their own buckets: sorted by bucket, and in blocks of queries against all keys.

`python -m benchmarks.buckets`, from the root of the repository. One layer of Reformer, forward and backward; a line for
each backend and length with milliseconds of the emitted text as it is (sorted) and of the same text told not to sort.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from benchmarks.measure import Run, clock, compare, limit, machine, options, seconds, show

ANY = 1 << 30


def main(arguments: Sequence[str] | None = None) -> None:
    """A ratio for each backend and length."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("--backends", nargs="+", choices=("torch", "jax"), default=["torch", "jax"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 4096])
    parser.add_argument("--buckets", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--short", type=int, help="sequences that are not sorted; by default what the kernel says")
    args = parser.parse_args(arguments)
    limit(args.threads)
    steps = {"torch": _torch, "jax": _jax}
    for backend in args.backends:
        print(f"\n{backend}; {machine(args.threads, backend)}")
        for length in args.lengths:
            ours, theirs = (_run(steps[backend](args, length, short), args) for short in (args.short, ANY))
            title = f"{length:,} tokens, {args.rounds} rounds of {args.buckets} buckets"
            show(title, ("sorted", "all keys"), compare(ours, theirs, args.repeats), {})


def _run(step: Callable[[], object], args: argparse.Namespace) -> Run:
    return lambda: {"step": seconds(step, clock(args.threads))}


def _module(args: argparse.Namespace, backend: str, short: int | None) -> ModuleType:
    """The emitted model.py, in which up to `short` tokens are not sorted."""
    import archc
    from archc.loading import import_project

    sizes = {"width": 256, "depth": 1, "heads": 4, "hidden": 256, "buckets": args.buckets, "rounds": args.rounds}
    files = archc.compile("reformer", backend="flax" if backend == "jax" else "torch", settings=sizes)
    module = import_project(files, "model")["model"]
    vars(module)["over_buckets"] = partial(vars(module)["over_buckets"], short=short)
    return module


def _torch(args: argparse.Namespace, length: int, short: int | None) -> Callable[[], object]:
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model: Any = _module(args, "torch", short).Model()
    tokens = torch.randint(model.VOCAB, (1, length), generator=torch.Generator().manual_seed(1))
    return lambda: model(tokens).square().mean().backward()


def _jax(args: argparse.Namespace, length: int, short: int | None) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    model: Any = _module(args, "jax", short).Model(rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(1), (1, length), 0, model.VOCAB)
    graph, weights, *rest = nnx.split(model, nnx.Param, nnx.Not(nnx.Param))
    step = jax.jit(jax.grad(lambda w: jnp.square(nnx.merge(graph, w, *rest)(tokens)).mean()))
    return lambda: jax.block_until_ready(step(weights))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
