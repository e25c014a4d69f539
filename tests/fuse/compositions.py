"""Attention with composed heads as bodies of `fn f(x[width])`: one of each kind, and drawn at random."""

from __future__ import annotations

from random import Random

HEAD = """
    q = x @ W_q[{heads} dim = 3]
    k = x @ W_k[{heads} dim = 3]
    v = x @ W_v[{heads} dim = 3]
"""
SCORES = "dot(queries(q), keys(k), over = dim)"


def body(
    before: str = "s", after: str = "p", *, lines: str = "", mask: str = "causal", heads: str = "heads = 3"
) -> str:
    """A body with scores `s` before the softmax and weights `p` after it; `lines` make what they read of x."""
    names = heads.replace(" = 3", "").replace(" = 2", "")
    return (
        f"{HEAD.format(heads=heads)}{lines}\n"
        f"    s = {SCORES} / sqrt(3)\n"
        f"    p = softmax({before}, over = keys, where = {mask})\n"
        f"    return dot({after}, keys(v), over = keys) @ W_o[{names} dim -> width]\n"
    )


GATES = "    g = tanh(x @ W_g[heads])\n    h = sigmoid(x @ W_h[heads])\n"
FACTORS = "    u = x @ W_u[rank = 2 heads]\n    w = x @ W_w[heads rank]\n"
LOW_RANK = "dot(dot({0}, {1}(u), over = heads), {1}(w), over = rank)"
KINDS: dict[str, tuple[str, str]] = {
    "static mixing on both sides": (body("s @ M[heads -> heads']", "p + p @ N[heads -> heads']"), ""),
    "static low rank": (body("s + (s @ A[heads -> rank = 2]) @ B[rank -> heads]"), ""),
    "gates of a query and a key": (body("s * queries(g) * keys(h)", "p * keys(g)", lines=GATES, mask="window(4)"), ""),
    "a low rank of the query": (body(f"s + {LOW_RANK.format('s', 'queries')}", lines=FACTORS), ""),
    "a low rank of the key, after only": (body(after=f"p + {LOW_RANK.format('p', 'keys')}", lines=FACTORS), ""),
    "one gate for all heads": (body("s * queries(x @ W_g[width -> ])"), ""),
    "what is no sum of products": (
        body("30 * tanh(s / 30) * scale[heads] + min(s, 0) * keys(g)", "p * p * queries(h)", lines=GATES),
        "",
    ),
    "names that the text uses": (
        body(
            "s * queries(a) * keys(d) + s * keys(qs) * queries(lambda)",
            "p * keys(a) + dot(dot(p, queries(tl), over = heads), keys(tl), over = jnp)",
            lines="".join(f"    {name} = tanh(x @ W_{name}[heads])\n" for name in ("a", "d", "qs", "lambda"))
            + "    tl = x @ W_tl[jnp = 2 heads]\n",
        ),
        "",
    ),
    "a fn of pairs with weights of its own": (
        body("mix(s)", "mix(p)"),
        "fn mix(a[h]) { return a * softplus(g[h]) + a @ M[h -> h'] }\n",
    ),
    "a fn that lifts tokens, in a fn": (
        body("s + outer(s, x)", "outer(p, x)", mask="window(5)"),
        "fn outer(a[h], x[w]) {\n"
        "    r = tanh(x @ W_r[h])\n"
        "    return inner(a * queries(r), x, 2) + a * keys(r)\n"
        "}\n"
        "fn inner(b[n], x[w], rank) {\n"
        "    return dot(b @ A[n -> rank], keys(x @ C[n rank]), over = rank) + b * queries(x @ W_b[n])\n"
        "}\n",
    ),
    "scores that a fn computes": (
        body("s @ M[heads -> heads']").replace(f"{SCORES} / sqrt(3)", "product(q, k)"),
        "fn product(q[.. dim], k[.. dim]) { return dot(queries(q), keys(k), over = dim) / 2 }\n",
    ),
    "two sums of one softmax": (
        body("s @ M[heads -> heads']", "p * keys(g)", lines=GATES).replace(
            "return ",
            "y = dot(p * queries(h), keys(x @ W_u[heads]), over = keys) @ W_y[heads -> width]\n    return y + ",
        ),
        "",
    ),
    "several axes of heads": (
        body(
            "s * queries(x @ W_s[kv group])",
            "p @ M[kv group -> kv' group'] + p * b[kv group]",
            heads="kv = 2 group = 3",
        ),
        "",
    ),
    "keys shared by query heads": (
        body("s * queries(x @ W_s[kv group])", "p * keys(x @ W_t[kv])", heads="kv = 2 group = 3")
        .replace("W_k[kv = 2 group = 3 dim", "W_k[kv dim")
        .replace("W_v[kv = 2 group = 3 dim", "W_v[kv dim"),
        "",
    ),
}
"""By what they are: a body, and the fns that it calls."""


TOKENS = ("x @ W_t{i}[{axes}]", "tanh(x @ W_t{i}[{axes}])", "(0.5 * x) @ W_t{i}[{axes}]")
TERMS = (
    "{a} * {gate}",
    "{a} * {gate} * {gate}",
    "dot(dot({a}, {factor}, over = heads), {factor}, over = {rank})",
    "dot(dot({a}, {turned}, over = heads), {factor}, over = {rank})",
    "{a} @ M{i}[heads -> heads']",
    "({a} @ A{i}[heads -> {rank}]) @ B{i}[{rank} -> heads]",
    "dot({a} @ A{i}[heads -> {rank}], {factor}, over = {rank})",
    "sigmoid(b{i}[heads]) * {a}",
)


def drawn(seed: int) -> tuple[str, str]:
    """Sums of terms that are linear in heads, before the softmax and after it."""
    rng = Random(seed)
    tokens: list[str] = []

    def token(axes: str) -> str:
        name = f"t{len(tokens)}"
        tokens.append(f"    {name} = {rng.choice(TOKENS).format(i=len(tokens), axes=axes)}")
        return f"{rng.choice(('queries', 'keys'))}({name})"

    def term(pairs: str, number: int) -> str:
        rank = rng.choice(("rank", "low"))
        text = rng.choice(TERMS).replace("{a}", pairs).replace("{i}", f"{pairs}{number}").replace("{rank}", rank)
        for word, axes in (("{gate}", "heads"), ("{factor}", f"{rank} heads"), ("{turned}", f"heads {rank}")):
            while word in text:
                text = text.replace(word, token(axes), 1)
        return text

    def mix(pairs: str) -> str:
        terms = [term(pairs, number) for number in range(rng.randint(1, 3))]
        return " + ".join([*terms, pairs] if rng.random() < 0.7 else terms)

    before, after = mix("s"), mix("p")
    used = " ".join([before, after, *tokens])
    sizes = "".join(f"    {name} = {size}\n" for name, size in (("rank", 2), ("low", 3)) if name in used)
    return body(before, after, lines=sizes + "\n".join(tokens), mask=rng.choice(("causal", "window(4)"))), ""
