"""E3xx: axes and kinds, as the ops object to them. E4xx: weights and their initial values."""

from __future__ import annotations

from archc.text.codes import Code

AXES: dict[str, Code] = {
    "E301": Code(
        "one axis, two sizes",
        "Axes join by name, so an axis has one size wherever it is met. The notes show where both came from.",
        "y = x @ W[inner = 4]\nx = x * sum(y * g[inner = 6], over = inner)",
        "y = x @ W[inner = 4]\nx = x * sum(y * g[inner = 4], over = inner)",
    ),
    "E302": Code(
        "a token meets a pair",
        "A token has one value per position, a pair one per query and key: say queries(t), which is constant\n"
        "along keys, or keys(t), which is constant along queries.",
        "s = dot(queries(x), keys(x), over = width) * sum(x)\n"
        "x = dot(softmax(s, over = keys, where = causal), keys(x), over = keys)",
        "s = dot(queries(x), keys(x), over = width) * queries(sum(x))\n"
        "x = dot(softmax(s, over = keys, where = causal), keys(x), over = keys)",
    ),
    "E303": Code(
        "not an axis of this value",
        "A reduction, a contraction or a pick names an axis that its operand has.",
        "x = x * sum(x, over = heads)",
        "x = x * sum(x, over = width)",
    ),
    "E304": Code(
        "a look-up without a whole number",
        "E[vocab width](tokens) takes one whole number per token: tokens, pos, another input, argmax.",
        "x = x + P[vocab width](sum(x))",
        "x = x + P[vocab width](pos)",
    ),
    "E305": Code(
        "a reduction of a number",
        "Numbers have no axes to reduce.",
        "x = x * sum(width)",
        "x = x * sum(x)",
    ),
    "E306": Code(
        "top takes more than there are",
        "top(s, k, over = axis) marks k of the entries along the axis, 1 to all.",
        "x = where(top(x, 9, over = width), x, 0)",
        "x = where(top(x, 2, over = width), x, 0)",
    ),
    "E307": Code(
        "an axis stands twice",
        "A value has one axis of a name. Write width' for a second copy on the right of a contraction.",
        "x = x * sum(x @ W[hidden hidden], over = hidden)",
        "x = x * sum(x @ W[hidden heads], over = [hidden heads])",
    ),
    "E308": Code(
        "an index out of range",
        "pick(x, axis = i) counts from 0.",
        "x = x * pick(x, width = 8)",
        "x = x * pick(x, width = 7)",
    ),
    "E309": Code(
        "not a token",
        "conv, prev, scan and reductions over time work along the tokens of a sequence.",
        "x = x + prev(g[width])",
        "x = x + prev(g[width] * x)",
    ),
    "E310": Code(
        "not a filter",
        "conv is depth-wise: its weight has the axes of the input and one more, the taps.",
        "x = conv(x, w[width])",
        "x = conv(x, w[taps = 4 width])",
    ),
    "E311": Code(
        "only tokens are lifted to pairs",
        "queries(t) and keys(t) take a token, once.",
        "s = sum(keys(queries(x)), over = keys)\nx = x + s",
        "s = sum(where(causal, keys(x), 0), over = keys)\nx = x + s",
    ),
    "E312": Code(
        "no pair to reduce over keys",
        "Softmax, sums and dots over keys take pairs: lift what belongs to the key with keys(...).",
        "x = x * sum(x, over = keys)",
        "x = x * sum(where(causal, keys(x), 0), over = keys)",
    ),
    "E313": Code(
        "an axis called keys or time",
        "over = keys and over = time have their meaning.",
        "x = x + x @ W[keys = 4] @ V[keys = 4 -> width]",
        "x = x + x @ W[key = 4] @ V[key = 4 -> width]",
    ),
    "E401": Code(
        "a weight is written twice",
        "Every mention of a weight makes it, once per instance. tied W says that several mentions are one weight.",
        "x = tanh(x @ W[width]) + x @ W[width]",
        "x = tanh(x @ W[width]) + x @ W[width]\ntied W",
    ),
    "E402": Code(
        "a tied weight with other axes",
        "The axes of a tied weight are a set; the first mention fixes the order of storage.",
        "x = x @ E[width -> vocab] @ E[vocab -> hidden] @ V[hidden -> width]\ntied E",
        "x = x @ E[width -> vocab] @ E[vocab -> width]\ntied E",
    ),
    "E403": Code(
        "'->' in a weight that is not contracted",
        "x @ W[a -> b] contracts; name[a b] is a weight with those axes; E[a b](i) is a table.",
        "x = x * W[width -> hidden]",
        "x = x * w[width]",
    ),
    "E404": Code(
        "a contraction of nothing",
        "An axis on both sides of the arrow is kept, one block of weights per index. width' is a fresh copy of\nwidth.",
        "x = x @ W[width -> width]",
        "x = x @ W[width -> width']",
    ),
    "E405": Code(
        "an initial value that does not fit its weight",
        "It has no axes but those of the weight, and depends on no token.",
        "x = x * g[width]\ninit g = index(hidden)",
        "x = x * g[width]\ninit g = index(width)",
    ),
    "E406": Code(
        "no such weight in this definition",
        "init, frozen and tied speak of weights written in the same fn, block or model.",
        "x = x * lambda[width]\ninit lamda = 1",
        "x = x * lambda[width]\ninit lambda = 1",
    ),
    "E407": Code(
        "tied, but written only once",
        "tied E is for a weight that is mentioned several times. A mention may be misspelt.",
        "x = x @ W[width]\ntied W",
        "x = tanh(x @ W[width]) + x @ W[width]\ntied W",
    ),
}
