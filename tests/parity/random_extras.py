"""Rarer things that a drawn body can be made of: weights used twice, pairs of positions alone, looking ahead."""

from __future__ import annotations

from tests.parity.random_bodies import Writer


def tied(w: Writer) -> None:
    """A weight that two places use: a matrix forth and back, a scale, a table that is also a matrix."""
    rng = w.rng
    have = w.shuffled((w.axis(), *([w.axis("one")] if rng.random() < 0.5 else [])))
    have = tuple(dict.fromkeys(have))
    made = tuple(dict.fromkeys(w.axis(*have) for _ in range(rng.randint(1, 2))))
    name, matrix = w.read(w.named(have)), w.weight("M")
    match rng.choice(("back", "back", "again", "scale")):
        case "back":
            there = w.let(f"tanh({name} @ {matrix}[{' '.join(have)} -> {' '.join(made)}])", made)
            w.let(f"{w.read(there)} @ {matrix}[{' '.join(made)} -> {' '.join(have)}]", have)
        case "again":
            one = w.let(f"{name} @ {matrix}[{' '.join(have)} -> {' '.join(made)}]", made)
            two = f"tanh({name}) @ {matrix}[{' '.join(have)} -> {' '.join(made)}]"
            w.let(f"{w.read(one)} - {two}", made)
        case _:
            w.let(f"{name} * {matrix}[{' '.join(have)}] + sigmoid({matrix}[{' '.join(have)}])", have)
            for axis in made:
                if axis in w.axes and not any(axis in line.split() for line in w.lines):
                    w.axes.pop(axis, None)
    w.ends.append(f"tied {matrix}")


def placed(w: Writer) -> None:
    """Pairs that know positions only, or queries and the positions of keys."""
    rng = w.rng
    axes = w.shuffled((w.axis("one"),)) if rng.random() < 0.7 else ()
    names, mask = " ".join(axes), w.mask()
    score = rng.choice(("keys(pos)", "(queries(pos) - keys(pos))", "-keys(pos)", "keys(pos) / 4"))
    slope = f" * {w.weight('s')}[{names}]"
    match rng.choice(("sum", "softmax", "queries", "mean", "keys")):
        case "sum":
            w.let(f"sum(where({mask}, 1 / (1 + abs({score})){slope}, 0), over = keys)", axes)
        case "mean":
            w.let(f"tanh(sum(where({mask}, exp(-abs({score}){slope} / 4), 0), over = keys) / 4)", axes)
        case "softmax":
            p = f"softmax({score}{slope}, over = keys, where = {mask})"
            w.let(f"sum({p} * keys(pos), over = keys) / 8", axes)
        case "queries":
            q = w.read(w.named(axes))
            w.let(f"sum(where({mask}, tanh(queries({q}) * {score}), 0), over = keys) / 4", axes)
        case _:
            p = f"softmax({score}{slope}, over = keys, where = {mask})"
            w.let(f"dot({p}, keys({w.read(w.named(axes))}), over = keys)", axes)


def pooled(w: Writer) -> None:
    """Reductions over the whole sequence: an encoder's."""
    if not w.ahead:
        return
    rng = w.rng
    axes = tuple(dict.fromkeys(w.axis() for _ in range(rng.randint(1, 2))))
    name = w.read(w.named(axes))
    match rng.choice(("minus", "gate", "softmax", "linear", "weighted")):
        case "minus":
            w.let(f"{name} - {rng.choice(('mean', 'max', 'min'))}({name}, over = time)", axes)
        case "gate":
            made = " ".join(f"{a}'" for a in axes)
            w.let(f"{name} * sigmoid(mean({name}, over = time) @ {w.weight()}[{' '.join(axes)} -> {made}])", axes)
        case "softmax":
            w.let(f"{name} * softmax({name}, over = time)", axes)
        case "linear":
            key = w.axis(*axes)
            k, q = w.read(w.named((key,))), w.read(w.named((key,)))
            w.let(f"dot({q}, sum({k} * {name}, over = time) / 11, over = {key})", axes)
        case _:
            w.let(f"tanh({name}) + sum({name} * {w.token(())}, over = time) / 11", axes)
