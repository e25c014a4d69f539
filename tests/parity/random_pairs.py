"""Drawn attention, and pairs of queries and keys that are more than that."""

from __future__ import annotations

from tests.parity.random_bodies import Axes, Writer


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


def pairs(w: Writer, heads: Axes = ()) -> None:
    """Attention written out, with what papers do to scores and weights."""
    rng = w.rng
    heads = heads or w.shuffled(
        tuple(dict.fromkeys(w.axis("dim", "value", "rank") for _ in range(rng.choice((0, 1, 1, 1, 2)))))
    )
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
