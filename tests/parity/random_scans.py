"""Drawn convolutions and recurrences: diagonal, selective, of outer products, complex, loops, delta rules."""

from __future__ import annotations

from tests.parity.random_bodies import Axes, Writer


def convolution(w: Writer) -> None:
    """A short convolution, and the last token."""
    axes = tuple(dict.fromkeys(w.axis() for _ in range(w.rng.randint(1, 2))))
    name = w.read(w.named(axes))
    taps = w.declare(f"taps{w.count}", w.rng.randint(1, 4))
    if w.rng.random() < 0.6:
        w.let(f"silu(conv({name}, {w.weight('w')}[{taps} {' '.join(w.shuffled(axes))}]))", axes)
    else:
        w.axes.pop(taps)
        w.let(
            w.rng.choice((f"prev({name})", f"{name} - prev({name})", f"prev(prev({name}))", f"prev(tanh({name}) + 1)")),
            axes,
        )


def decay(w: Writer, axes: Axes) -> str:
    """A decay between zero and one with some of the axes: of the token, of weights, of numbers."""
    rng = w.rng
    text = " ".join(axes)
    match rng.choice(("sigmoid", "exp", "fp32", "power", "weight", "number", "index")):
        case "sigmoid":
            return f"sigmoid({w.token(axes, bias=True)})"
        case "exp" if axes:
            return f"exp(-softplus({w.token(axes)}) * exp({w.weight('A')}[{text}]))"
        case "fp32" if axes:
            return f"exp(fp32(-2 * softplus({w.weight('l')}[{text}]) * sigmoid({w.token(axes)})))"
        case "power":
            return f"sigmoid({w.token(axes)}) ^ (1 / 4)"
        case "weight" if axes:
            return rng.choice(("sigmoid({})", "exp(-exp({}))")).format(f"{w.weight('d')}[{text}]")
        case "index" if axes:
            return f"1 - 2 ^ (-2 - index({rng.choice(axes)}))"
        case _:
            return rng.choice(("0.5", "1", "0.9", "1 / 3"))


def diagonal(w: Writer) -> None:
    """A scan whose state escapes."""
    axes = tuple(dict.fromkeys(w.axis() for _ in range(w.rng.randint(1, 2))))
    u = w.read(w.named(axes))
    match w.rng.choice(("scan", "scan", "scan", "maxscan", "outer", "one")):
        case "maxscan":
            m = w.let(f"maxscan(decay = -softplus({w.token(w.some(axes))}), input = {u})", axes)
            w.let(f"{w.read(m)} - prev({m})", axes)
        case "outer":
            other = tuple(a for a in (w.axis(*axes),) if a not in axes)
            w.let(f"tanh(scan(decay = sigmoid({w.token(other)}), input = {u}))", (*other, *axes))
        case "one":
            w.let(f"scan(decay = 0.7, input = {u})", axes)
        case _:
            d = w.let(decay(w, w.shuffled(axes)), axes) if w.rng.random() < 0.3 else ""
            if d and not w.lines[-1].startswith(f"{d} = sig") and not w.lines[-1].startswith(f"{d} = exp"):
                w.lines.pop(), w.unread.pop(d), w.scope.pop(d)
                d = ""
            w.let(f"scan(decay = {w.read(d) if d else decay(w, w.some(axes))}, input = {w.decorated(u, axes)})", axes)


def selective(w: Writer, heads: Axes = ()) -> None:
    """Channels with a state each, contracted at once; keys and read-outs are for all of them or for groups."""
    rng = w.rng
    channels = heads or w.shuffled(tuple(dict.fromkeys(w.axis("state") for _ in range(rng.randint(1, 2)))))
    n = w.declare("state")
    dt = w.let(f"fp32(softplus({w.token(channels, bias=True)}))", channels, f"dt{w.count}")
    groups = [w.some(channels) if heads or rng.random() < 0.3 else () for _ in range(2)]
    u, key, query = w.read(w.named(channels)), *(w.read(w.named(w.shuffled((*own, n)))) for own in groups)
    rates = f"exp({w.weight('A')}[{' '.join(w.shuffled((*channels, n)))}])"
    factors = w.shuffled((dt, key, u))
    first = rng.choice((f"exp(-{dt} * {rates})", f"exp(-{rates} * {dt})", f"exp(-({dt} * {rates}))"))
    h = w.let(f"scan(decay = {first}, input = {' * '.join(factors)})", (*channels, n))
    w.read(dt)
    text = rng.choice(
        (f"dot({h}, {query}, over = {n})", f"dot({query}, {h}, over = {n})", f"sum({h} * {query}, over = {n})")
    )
    w.read(h)
    out = w.let(text, channels)
    if rng.random() < 0.3:
        w.let(f"{w.read(out)} + {w.weight('D')}[{' '.join(channels)}] * {u}", channels)


