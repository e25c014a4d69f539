"""What a drawn body can be made of: one function per kind of statement group, each well typed by construction."""

from __future__ import annotations

from collections.abc import Callable

from tests.parity.random_bodies import Axes, Writer
from tests.parity.random_extras import placed, pooled, tied

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


def selective(w: Writer) -> None:
    """Channels with a state each, contracted at once."""
    rng = w.rng
    channels = w.shuffled(tuple(dict.fromkeys(w.axis("state") for _ in range(rng.randint(1, 2)))))
    n = w.declare("state")
    dt = w.let(f"fp32(softplus({w.token(channels, bias=True)}))", channels, f"dt{w.count}")
    u, key, query = w.read(w.named(channels)), w.read(w.named((n,))), w.read(w.named((n,)))
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


def matrix(w: Writer) -> None:
    """A state of keys times values, read by queries: a decay per head or per key, variants of the read-out."""
    rng = w.rng
    heads = w.shuffled(
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


def delta(w: Writer) -> None:
    """The delta rule as a loop: a state of two or more axes, in several words; some of them are none for the kernel."""
    rng = w.rng
    heads = (w.axis("key", "value"),) if rng.random() < 0.6 else ()
    heads += (w.axis("key", "value", *heads),) if heads and rng.random() < 0.2 else ()
    key, value = w.declare("key"), w.declare("value")
    k = w.read(w.named((*heads, key)))
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


def attention(w: Writer) -> None:
    """The attention of the library: grouped heads, windows, parts of rotary positions."""
    rng = w.rng
    name, axes = "x", w.scope["x"]
    if axes != ("width",):
        return
    kv, group, dim = rng.randint(1, 2), rng.randint(1, 3), rng.choice((2, 4))
    rope = rng.choice(("", "", ", rope = 1 / 2", ", rope = 0", ", base = 100"))
    if dim == 2 and "1 / 2" in rope:
        rope = ""
    mask = rng.choice(
        ("", f", mask = window({rng.randint(1, 6)})", ", mask = causal", ", mask = dilated(2, 2)", ", mask = mask",
         *((", mask = everything", ", mask = near(2)") if w.ahead else ()))
    )  # fmt: skip
    w.takes_mask |= mask == ", mask = mask"
    kvs = f", {kv}" if rng.random() < 0.7 else f", kv = {kv}"
    w.let(f"attention({w.read(name)}, {kv * group}{kvs}, dim = {dim}{mask}{rope})", axes)


def pairs(w: Writer) -> None:
    """Attention written out, with what papers do to scores and weights."""
    rng = w.rng
    heads = w.shuffled(tuple(dict.fromkeys(w.axis("dim", "value", "rank") for _ in range(rng.choice((0, 1, 1, 1, 2))))))
    dim, value = w.declare("dim"), w.declare("value")
    few = w.some(heads)
    q = w.read(w.named(w.shuffled((*heads, dim))))
    k = w.read(w.named(w.shuffled((*(heads if rng.random() < 0.6 else few), dim))))
    v = w.read(w.named(w.shuffled((*(heads if rng.random() < 0.6 else few), value))))
    if rng.random() < 0.15:
        k = q
    s = f"dot(queries({q}), keys({k}), over = {dim})"
    s = rng.choice(
        (
            f"{s} / sqrt({dim})",
            s,
            f"{s} * 0.5",
            f"softcap({s}, 5)",
            f"tanh({s}) * {w.weight('t')}[{' '.join(w.some(heads))}]",
        )
    )
    m = w.mask()
    score = f"s{w.count}"
    w.lines.append(f"{score} = {s}")
    if rng.random() < 0.5:
        w.lines.append(f"{score} = {_composed(w, score, heads)}")
    p = f"p{w.count}"
    match rng.choice(("softmax", "softmax", "softmax", "where", "product", "inline")):
        case "softmax":
            w.lines.append(f"{p} = softmax({score}, over = keys, where = {m})")
        case "where":
            w.lines.append(f"{p} = where({m}, {score}, 0)")
        case "product":
            w.lines.append(f"{p} = where({m}, sigmoid({score}), 0) / (1 + keys(pos))")
        case _:
            p = f"softmax({score}, over = keys, where = {m})"
    if not p.startswith("softmax") and rng.random() < 0.4:
        w.lines.append(f"{p} = {_composed(w, p, heads, zero=True)}")
    out = (*heads, value)
    match rng.choice(("dot", "dot", "dot", "two", "sum", "swap", "gate")):
        case "two" if not p.startswith("softmax"):
            w.let(f"dot({p}, keys({v}), over = keys)", out)
            w.let(f"dot({p}, keys({w.token((*heads, dim))}), over = keys)", (*heads, dim))
        case "sum":
            w.let(f"sum({p} * keys({v}), over = keys)", out)
        case "swap":
            w.let(f"dot(keys({v}), {p}, over = keys)", out)
        case "gate":
            w.let(f"dot({p} * keys(sigmoid({w.token(heads)})), keys({v}), over = keys)", out)
        case _:
            w.let(f"dot({p}, keys({v}), over = keys)", out)


def _composed(w: Writer, pair: str, heads: Axes, zero: bool = False) -> str:
    """A pair with its heads mixed, gated or shifted; `zero` keeps zeros where they are."""
    rng = w.rng
    kinds = ["queries", "keys", "both"]
    if heads:
        kinds += ["matrix", "rank", "norm"]
    if not zero:
        kinds += ["bias", "distance"]
    head = rng.choice(heads) if heads else ""
    match rng.choice(kinds):
        case "queries":
            return f"{pair} * queries({w.token(heads)})"
        case "keys":
            return f"{pair} + {pair} * keys({w.token(w.some(heads))})"
        case "both":
            return f"{pair} * sigmoid(queries({w.token(heads)}) + keys({w.token(heads)}))"
        case "matrix":
            return f"{pair} + {pair} @ {w.weight('M')}[{head} -> {head}']"
        case "rank":
            rank = w.declare("rank")
            one, two = (w.token((rank, head)) for _ in range(2))
            lift = rng.choice(("queries", "keys"))
            return f"{pair} + dot(dot({pair}, {lift}({one}), over = {head}), {lift}({two}), over = {rank})"
        case "norm":
            return f"{pair} / (1 + sum(abs({pair}), over = {head}))"
        case "bias":
            return f"{pair} + {w.weight('b')}[{' '.join(w.some(heads))}]"
        case _:
            return f"{pair} - (queries(pos) - keys(pos)) / (2 + {f'index({head})' if heads else '1'})"


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
    selective, matrix, matrix, complex_state, step_body, delta, attention, attention, pairs, pairs, pairs, part, part,
    activation, weights, tied, placed, pooled,
)  # fmt: skip
