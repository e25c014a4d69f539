"""Writes the body of one fn: statements over values whose axes are known, sizes, weights, and what is still unread."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from re import findall

Axes = tuple[str, ...]
SIZES = {
    "heads": 2, "dim": 4, "key": 3, "value": 5, "state": 3, "hidden": 6, "rank": 2, "gates": 2, "group": 3, "one": 1,
}  # fmt: skip
NAMES = (
    "u", "h", "y", "a", "b", "q", "z", "S", "w", "t", "values", "out", "lambda", "def", "self", "math", "torch", "jnp",
    "nn", "new", "old", "old_2", "rows", "program", "scan_1", "state_", "layer_", "batch", "context",
)  # fmt: skip
UNARY = (
    "tanh", "erf", "sigmoid", "silu", "gelu", "gelu_tanh", "relu", "softplus", "sin", "cos", "abs", "-", "fp32", "sign",
    "exp",
)  # fmt: skip
WAYS = ("argument", "default", "local", "computed")


@dataclass
class Writer:
    """A fn while it is drawn. `sizes` are the axes that the arguments have, by name; `ahead`: an encoder's."""

    rng: Random
    sizes: dict[str, int]
    name: str
    depth: int = 0
    lines: list[str] = field(default_factory=list)
    scope: dict[str, Axes] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    takes_mask: bool = False
    ahead: bool = False
    count: int = 0

    def __post_init__(self) -> None:
        if not self.scope:
            self.scope = {"x": tuple(self.sizes)}

    # --- names -------------------------------------------------------------------------------------------

    def weight(self, letter: str = "W") -> str:
        """A name that no weight has yet."""
        self.count += 1
        return f"{letter}_{self.count}"

    def axis(self, *avoid: str) -> str:
        """An axis of the fn, declared with its size."""
        name = self.rng.choice([n for n in SIZES if n not in avoid and n not in self.sizes])
        return self.declare(name)

    def declare(self, name: str, size: int | None = None) -> str:
        """Gives an axis its size, if it has none yet."""
        if name not in self.sizes and name not in self.axes:
            self.axes[name] = size or (SIZES[name] if self.rng.random() < 0.5 else self.rng.randint(1, 5))
        return name

    def size(self, axis: str) -> int:
        """The size of an axis."""
        return {**self.sizes, **self.axes}[axis]

    def fresh(self) -> str:
        """A name for a value: mostly new, and at times one that Python or the frameworks use."""
        taken = {*self.scope, *self.axes, *self.sizes, "mask"}
        free = [n for n in NAMES if n not in taken]
        if free and self.rng.random() < 0.6:
            return self.rng.choice(free)
        self.count += 1
        return f"y{self.count}"

    # --- statements --------------------------------------------------------------------------------------

    def let(self, text: str, axes: Axes, name: str = "") -> str:
        """A statement; gives back the name of its value."""
        name = name or self.fresh()
        self.lines.append(f"{name} = {text}")
        self.scope[name] = axes
        self.unread[name] = None
        return name

    def read(self, name: str) -> str:
        """Marks a value as read."""
        self.unread.pop(name, None)
        return name

    def value(self) -> tuple[str, Axes]:
        """Some value in scope, mostly one that nothing has read, bare or in an expression."""
        rng = self.rng
        unread = [n for n in self.unread if n in self.scope]
        names = unread if unread and rng.random() < 0.8 else list(self.scope)
        name = rng.choice(names)
        axes = self.scope[self.read(name)]
        return (self.decorated(name, axes), axes)

    def decorated(self, text: str, axes: Axes) -> str:
        """The value, or something element-wise of it."""
        rng = self.rng
        match rng.choice(("bare",) * 5 + ("unary", "scale", "bias", "number", "where", "index")):
            case "bare":
                return text
            case "unary":
                return self.unary(text)
            case "scale":
                return f"({text} * {self.weight('s')}[{' '.join(self.some(axes))}])"
            case "bias":
                return f"({text} + {self.weight('b')}[{' '.join(self.some(axes))}])"
            case "number":
                return rng.choice(("(0.5 * {})", "({} - 0.3)", "(1 - {})", "({} / 2)", "(2 * {} + 1)")).format(text)
            case "where":
                return rng.choice(
                    (f"where(pos == 0, 0.5, {text})", f"where({text} > 0, {text}, 0.1)", f"min({text}, 1)")
                )
            case _:
                return f"({text} / (1 + index({rng.choice(axes)})))" if axes else text

    def unary(self, text: str) -> str:
        """A function of one value that keeps it tame."""
        match self.rng.choice(UNARY):
            case "-":
                return f"(-{text})"
            case "exp":
                return f"exp(-abs({text}))"
            case name:
                return f"{name}({text})"

    def some(self, axes: Axes) -> Axes:
        """Some of the axes, in any order."""
        return tuple(self.rng.sample(axes, self.rng.randint(0, len(axes))))

    def shuffled(self, axes: Axes) -> Axes:
        """The axes in any order."""
        return tuple(self.rng.sample(axes, len(axes)))

    def token(self, axes: Axes, bias: bool | None = None) -> str:
        """An expression with exactly these axes, projected from some value, or one in scope that has them."""
        rng = self.rng
        fitting = [n for n in self.scope if set(self.scope[n]) == set(axes)]
        if fitting and rng.random() < 0.3:
            return self.read(rng.choice(fitting))
        sources = [n for n in self.scope if self.scope[n] and not set(self.scope[n]) & set(axes)]
        if not sources:
            shared = [n for n in self.scope if set(self.scope[n]) & set(axes)]
            return self._reprojected(shared[0], axes)
        name = self.read(rng.choice(sources))
        text = (
            f"{name} @ {self.weight()}[{' '.join(axes)}]"
            if axes
            else f"sum({name} * {self.weight('w')}[{' '.join(self.scope[name])}])"
        )
        if bias or (bias is None and rng.random() < 0.3):
            text = f"({text} + {self.weight('b')}[{' '.join(axes)}])"
        return text

    def _reprojected(self, name: str, axes: Axes) -> str:
        """From a value that shares axes: primes make fresh copies."""
        have = self.scope[self.read(name)]
        made = [f"{a}'" if a in have else a for a in axes]
        return f"{name} @ {self.weight()}[{' '.join(have)} -> {' '.join(made)}]"

    def named(self, axes: Axes, name: str = "") -> str:
        """A named projection."""
        text = self.token(axes)
        if self.rng.random() < 0.3:
            text = self.unary(f"({text})" if " " in text else text)
        return self.let(text, axes, name)

    # --- masks -------------------------------------------------------------------------------------------

    def mask(self) -> str:
        """A causal mask, any mask in an encoder: of numbers of keys, of positions, or both."""
        rng = self.rng
        size = rng.randint(1, 7)
        if self.ahead and rng.random() < 0.5:
            return rng.choice(
                ("everything", f"near({size})", "not causal", f"near({size}) and not prefix(1)", f"prefix({size})",
                 f"queries(pos) <= keys(pos) + {size}", f"dilated({size}, 2) or near(1)")
            )  # fmt: skip
        plain = ["causal", f"window({size})", f"dilated({rng.randint(1, 3)}, {rng.randint(1, 3)})"]
        match rng.choice(("argument", "plain", "plain", "or", "and", "prefix", "compare", "bucket")):
            case "argument":
                self.takes_mask = True
                return "mask"
            case "or":
                return f"{rng.choice(plain)} or {rng.choice(plain)}"
            case "and":
                return f"{rng.choice(plain)} and near({size})"
            case "prefix":
                return f"window({size}) or prefix({rng.randint(1, 3)}) and causal"
            case "compare":
                return f"causal and queries(pos) >= keys(pos) + {rng.randint(0, 2)}"
            case "bucket":
                return f"causal and not prefix({size})"
            case _:
                return rng.choice(plain)

    def mask_argument(self) -> str:
        """A mask as the block hands it over."""
        ahead = ("everything", "near(2)") if self.ahead else ()
        return self.rng.choice(("causal", "window(3)", "window(6)", "window(depth)", "causal", *ahead))

    # --- the end -----------------------------------------------------------------------------------------

    def finish(self, out: Axes) -> tuple[str, list[str]]:
        """The text of the fn, whose result has the axes `out`, and the numbers that a call gives it."""
        terms = []
        for name in self._left() or [list(self.scope)[-1]]:
            terms.append(self._brought(name, self.scope[name], out))
        result = " + ".join(terms)
        if self.rng.random() < 0.3:
            result = f"tanh({result})"
        params, arguments = self._parameters()
        names = " ".join(self.sizes)
        head = ", ".join([f"x[{names}]", *params, *(["mask = causal"] if self.takes_mask else [])])
        body = "\n".join(f"    {line}" for line in [*self.lines, f"return {result}", *self.ends])
        return f"fn {self.name}({head}) {{\n{body}\n}}", arguments

    def _left(self) -> list[str]:
        """The values that no line reads."""
        words = Counter(word for line in self.lines for word in findall(r"\w+", line))
        return [n for n in self.scope if n != "x" and words[n] < 2]

    def _brought(self, name: str, have: Axes, out: Axes) -> str:
        if set(have) == set(out):
            return name
        if not have:
            return f"{name} * {self.weight('w')}[{' '.join(out)}]"
        if set(have) & set(out):
            made = " ".join(f"{a}'" if a in have else a for a in out)
            return f"({name} @ {self.weight()}[{' '.join(have)} -> {made}])"
        return f"({name} @ {self.weight()}[{' '.join(have)} -> {' '.join(out)}])"

    def _parameters(self) -> tuple[list[str], list[str]]:
        """The sizes of the axes: arguments first, then defaults; the others are said in the body."""
        required, given, optional, local = [], [], [], []
        for axis, size in self.axes.items():
            match self.rng.choice(WAYS):
                case "argument":
                    required.append(axis)
                    given.append(str(size))
                case "default":
                    optional.append(f"{axis} = {size}")
                case "computed" if self.sizes.get("width", 1) % size == 0 and "width" in self.sizes:
                    optional.append(f"{axis} = width / {self.sizes['width'] // size}")
                case _:
                    local.append(f"{axis} = {size}")
        self.lines[:0] = local
        return [*required, *optional], given
