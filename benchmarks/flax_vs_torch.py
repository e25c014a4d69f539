"""Emitted Flax models against the emitted PyTorch ones with the same weights: a train step, a prompt, single tokens.

Single precision; the Flax steps are jitted, and the time that compiling them takes is told apart.
`python -m benchmarks.flax_vs_torch`, from the root of the repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Clock, Run, clock, compare, limit, machine, model_options, options, seconds, show

NAMES = ("recurrentgemma", "mamba", "llama")
SAME = 1e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """One table for each model and shape."""
    parser = options(__doc__, repeats=5)
    model_options(parser, NAMES)
    parser.add_argument("--new", type=int, default=32, help="tokens decoded one by one; the prompt is the rest")
    args = parser.parse_args(arguments)
    limit(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    print(machine(args.threads, "torch", "jax", "flax"))
    print(f"width {args.width}, {args.depth} layers, {args.vocab} tokens in the vocabulary; fp32; least, median")
    for name in args.models:
        _compare(name, args)


def _compare(name: str, args: argparse.Namespace) -> None:
    import numpy as np

    from benchmarks import subjects

    timer = clock(args.threads)
    ours, theirs = models(name, subjects.Size(args.width, args.depth, args.vocab))
    for batch, time in args.shapes:
        inputs = subjects.tokens(batch, time, args.vocab)
        train, logits = flax_training(ours, inputs.numpy(), timer)
        apart = float(np.abs(np.asarray(logits(inputs.numpy())) - theirs(inputs).detach().numpy()).max())
        if apart > SAME:
            raise SystemExit(f"{name}: the logits differ by {apart:.1g}: these are not the same models")
        decode = flax_decoding(ours, inputs.numpy(), args.new, timer)
        compiling = [f"train step {seconds(train):.1f} s", f"decoding {seconds(decode):.1f} s"]
        found = compare(train, subjects.training(theirs, theirs, inputs, timer), args.repeats)
        found |= compare(decode, subjects.our_decoding(theirs, inputs, args.new, timer), args.repeats)
        title = f"{name}, {batch} x {time} tokens; first calls with compiling: {', '.join(compiling)}"
        show(title, ("flax", "torch"), found, {})


def models(name: str, size: Any) -> tuple[Any, Any]:
    """Flax's, with the weights of PyTorch's, and PyTorch's."""
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    import archc
    from benchmarks.subjects import family
    from tests.parity.models import flax_shapes, is_stacked, names_of

    found = family(name, size)
    theirs = archc.load(found.spec, backend="torch")
    ours = archc.load(found.spec, backend="flax")
    weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
    flat = []
    for path in flax_shapes(ours):
        parts = [weights[key] for key in names_of(ours, path)]
        keys = tuple(int(key) if key.isdigit() else key for key in path.split("."))
        flat.append((keys, jnp.asarray(np.stack(parts) if is_stacked(ours, path) else parts[0])))
    nnx.update(ours, nnx.from_flat_state(flat))
    return ours, theirs


def _finished(arrays: Any) -> Any:
    """The same arrays, once they are computed: JAX returns before."""
    import jax

    return jax.block_until_ready(arrays)  # type: ignore[no-untyped-call]


def flax_training(model: Any, inputs: Any, clock: Clock) -> tuple[Run, Callable[[Any], Any]]:
    """Loss of the next token and all gradients, and the logits alone, jitted."""
    import jax
    from flax import nnx

    graph, weights = nnx.split(model)

    @jax.jit
    def logits(weights: Any, tokens: Any) -> Any:
        return nnx.merge(graph, weights)(tokens)

    def loss(weights: Any, tokens: Any) -> Any:
        scores = jax.nn.log_softmax(logits(weights, tokens)[:, :-1])
        return -jax.numpy.take_along_axis(scores, tokens[:, 1:, None], -1).mean()

    step = jax.jit(jax.value_and_grad(loss))
    return (
        lambda: {"train": seconds(lambda: _finished(step(weights, inputs)), clock)},
        lambda tokens: logits(weights, tokens),
    )


def flax_decoding(model: Any, inputs: Any, new: int, clock: Clock) -> Run:
    """As `subjects.decoding`; the state is given away to the step, which may write into it."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, weights = nnx.split(model)
    batch, time = inputs.shape

    def advance(weights: Any, tokens: Any, state: Any) -> Any:
        return nnx.merge(graph, weights).step(tokens, state)

    step = jax.jit(advance, donate_argnums=2)

    def run() -> dict[str, float]:
        start = clock()
        state = model.init_state(batch, time, jnp.float32)
        state = _finished(step(weights, inputs[:, : time - new], state))[1]
        middle = clock()
        for t in range(time - new, time):
            state = _finished(step(weights, inputs[:, t : t + 1], state))[1]
        return {"prefill": middle - start, "token": (clock() - middle) / new}

    return run


if __name__ == "__main__":
    main()