def matrix(w: Writer, heads: Axes = ()) -> None:
    """A state of keys times values, read by queries: a decay per head or per key, variants of the read-out."""
    rng = w.rng
    heads = heads or w.shuffled(
        tuple(dict.fromkeys(w.axis("key", "value", "state") for _ in range(rng.choice((0, 1, 1, 1, 2)))))
    )
    key, value = w.declare("key"), w.declare("value")
    few = w.some(heads)
    k = w.read(w.named(w.shuffled((*(heads if rng.random() < 0.6 else few), key))))
    v = w.read(w.named(w.shuffled((*heads, value))))
    q = w.read(w.named(w.shuffled((*(heads if rng.random() < 0.7 else few), key))))
    per_key = rng.random() < 0.4
    over = w.shuffled((*heads, key)) if per_key else w.some(heads)
    d = decay(w, over)
    if "@" not in d and "[" in d:
        d = w.let(d, over)
    head = f" * sigmoid({w.token(heads)})" if heads and rng.random() < 0.3 else ""
    parts = w.shuffled((k, v))
    S = w.let(f"scan(decay = {d}, input = {' * '.join(parts)}{head})", (*heads, key, value))
    w.read(S)
    out = (*heads, value)
    match rng.choice(("dot", "dot", "dot", "sum", "before", "bonus", "two", "escape", "rows", "scaled", "normal")):
        case "dot":
            w.let(rng.choice((f"dot({S}, {q}, over = {key})", f"dot({q}, {S}, over = {key})")), out)
        case "sum":
            w.let(f"sum({q} * {S}, over = {key})", out)
        case "before":
            w.let(f"dot(prev({S}), {q}, over = {key})", out)
        case "bonus":
            w.let(f"dot(prev({S}) + {w.weight('u')}[{' '.join((*heads, key))}] * {k} * {v}, {q}, over = {key})", out)
        case "two":
            w.let(f"dot({S}, {q}, over = {key})", out)
            w.let(f"dot({S}, {w.token((*heads, key))}, over = {key})", out)
        case "escape":
            w.let(f"dot({S}, {q}, over = {key})", out)
            w.let(f"max({S}, over = {value})", (*heads, key))
        case "rows":
            w.let(f"dot({S}, {q}, over = {key})", out)
            w.let(f"dot({S}, {w.token((value,))}, over = {value})", (*heads, key))
        case "scaled":
            w.let(f"dot({S} / 2, {q}, over = {key})", out)
        case _:
            z = w.let(f"scan(decay = {d}, input = {k}{head})", (*heads, key)) if "@" not in d and not head else ""
            bottom = f" / (abs(dot({w.read(z)}, {q}, over = {key})) + 1)" if z else ""
            w.let(f"dot({S}, {q}, over = {key}){bottom}", out)


def complex_state(w: Writer) -> None:
    """A complex diagonal state, the same for every token."""
    c, n = w.axis("state"), w.declare("state")
    u = w.read(w.named((c,)))
    a, b = w.weight("re"), w.weight("im")
    h = w.let(f"scan(decay = exp(complex(-exp({a}[{c} {n}]), {b}[{c} {n}])), input = {u})", (c, n))
    gain = f"complex({w.weight('g')}[{c} {n}], {w.weight('h')}[{c} {n}])"
    w.let(f"2 * real(sum({h} * {gain}, over = {n}))", (c,))
    del w.scope[h]


def step_body(w: Writer) -> None:
    """Loops: gated, of two states, with and without weights."""
    axis = w.axis("one")
    u = w.read(w.named((axis,)))
    name, other = f"h{w.count}", f"c{w.count}"
    U, V = w.weight("U"), w.weight("V")
    square = f"{name} @ {U}[{axis} -> {axis}']"
    bodies = {
        "plain": [f"{name} = tanh({u} + {square})"],
        "gated": [
            f"g = sigmoid({u} + {square})",
            f"{name} = g * {name} + (1 - g) * tanh({name} @ {V}[{axis} -> {axis}'] + {u})",
        ],
        "diagonal": [f"{name} = tanh({u} + {U}[{axis}] * {name})"],
        "two": [f"{other} = 0.5 * {other} + tanh({square} + {u})", f"{name} = sigmoid({u}) * tanh({other})"],
    }
    kind = w.rng.choice(list(bodies))
    states = f"{name}[{axis}] = 0"
    if kind == "two":
        states += f", {other}[{axis}] = 0"
    w.lines += [f"loop {states} {{", *(f"    {line}" for line in bodies[kind]), "}"]
    w.let(f"{name} + {other}" if kind == "two" and w.rng.random() < 0.5 else f"tanh({name})", (axis,))


def delta(w: Writer, heads: Axes = ()) -> None:
    """The delta rule as a loop: a state of two or more axes, in several words; some of them are none for the kernel."""
    rng = w.rng
    of_keys = w.some(heads)
    if not heads:
        heads = (w.axis("key", "value"),) if rng.random() < 0.6 else ()
        heads += (w.axis("key", "value", *heads),) if heads and rng.random() < 0.2 else ()
        of_keys = heads
    key, value = w.declare("key"), w.declare("value")
    k = w.read(w.named((*of_keys, key)))
    v, q = (w.read(w.named((*w.some(heads), a))) for a in (value, key))
    beta = w.let(f"sigmoid({w.token(heads)})", heads)
    w.read(beta)
    if rng.random() < 0.2:
        v = f"fp32({v})"
    S = f"S{w.count}"
    text = " ".join(w.shuffled((*heads, key, value)))
    over = w.some((*heads, key)) if rng.random() < 0.1 else w.some(heads)
    a = decay(w, over)
    a = f"({a})" if a[0].isdigit() else w.read(w.let(a, over))
    plain = f"dot({S}, kn, over = {key})"
    summed = f"sum({S} * kn, over = {key})"
    read = rng.choice((plain, summed, f"{a} * {plain}", f"dot({a} * {S}, kn, over = {key})", f"{plain} * {beta}"))
    w.lines += [
        f"loop {S}[{text}] = 0 {{",
        f"    kn = {k} / (1 + abs({k}))",
        f"    old = {read}",
        rng.choice((
            f"    {S} = {a} * {S} + {beta} * kn * ({v} - old) / 4",
            f"    {S} = {S} * {a} + kn * {v} - kn * {beta} * old / 5",
            f"    {S} = {beta} * kn * ({v} / 2 - old / 8) - (0 - {S} * {a})",
            f"    {S} = {a} * {S} + {beta} * kn * ({v} - tanh(old)) / 4",
        )),
        "}",
    ]  # fmt: skip
    w.let(f"dot({S}, {q}, over = {key})", (*heads, value))
