"""What a drawn body can be made of: one function per kind of statement group, each well typed by construction.

Those of single tokens are here.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.parity.random_bodies import Writer
from tests.parity.random_extras import placed, pooled, tied
from tests.parity.random_groups import grouped
from tests.parity.random_pairs import attention, pairs
from tests.parity.random_scans import complex_state, convolution, delta, diagonal, matrix, selective, step_body

Mixer = Callable[[Writer], None]


def project(w: Writer) -> None:
    """Fresh axes from a value, and some of them contracted again."""
    axes = tuple(dict.fromkeys(w.axis() for _ in range(w.rng.randint(1, 2))))
    w.named(axes)


def element_wise(w: Writer) -> None:
    """Two values joined by name; at most three axes."""
    (a, one), (b, two) = w.value(), w.value()
    axes = tuple(dict.fromkeys((*one, *two)))
    if len(axes) > 3:
        w.let(f"tanh({a})", one)
        w.let(f"sigmoid({b})", two)
        return
    sign = w.rng.choice("+-*")
    w.let(w.rng.choice((f"{a} {sign} {b}", f"tanh({a} {sign} {b})", f"({a} {sign} {b}) / 2")), axes)


def contraction(w: Writer) -> None:
    """Some axes contracted, others kept with a block of weights each, a square one, fresh ones."""
    u = w.rng
    axes = w.shuffled((w.axis(), *([w.axis("one")] if u.random() < 0.7 else [])))
    axes = tuple(dict.fromkeys(axes))
    name = w.named(axes)
    gone = u.choice(axes)
    match u.choice(("square", "fresh", "block", "block", "dot")):
        case "square":
            w.let(f"{w.read(name)} @ {w.weight()}[{gone} -> {gone}']", axes)
        case "fresh":
            new = w.axis(*axes)
            w.let(f"{w.read(name)} @ {w.weight()}[{gone} -> {new}]", (*(a for a in axes if a != gone), new))
        case "block":
            kept = [a for a in axes if a != gone]
            left = " ".join(w.shuffled((*kept, gone)))
            right = " ".join(w.shuffled((*kept, f"{gone}'")))
            w.let(f"{w.read(name)} @ {w.weight()}[{left} -> {right}]", axes)
        case _:
            other = w.token((gone,))
            w.let(f"dot({w.read(name)}, {other}, over = {gone})", tuple(a for a in axes if a != gone))


def norm(w: Writer) -> None:
    """A norm of the library over some axes, its scale over others."""
    axes = w.shuffled(tuple(dict.fromkeys((w.axis(), w.axis("one")))))
    name = w.read(w.named(axes))
    over = w.rng.choice(axes)
    both = f"[{' '.join(w.shuffled(axes))}]"
    call = w.rng.choice(("rms_norm", "layer_norm", "linear_norm"))
    where = w.rng.choice((f", over = {over}", f", over = {over}, per = {both}", "", f", over = {both}", ", eps = 1e-3"))
    w.let(f"{call}({name}{where})", axes)


def reduction(w: Writer) -> None:
    """A reduction or a softmax over feature axes."""
    axes = w.shuffled(tuple(dict.fromkeys((w.axis(), w.axis()))))
    name = w.read(w.named(axes))
    over = w.rng.choice(axes)
    rest = tuple(a for a in axes if a != over)
    match w.rng.choice(("sum", "mean", "max", "min", "softmax", "cumsum", "top", "all", "softmax_all")):
        case "softmax" | "cumsum" as kind:
            w.let(f"{kind}({name}, over = {over})", axes)
        case "softmax_all":
            w.let(f"softmax({name}, over = [{' '.join(axes)}])", axes)
        case "top":
            w.let(f"where(top({name}, 1, over = {over}), {name}, 0)", axes)
        case "all":
            w.let(f"tanh({w.rng.choice(('sum', 'mean', 'max'))}({name}))", ())
        case kind:
            w.let(f"{kind}({name}, over = {over})", rest)


def shapes(w: Writer) -> None:
    """Axes split and merged, cut and joined, stacked and picked."""
    rng = w.rng
    parts, other = rng.randint(1, 3), rng.randint(1, 3)
    whole = w.declare(f"whole{w.count}", parts * other)
    a, b = w.declare(f"outer{w.count}", parts), w.declare(f"inner{w.count}", other)
    beside = (w.axis(),) if rng.random() < 0.5 else ()
    match rng.choice(("split", "split", "cut", "stack", "pick")):
        case "split":
            name = w.read(w.named(w.shuffled((whole, *beside))))
            axes = tuple(p for n in w.scope[name] for p in ((a, b) if n == whole else (n,)))
            name = w.let(f"split({name}, {whole} -> {a} {b})", axes)
            order = w.shuffled((a, b))
            if rng.random() < 0.7:
                name = w.let(f"tanh({w.read(name)})", axes)
                w.let(f"merge({w.read(name)}, {' '.join(order)} -> {whole})", (whole, *beside))
            else:
                w.let(f"{w.read(name)} * {w.weight('s')}[{a}]", axes)
        case "cut":
            left, right = w.declare(f"left{w.count}", parts), w.declare(f"right{w.count}", other)
            both = w.declare(f"both{w.count}", parts + other)
            name = w.read(w.named(w.shuffled((both, *beside))))
            n = w.count
            w.lines.append(f"first{n}, last{n} = cut({name}, {both} -> {left} {right})")
            w.scope[f"first{n}"], w.scope[f"last{n}"] = (left, *beside), (right, *beside)
            w.let(f"join(tanh(last{n}), first{n}, {right} {left} -> {both})", (both, *beside))
            w.axes.pop(whole), w.axes.pop(a), w.axes.pop(b)
        case "stack":
            one, two = w.read(w.named((a, *beside))), w.read(w.named((a, *beside)))
            pair = w.declare(f"pair{w.count}", 2)
            name = w.let(f"join({one}, {two}, -> {pair})", (a, *beside, pair))
            w.let(f"pick({w.read(name)}, {pair} = {rng.randrange(2)})", (a, *beside))
            w.axes.pop(whole), w.axes.pop(b)
        case _:
            name = w.read(w.named(w.shuffled((a, b, *beside))))
            w.let(f"pick({name}, {a} = {rng.randrange(parts)})", (b, *beside))
            w.axes.pop(whole)
    for axis in (whole, a, b):
        if axis in w.axes and not any(axis in line for line in w.lines):
            w.axes.pop(axis)


def rotated(w: Writer) -> None:
    """Rotary positions on an axis of even size."""
    even = w.declare(f"even{w.count}", 2 * w.rng.randint(1, 3))
    name = w.read(w.named(w.shuffled((even, w.axis())) if w.rng.random() < 0.1 else (w.axis(), even)))
    call = w.rng.choice(("rotary({})", "rotary_paired({})", "rotary({}, 1, 100)", "rotary_paired({}, base = 50)"))
    if w.scope[name][-1] == even:
        w.let(call.format(name), w.scope[name])


def part(w: Writer) -> None:
    """A fn of its own, called once or more; its axes have other names than the caller's."""
    if w.depth > 1:
        return
    rng = w.rng
    axes = w.shuffled(tuple(dict.fromkeys(w.axis() for _ in range(rng.randint(1, 2)))))
    inner = {f"in{i}": w.size(a) for i, a in enumerate(axes)}
    below = Writer(rng, inner, f"{w.name}_part{w.count}", w.depth + 1, ahead=w.ahead)
    for _ in range(rng.randint(1, 2)):
        rng.choice([m for m in MIXERS if m is not attention])(below)
    text, arguments = below.finish(tuple(inner))
    w.functions += [*below.functions, text]
    if below.takes_mask and rng.random() < 0.5:
        arguments = [*arguments, f"mask = {rng.choice(('causal', 'window(4)'))}"]
    tail = "".join(f", {a}" for a in arguments)
    if rng.random() < 0.3 and not below.takes_mask:
        fn = f"f{w.count}"
        sizes = [p.split(" =")[0] for p in text.split("(", 1)[1].split(") {")[0].split(", ")[1:]]
        bound = ", ".join(f"{n} = {a}" for n, a in zip(sizes, arguments, strict=False))
        w.lines.append(f"shared {fn} = {below.name}({bound})")
        name = w.let(f"{fn}({w.read(w.named(axes))})", axes)
        w.let(f"{w.read(name)} + {fn}({name})", axes)
        return
    for _ in range(rng.choice((1, 1, 2))):
        label = f"named{w.count}: " if rng.random() < 0.2 else ""
        w.let(f"{label}{below.name}({w.read(w.named(axes))}{tail})", axes)


