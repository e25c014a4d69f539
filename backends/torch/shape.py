"""How a PyTorch model.py is laid out: classes, and the model with its layers."""

from __future__ import annotations

from collections.abc import Sequence

from archc.backends.torch.dialect import TorchDialect

from archc.emit.classes import INDENT, Classes, indented
from archc.emit.dialect import Dialect
from archc.emit.texts import ClassText, ModelText, StackText, docstring


class TorchShape(Classes):
    """See `archc.emit.module.Shape`."""

    dialect: Dialect = TorchDialect()
    base = "nn.Module"
    positions = "torch.arange(tokens.shape[1], device=tokens.device)"
    zeros = "torch.zeros_like(tokens)"
    no_tokens = "torch.zeros(batch, dtype=torch.int64, device=device)"
    state_arguments = "batch, context, dtype=torch.float32, device=None"
    below_arguments = ("batch", "context", "dtype", "device")
    last_below = "=None"

    def constructor(self, text: ClassText, keywords: Sequence[str] = (), extra: Sequence[str] = ()) -> list[str]:
        """See `Classes`."""
        body = ["super().__init__()"]
        body += [f"{name} = {code.text}" for name, code in text.computed]
        body += [f"self.{name} = {local}" for name, local in text.kept]
        for name, code, frozen in text.weights:
            body.append(
                f'self.register_buffer("{name}", {code.text})' if frozen else f"self.{name} = nn.Parameter({code.text})"
            )
        body += [f"self.{name} = {made}" for name, made in text.children]
        return indented([f"def __init__({self.signature(text, keywords)}):", *indented([*body, *extra])])

    # --- the model -----------------------------------------------------------------------------------

    def model_lines(self, text: ModelText) -> list[str]:
        """The class of the model itself."""
        lines = [f"class {text.unit.name}({self.base}):", *docstring(text.doc, INDENT), ""]
        lines += [*indented(text.constants), ""]
        extra = [line for stack in text.stacks for line in self._layers(stack)]
        extra.append("self.remat = remat")
        lines += [*self.constructor(text, ["remat: bool = False"], extra), "", *self.public(text), "", *self.run(text)]
        for stack in text.stacks:
            lines += ["", *self._run_layers(stack)]
        if text.unit.has_state:
            lines += ["", *self.model_state(text)]
        return lines

    def _layers(self, stack: StackText) -> list[str]:
        argument = "layer" if stack.uses_layer else "_"
        lines = ["pattern = [", *(f"    lambda {argument}: {p}," for p in stack.pattern), "]"]
        choose = f"pattern[i % {len(stack.pattern)}](i)"
        if stack.replaced:
            lines += ["replaced = {", *(f"    {i}: lambda {argument}: {p}," for i, p in stack.replaced.items()), "}"]
            choose = f"replaced.get(i, pattern[i % {len(stack.pattern)}])(i)"
        lines.append(f"self.{stack.name} = nn.ModuleList({choose} for i in range({stack.depth}))")
        return lines

    def _run_layers(self, stack: StackText) -> list[str]:
        args = stack.arguments
        streams = ", ".join(stack.streams)
        left = f"({streams})" if len(stack.streams) > 1 else streams
        if not stack.has_state:
            lines = [
                f"def run_{stack.name}({', '.join(['self', *args])}):",
                f"    for layer in self.{stack.name}:",
                "        if self.remat and torch.is_grad_enabled():",
                f"            {streams} = checkpoint(layer, {', '.join(args)}, use_reentrant=False)",
                "        else:",
                f"            {streams} = layer({', '.join(args)})",
                f"    return {streams}",
            ]
            return indented(lines)
        lines = [
            f"def run_{stack.name}({', '.join(['self', *args, 'state'])}):",
            "    new = []",
            f"    for i, layer in enumerate(self.{stack.name}):",
            "        if self.remat and state is None and torch.is_grad_enabled():",
            f"            {left}, part = checkpoint(layer, {', '.join(args)}, use_reentrant=False)",
            "        else:",
            f"            {left}, part = layer({', '.join([*args, 'state and state[i]'])})",
            "        new.append(part)",
            f"    return {left}, new",
        ]
        return indented(lines)

    def layers_state(self, stack: StackText, given: str) -> str:
        """A list, an entry for each layer."""
        return f"[layer.init_state({given}) for layer in self.{stack.name}]"
