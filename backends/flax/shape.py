"""How a Flax NNX model.py is laid out: classes, and the model with its layers."""

from __future__ import annotations

from archc.backends.flax.dialect import FlaxDialect

from archc.emit.dialect import Dialect
from archc.emit.module import ClassText, ModelText, StackText, docstring
from archc.emit.numbers import Taken

INDENT = "    "


def signature(taken: list[Taken], *keywords: str) -> str:
    """The arguments of a constructor: its numbers, then keywords."""
    numbers = [f"{t.name}: {t.type}" + (f" = {t.default}" if t.default is not None else "") for t in taken]
    return ", ".join(["self", *numbers, "*", "rngs: nnx.Rngs", *keywords])


def with_rngs(constructor: str) -> str:
    """A constructor call that is also given the source of random numbers."""
    inside = constructor.removesuffix(")")
    return f"{inside}rngs=rngs)" if inside.endswith("(") else f"{inside}, rngs=rngs)"


class FlaxShape:
    """See `archc.emit.module.Shape`."""

    dialect: Dialect = FlaxDialect()

    def class_lines(self, text: ClassText) -> list[str]:
        """A whole class."""
        lines = [f"class {text.unit.name}(nnx.Module):", *docstring(text.doc, INDENT)]
        if text.doc:
            lines.append("")
        lines += self._init(text, signature(text.taken), [])
        if text.unit.takes_rows:
            lines += ["", *self._tokens(text), "", *self._pairs(text)]
        else:
            lines += ["", *self._forward(text, "__call__", _with_state(text, text.arguments))]
        if text.unit.has_state:
            lines += ["", *self._init_state(text)]
        return lines

    def _init(self, text: ClassText, arguments: str, extra: list[str]) -> list[str]:
        body = [f"{name} = {code.text}" for name, code in text.computed]
        body += [f"self.{n} = {n}" for n in sorted(text.kept)]
        for name, code, frozen in text.weights:
            body.append(f"self.{name} = {'Frozen' if frozen else 'nnx.Param'}({code.text})")
        body += [f"self.{name} = {with_rngs(made)}" for name, made in text.children]
        body += extra
        return [f"{INDENT}def __init__({arguments}):", *(INDENT * 2 + line for line in body)]

    def _forward(self, text: ClassText, name: str, arguments: list[str]) -> list[str]:
        lines = [f"def {name}({', '.join(['self', *arguments])}):"]
        if text.unit.has_state:
            lines.append(INDENT + "old, new = state or {}, {}")
        lines += [INDENT + line for line in text.lines]
        return [(INDENT + line).rstrip() for line in lines]

    def _tokens(self, text: ClassText) -> list[str]:
        lines = [f"def tokens({', '.join(['self', *_with_state(text, text.token_arguments)])}):"]
        if text.unit.has_state:
            lines.append(INDENT + "old, new = state or {}, {}")
        return [INDENT + line for line in [*lines, *(INDENT + line for line in text.tokens)]]

    def _pairs(self, text: ClassText) -> list[str]:
        lines = [f"def __call__({', '.join(['self', *text.arguments])}):", *(INDENT + line for line in text.lines)]
        return [INDENT + line for line in lines]

    def _init_state(self, text: ClassText) -> list[str]:
        entries = [f'"{key}": {value},' for key, value in text.states]
        arguments = ", ".join(["self", "batch", "context", "dtype", *text.shared])
        lines = [f"def init_state({arguments}):", INDENT + "return {"]
        lines += [INDENT * 2 + entry for entry in entries]
        lines.append(INDENT + "}")
        return [INDENT + line for line in lines]

    # --- the model -----------------------------------------------------------------------------------

    def model_lines(self, text: ModelText) -> list[str]:
        """The class of the model itself."""
        lines = [f"class {text.unit.name}(nnx.Module):", *docstring(text.doc, INDENT), ""]
        lines += [INDENT + line for line in (*text.constants, *_places(text.stacks))] + [""]
        extra = [line for stack in text.stacks for line in self._layers(stack)]
        lines += self._init(text, signature(text.taken, "remat: bool = False", "unroll: bool = False"), extra)
        lines += ["", *self._public(text)]
        lines += ["", *self._forward(text, "run", _with_state(text, [*text.arguments, "pos"]))]
        for stack in text.stacks:
            lines += ["", *self._run_layers(stack)]
        if text.unit.has_state:
            lines += ["", *self._model_state(text)]
        return lines

    def _layers(self, stack: StackText) -> list[str]:
        argument = "layer" if uses_layer(stack) else "_"
        lines = ["pattern = [", *(f"    lambda {argument}, rngs: {with_rngs(p)}," for p in stack.pattern), "]"]
        given = ["pattern", stack.depth]
        if stack.replaced:
            replaced = (f"    {i}: lambda {argument}, rngs: {with_rngs(p)}," for i, p in stack.replaced.items())
            lines += ["replaced = {", *replaced, "}"]
            given.append("replaced")
        if uses_layer(stack):
            given.append(f"alone=range({stack.depth})")
        given += ["rngs=rngs", "remat=remat", "unroll=unroll"]
        lines.append(f"self.{stack.name} = Layers({', '.join(given)})")
        return lines

    def _public(self, text: ModelText) -> list[str]:
        inputs = ", ".join(text.arguments)
        out = "logits [B, T, vocab]" if text.results == 1 else "the outputs"
        first = "[0]" if text.unit.has_state else ""
        lines = [
            f"def __call__(self, {inputs}, pos=None):",
            f'    """{inputs} [B, T] to {out}. pos [B, T]: 0 where a packed document begins."""',
            "    if pos is None:",
            "        pos = jnp.arange(tokens.shape[1])",
            f"    return self.run({inputs}, pos){first}",
        ]
        if text.unit.has_state:
            lines += [
                "",
                f"def step(self, {inputs}, state):",
                '    """The next tokens [B, T] after a state (T >= 1): logits [B, T, vocab] and the new state."""',
                '    pos = state["pos"][:, None] + jnp.arange(tokens.shape[1])',
                f"    logits, new = self.run({inputs}, pos, state)",
                '    return logits, new | {"pos": pos[:, -1] + 1}',
            ]
        return [INDENT + line if line else line for line in lines]

    def _run_layers(self, stack: StackText) -> list[str]:
        several = len(stack.streams) > 1
        streams = ", ".join(stack.streams)
        given = ", ".join([f"*{stack.name}" if several else streams, *stack.arguments[len(stack.streams) :]])
        given = given.replace(f"*{stack.name}", "*streams")
        taken = "streams" if several else streams
        start = f"({streams})" if several else streams
        if stack.has_state:
            lines = [
                f"def run_{stack.name}({', '.join(['self', *stack.arguments, 'state'])}):",
                f"    return self.{stack.name}(lambda layer, {taken}, state: layer({given}, state), {start}, state)",
            ]
        else:
            lines = [
                f"def run_{stack.name}({', '.join(['self', *stack.arguments])}):",
                f"    return self.{stack.name}(lambda layer, {taken}, _: (layer({given}), None), {start})[0]",
            ]
        return [INDENT + line for line in lines]

    def _model_state(self, text: ModelText) -> list[str]:
        entries = ['"pos": jnp.zeros(batch, int),']
        entries += [f'"{key}": {value},' for key, value in text.states]
        for stack in text.stacks:
            if stack.has_state:
                given = ", ".join(["batch", "context", "dtype", *(f"self.{n}" for n in stack.shared)])
                entries.append(f'"{stack.name}": self.{stack.name}.init_state({given}),')
        lines = [
            "def init_state(self, batch, context, dtype=jnp.float32):",
            '    """The empty state of `batch` sequences of at most `context` tokens."""',
            "    return {",
            *(f"        {entry}" for entry in entries),
            "    }",
        ]
        return [INDENT + line for line in lines]


def _with_state(text: ClassText, arguments: list[str]) -> list[str]:
    return [*arguments, *(["state=None"] if text.unit.has_state else [])]


def uses_layer(stack: StackText) -> bool:
    """Whether the layers know their index: then no two of them are the same."""
    return any("layer" in p for p in [*stack.pattern, *stack.replaced.values()])


def _places(stacks: list[StackText]) -> list[str]:
    """Where the weights of layers lie, for the names in checkpoints."""
    given = []
    for stack in stacks:
        numbers = [f'"{stack.name}"', str(stack.count), str(len(stack.pattern))]
        if uses_layer(stack):
            numbers.append(f"range({stack.count})")
        elif stack.replaced:
            numbers.append(str(sorted(stack.replaced)))
        given.append(", ".join(numbers))
    both = (("STACKS", "stacked"), ("RENAMED", "single"))
    lines = [f"{name} = {' | '.join(f'{how}({numbers})' for numbers in given) or '{}'}" for name, how in both]
    return [
        "# the layers whose weights are stacked in one array, and those by themselves: path to name in checkpoints",
        *lines,
    ]
