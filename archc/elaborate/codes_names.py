"""E1xx: names, calls, statements, files, models and sizes."""

from __future__ import annotations

from archc.text.codes import Code

NAMES: dict[str, Code] = {
    "E101": Code(
        "unknown name",
        "A fn sees its arguments, the axes of those arguments and other fns; a block also sees the numbers and\n"
        "values of its model. Before a parenthesis only fns and blocks are looked up.",
        "x = rms_nrom(x)",
        "x = rms_norm(x)",
    ),
    "E102": Code(
        "what is called is no function",
        "Numbers, values and masks without arguments are not called.",
        "x = hidden(x)",
        "x = tanh(x)",
    ),
    "E103": Code(
        "unknown argument",
        "A name before = in a call must be a parameter of what is called.",
        "x = softmax(x, dim = width)",
        "x = softmax(x, over = width)",
    ),
    "E104": Code(
        "unknown choice of layers",
        "In the list of a stack, layers are chosen with at(...) by index from 0, first(n) and last(n).",
        "x = stack(x, depth, [mixer, final(1): mixer])",
        "x = stack(x, depth, [mixer, last(1): mixer])",
    ),
    "E105": Code(
        "'->' where no axes are expected",
        "Axes with '->' are arguments of split, merge, cut and join, and stand inside of weights.",
        "x = tanh(x, width -> hidden)",
        "x = tanh(x)",
    ),
    "E106": Code(
        "not called like this",
        "The number of arguments, or a required one, is wrong. The help shows how the function is written.",
        "x = dot(x, x)",
        "x = x * dot(x, x, over = width)",
    ),
    "E107": Code(
        "an argument is given twice",
        "Arguments by place come first, the others by name, each once.",
        "x = swiglu(x, hidden, hidden = hidden)",
        "x = swiglu(x, hidden)",
    ),
    "E108": Code(
        "recursion",
        "A fn is written out wherever it is called, so it cannot call itself, nor through another fn; at most 40 calls "
        "lie inside one another.",
        "fn again(x) { return again(x) }\nx = again(x)",
        "fn twice(x) { return 2 * x }\nx = twice(x)",
    ),
    "E109": Code(
        "a fn without return",
        "A fn gives back one or more values.",
        "fn twice(x) { y = 2 * x }\nx = twice(x)",
        "fn twice(x) { return 2 * x }\nx = twice(x)",
    ),
    "E110": Code(
        "an argument is missing",
        "A parameter without a default must be given; a parameter of a model needs a default or a value in the\nsize.",
        "x = swiglu(x)",
        "x = swiglu(x, hidden)",
    ),
    "E111": Code(
        "nothing uses this",
        "A parameter, value, fn or block that nothing reads is often a misspelt use or a forgotten term: a window\n"
        "that no mask takes would leave attention global. Names that begin with _ are left alone.",
        "gate = sigmoid(x)",
        "gate = sigmoid(x)\nx = gate * x",
    ),
    "E112": Code(
        "'shared' binds named arguments that do not change",
        "shared f = name(n = 3) makes one instance to call often. Tokens are given at each call.",
        "shared f = swiglu(x)\nx = f(hidden = hidden)",
        "shared f = swiglu(hidden = hidden)\nx = f(x)",
    ),
    "E113": Code(
        "a label on something that has no name in checkpoints",
        "A label names the weights of one call of a fn, or a stack. Builtins have no weights, layers are\n"
        "numbered, a shared fn has its name already.",
        "x = act: tanh(x)",
        "x = final: rms_norm(x)",
    ),
    "E114": Code(
        "random numbers outside of init",
        "normal, uniform, log_uniform and orthogonal are initial values of weights.",
        "x = x + normal(0.02)",
        "x = x * g[width]\ninit g = normal(0.02)",
    ),
    "E115": Code(
        "a statement in the wrong place",
        "input, size, block, stack and init default belong to a model; a loop holds assignments only.",
        "fn twice(x) {\n    size tiny: n = 2\n    return 2 * x\n}\nx = twice(x)",
        "x = 2 * x\nsize tiny: width = 4",
    ),
    "E116": Code(
        "a name in checkpoints is taken",
        "Weights and calls of one body share one name space there. Calls of one fn are numbered; a label names\n"
        "one call.",
        "x = one: rms_norm(x)\nx = one: rms_norm(x)",
        "x = one: rms_norm(x)\nx = two: rms_norm(x)",
    ),
    "E117": Code(
        "a fn in an initial value",
        "Initial values are made of the builtins that work element by element, of random numbers, index(axis) and\n"
        "layer.",
        "x = x * g[width]\ninit g = softcap(1, 2)",
        "x = x * g[width]\ninit g = 2 * tanh(0.5)",
    ),
    "E118": Code(
        "a statement after return",
        "What stands behind return would not be computed. init, tied, frozen, size and declarations may.",
        "fn twice(x) {\n    return 2 * x\n    x = 3 * x\n}\nx = twice(x)",
        "fn twice(x) {\n    x = 3 * x\n    return 2 * x\n}\nx = twice(x)",
    ),
    "E120": Code(
        "which model",
        "A file that is checked declares a model or an encoder; of several the one called like the file is meant,\n"
        "or the one that is named: file.arch#model.",
        "fn twice(x) { return 2 * x }",
        "model m(width = 8, vocab = 16) {\n    logits = E[vocab width](tokens) @ U[vocab]\n}",
    ),
    "E121": Code(
        "an import in a text",
        "Imports are found beside the file they stand in, so a spec that is given as text has none.",
        'import "griffin.arch"',
        "",
    ),
    "E122": Code(
        "an import leaves the folder",
        "Files import one another by relative path inside of the folder where the spec lies.",
        'import "../griffin.arch"',
        'import "parts/griffin.arch"',
    ),
    "E123": Code(
        "a file cannot be read",
        "The imported file is missing, or is no UTF-8 text.",
        'import "grifin.arch"',
        'import "griffin.arch"',
    ),
    "E124": Code(
        "declared twice",
        "Fns of a file, parameters, blocks, sizes and initial values each have one declaration.",
        "size tiny: width = 4\nsize tiny: width = 2",
        "size tiny: width = 4\nsize small: width = 8",
    ),
    "E125": Code(
        "no such parameter of the model",
        "Sizes and --set give values to parameters of the model, and to nothing else.",
        "size tiny: widht = 4",
        "size tiny: width = 4",
    ),
    "E126": Code(
        "no such size",
        "The sizes of a model are its size lines.",
        "archc check griffin:8b",
        "archc check griffin:7b",
    ),
    "E127": Code(
        "a model without output",
        "A model gives what it returns, or else logits.",
        "model m(width = 8, vocab = 16) { y = E[vocab width](tokens) @ U[vocab] }",
        "model m(width = 8, vocab = 16) { logits = E[vocab width](tokens) @ U[vocab] }",
    ),
    "E128": Code(
        "two imported files declare one name",
        "A file sees the fns of the files that it imports. Its own declaration goes before theirs; of two\n"
        "imported ones none does.",
        'import "a.arch"\nimport "b.arch"',
        'import "a.arch"',
    ),
    "E129": Code(
        "an output is not one value per token or sequence",
        "A pair has one value per query and key: sum it over keys. A weight does not depend on the input.",
        "model m(width = 8, vocab = 16) { logits = queries(E[vocab width](tokens)) }",
        "model m(width = 8, vocab = 16) { logits = E[vocab width](tokens) }",
    ),
}
