"""E2xx: numbers, sizes, what an expression must be, stacks and loops."""

from __future__ import annotations

from archc.text.codes import Code

VALUES: dict[str, Code] = {
    "E201": Code(
        "not a whole number, or not a size",
        "Sizes are whole and positive; archc never rounds. The notes show where the numbers came from.",
        "x = x + attention(x, 3)",
        "x = x + attention(x, 4)",
    ),
    "E202": Code(
        "an axis without a size",
        "The size of an axis is a number of the same name, an axis of a value in scope, or given in place:\n"
        "[hidden = 4].",
        "x = x + x @ W[inner] @ V[inner -> width]",
        "x = x + x @ W[inner = 4] @ V[inner = 4 -> width]",
    ),
    "E203": Code(
        "a number that cannot be computed",
        "Division by zero, the root or logarithm of a negative number, or a result that is too large.",
        "x = x * sqrt(1 - heads)",
        "x = x * sqrt(heads - 1)",
    ),
    "E204": Code(
        "an axis with two sizes in scope",
        "Two visible values have an axis of this name with different sizes, so the name alone says no size.\n"
        "Define a number of that name, or write [name = ...].",
        "y = x @ W[inner = 4]\nz = x @ V[inner = 6]\nx = x * sum(y, over = inner) * sum(z * g[inner], over = inner)",
        "y = x @ W[inner = 4]\nz = x @ V[outer = 6]\nx = x * sum(y * g[inner], over = inner) * sum(z, over = outer)",
    ),
    "E210": Code(
        "not a value",
        "An operand is a value of the graph or a number; a function, a block, a list of axes or several values at\n"
        "once are not.",
        "x = x + prev(3)",
        "x = x + prev(x)",
    ),
    "E211": Code(
        "not a number known when compiling",
        "Sizes, depths, windows and indices are known before any token is seen.",
        "x = ceil(x)",
        "x = x * ceil(width / 3)",
    ),
    "E212": Code(
        "as many names as values",
        "cut gives one value per piece, a fn one per value that it returns; each takes one name.",
        "a = cut(x, width -> half half)\nx = join(a, a, half half -> width)",
        "a, b = cut(x, width -> half half)\nx = join(b, a, half half -> width)",
    ),
    "E213": Code(
        "two numbers are compared",
        "A spec has no conditionals: what it is does not depend on its sizes. Comparisons are of values, for\n"
        "where(...) and for masks. A fn that is passed as an argument replaces a conditional.",
        "x = where(width > 4, x, 0)",
        "x = where(x > 4, x, 0)",
    ),
    "E214": Code(
        "a stack holds blocks",
        "An entry of the list is a block, a block with arguments, a block times a number, or a choice of layers.",
        "x = stack(x, depth, [mixer, 3])",
        "x = stack(x, depth, [mixer])",
    ),
    "E220": Code(
        "axis names expected",
        "over and per take the name of an axis, a list [a b] or axes(x); index takes one name.",
        "x = x * sum(x, over = 3)",
        "x = x * sum(x, over = width)",
    ),
    "E221": Code(
        "a value does not fit the pattern of a parameter",
        "x[width] expects one axis, x[heads dim] two, x[.. dim] at least one. Names of the caller's axes do not\n"
        "matter.",
        "x = x * sum(swiglu(split(x, width -> half heads), hidden), over = [half heads])",
        "x = swiglu(x, hidden)",
    ),
    "E222": Code(
        "axes of caller and fn get mixed up",
        "Axes are renamed on the way into a fn and back. That fails where one axis of the fn would be two of the\n"
        "caller, where one axis of the caller has two names inside, or where the fn makes an axis of a name that\n"
        "comes back.",
        "fn both(a[width], b[width]) { return a * b }\nx = x * sum(both(x, x @ W[inner = 8]), over = inner)",
        "fn both(a[width], b[width]) { return a * b }\nx = x * both(x, x)",
    ),
    "E223": Code(
        "pieces do not make the whole",
        "The sizes of the parts of split multiply to the axis, those of cut add up to it; join takes one axis per\n"
        "value.",
        "a, b = cut(x, width -> half heads)\nx = x * sum(a, over = half) * sum(b, over = heads)",
        "a, b = cut(x, width -> half half)\nx = join(b, a, half half -> width)",
    ),
    "E230": Code(
        "the state of a loop changes its axes",
        "What the body leaves in a state has the axes that the state was declared with, and so does its start.",
        "loop h[width] = 0 { h = x + h @ W[hidden] }\nx = h",
        "loop h[width] = 0 { h = x + h @ W[width] }\nx = h",
    ),
    "E231": Code(
        "a mask that sees nothing",
        "The size of a window is at least 1: the token itself.",
        "x = x + attention(x, heads, mask = window(0))",
        "x = x + attention(x, heads, mask = window(4))",
    ),
    "E232": Code(
        "the depth of a stack",
        "A stack has at least one layer, and at most ten thousand.",
        "x = stack(x, 0, [mixer])",
        "x = stack(x, 4, [mixer])",
    ),
    "E233": Code(
        "a stack without blocks",
        "The list names at least one block, which is repeated to fill the depth.",
        "x = stack(x, depth, [])",
        "x = stack(x, depth, [mixer])",
    ),
    "E234": Code(
        "there is no such layer",
        "Layers are counted from 0. first(n) and last(n) take at most as many as there are.",
        "x = stack(x, 4, [mixer, at(4): mixer])",
        "x = stack(x, 4, [mixer, at(3): mixer])",
    ),
    "E235": Code(
        "a block returns",
        "A block carries x: assign to it. A fn returns.",
        "block wrong { return 2 * x }\nx = stack(x, depth, [wrong])",
        "block good { x = 2 * x }\nx = stack(x, depth, [good])",
    ),
    "E236": Code(
        "what is no stream",
        "A stream is one real value per token. Blocks call the first x, and every further one by its name.",
        "x = stack(g[width], depth, [mixer])",
        "x = stack(x, depth, [mixer])",
    ),
    "E237": Code(
        "a layer is chosen twice",
        "Of two choices for one layer none goes before the other.",
        "x = stack(x, depth, [mixer, first(2): mixer, at(1): mixer])",
        "x = stack(x, depth, [mixer, first(2): mixer, at(2): mixer])",
    ),
    "E238": Code(
        "an operator that crosses time in a loop or an initial value",
        "The body of a loop computes one token from its states; initial values exist before any token. What meets\n"
        "other positions is computed before the loop.",
        "loop h[width] = 0 { h = h + prev(x) }\nx = h",
        "before = prev(x)\nloop h[width] = 0 { h = h + before }\nx = h",
    ),
    "E240": Code(
        "a block changes the axes of a stream",
        "A block gives back what it got. A new axis means a forgotten contraction or sum; the note shows where it\n"
        "came in.",
        "block wrong { x = x + x @ W[hidden] }\nx = stack(x, depth, [wrong])",
        "block good { x = x + x @ W[hidden] @ V[hidden -> width] }\nx = stack(x, depth, [good])",
    ),
}
