"""How a Flax NNX model.py is laid out: classes, and the model with its layers."""

from __future__ import annotations

from collections.abc import Sequence

from archc.backends.flax.dialect import FlaxDialect

from archc.emit.classes import INDENT, Classes, indented
from archc.emit.dialect import Dialect
from archc.emit.texts import ClassText, ModelText, StackText, docstring


def with_rngs(constructor: str) -> str:
    """A constructor call that is also given the source of random numbers."""
    inside = constructor.removesuffix(")")
    return f"{inside}rngs=rngs)" if inside.endswith("(") else f"{inside}, rngs=rngs)"


class FlaxShape(Classes):
    """See `archc.emit.module.Shape`."""

    dialect: Dialect = FlaxDialect()
    base = "nnx.Module"
    keywords = ("*", "rngs: nnx.Rngs")
    positions = "jnp.arange(tokens.shape[1])"
    zeros = "jnp.zeros_like(tokens)"
    no_tokens = "jnp.zeros(batch, int)"
    state_arguments = "batch, context, dtype=jnp.float32"
    below_arguments = ("batch", "context", "dtype")

    def constructor(self, text: ClassText, keywords: Sequence[str] = (), extra: Sequence[str] = ()) -> list[str]:
        """See `Classes`."""
        body = [f"{name} = {code.text}" for name, code in text.computed]
        body += [f"self.{name} = {local}" for name, local in text.kept]
        for name, code, frozen in text.weights:
            body.append(f"self.{name} = {'Frozen' if frozen else 'nnx.Param'}({code.text})")
        body += [f"self.{name} = {with_rngs(made)}" for name, made in text.children]
        lines = [*body, *extra] or ["pass"]  # what fns that were handed in do
        return indented([f"def __init__({self.signature(text, keywords)}):", *indented(lines)])

    # --- the model -----------------------------------------------------------------------------------

    def model_lines(self, text: ModelText) -> list[str]:
        """The class of the model itself."""
        lines = [f"class {text.unit.name}({self.base}):", *docstring(text.doc, INDENT), ""]
        lines += [*indented([*text.constants, *_places(text.stacks)]), ""]
        extra = [line for stack in text.stacks for line in self._layers(stack)]
        lines += self.constructor(text, ["remat: bool = False", "unroll: bool = False"], extra)
        lines += ["", *self.public(text), "", *self.run(text)]
        for stack in text.stacks:
            lines += ["", *self._run_layers(stack)]
        if text.unit.has_state:
            lines += ["", *self.model_state(text)]
        return lines

    def _layers(self, stack: StackText) -> list[str]:
        argument = "layer" if stack.uses_layer else "_"
        lines = ["pattern = [", *(f"    lambda {argument}, rngs: {with_rngs(p)}," for p in stack.pattern), "]"]
        given = ["pattern", stack.depth]
        if stack.replaced:
            replaced = (f"    {i}: lambda {argument}, rngs: {with_rngs(p)}," for i, p in stack.replaced.items())
            lines += ["replaced = {", *replaced, "}"]
            given.append("replaced")
        if stack.uses_layer:
            given.append(f"alone=range({stack.depth})")
        given += ["rngs=rngs", "remat=remat", "unroll=unroll"]
        lines.append(f"self.{stack.name} = Layers({', '.join(given)})")
        return lines

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
        return indented(lines)

    def layers_state(self, stack: StackText, given: str) -> str:
        """Stacked like the weights."""
        return f"self.{stack.name}.init_state({given})"


def _places(stacks: list[StackText]) -> list[str]:
    """Where the weights of layers lie, for the names in checkpoints."""
    given = []
    for stack in stacks:
        numbers = [f'"{stack.name}"', str(stack.count), str(len(stack.pattern))]
        if stack.uses_layer:
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