def activation(w: Writer) -> None:
    """A fn handed to a fn."""
    w.count += 1
    name = f"{w.name}_act{w.count}"
    w.functions.append(f"fn {name}(y, act = tanh) {{\n    return act(y) + 0.1 * act(2 * y)\n}}")
    text, axes = w.value()
    w.let(f"{name}({text}{w.rng.choice(('', ', silu', ', act = sigmoid', ', act = softplus'))})", axes)


def weights(w: Writer) -> None:
    """Plain weights with initial values, frozen ones, and functions of weights."""
    rng = w.rng
    text, axes = w.value()
    name = w.weight("g")
    names = " ".join(axes)
    w.let(rng.choice((f"{text} * {name}[{names}]", f"{text} + tanh({name}[{names}])", f"{text} * exp({name}[{names}])",
                      f"{text} * softmax({name}[{names}])" if axes else f"{text} * {name}[]")), axes)  # fmt: skip
    if rng.random() < 0.6:
        inits = ["normal(0.5)", "uniform(-1, 1)", "0.5", "log_uniform(0.1, 1)", "layer + 1"]
        if axes:
            inits += [f"1 / (1 + index({axes[0]}))", "orthogonal()"]
        w.ends.append(f"init {name} = {rng.choice(inits)}")
    if rng.random() < 0.3:
        w.ends.append(f"frozen {name}")


MIXERS: tuple[Mixer, ...] = (
    project, element_wise, element_wise, contraction, norm, reduction, shapes, rotated, convolution, diagonal, diagonal,
    selective, matrix, matrix, complex_state, step_body, delta, grouped, grouped, attention, attention, pairs, pairs,
    pairs, part, part, activation, weights, tied, placed, pooled,
)  # fmt: skip
