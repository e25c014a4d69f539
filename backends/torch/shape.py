"""How a PyTorch model.py is laid out: classes, and the model with its layers."""

from __future__ import annotations

from archc.backends.torch.dialect import TorchDialect
from archc.emit.dialect import Dialect
from archc.emit.module import ClassText, ModelText, StackText, docstring
from archc.emit.numbers import Taken

INDENT = "    "


def signature(taken: list[Taken]) -> str:
    """The numbers of a constructor."""
    return ", ".join(f"{t.local}: {t.type}" + (f" = {t.default}" if t.default is not None else "") for t in taken)


class TorchShape:
    """See `archc.emit.module.Shape`."""

    dialect: Dialect = TorchDialect()

    def class_lines(self, text: ClassText) -> list[str]:
        """A whole class."""
        lines = [f"class {text.unit.name}(nn.Module):", *docstring(text.doc, INDENT)]
        if text.doc:
            lines.append("")
        lines += self._init(text, signature(text.taken), [])
        if text.unit.takes_rows:
            lines += ["", *self._tokens(text), "", *self._pairs(text)]
        else:
            state = ["state=None"] if text.unit.has_state else []
            lines += ["", *self._forward(text, "forward", [*text.arguments, *state])]
        if text.unit.has_state:
            lines += ["", *self._init_state(text)]
        return lines

    def _init(self, text: ClassText, taken: str, extra: list[str]) -> list[str]:
        body = ["super().__init__()"]
        body += [f"{name} = {code.text}" for name, code in text.computed]
        body += [f"self.{name} = {local}" for name, local in text.kept]
        for name, code, frozen in text.weights:
            body.append(
                f'self.register_buffer("{name}", {code.text})' if frozen else f"self.{name} = nn.Parameter({code.text})"
            )
        body += [f"self.{name} = {made}" for name, made in text.children]
        body += extra
        head = f"def __init__(self, {taken}):" if taken else "def __init__(self):"
        return [INDENT + head, *(INDENT * 2 + line for line in body)]

    def _forward(self, text: ClassText, name: str, arguments: list[str]) -> list[str]:
        lines = [f"def {name}({', '.join(['self', *arguments])}):"]
        if text.unit.has_state:
            lines.append(INDENT + "old, new = state or {}, {}")
        lines += [INDENT + line for line in text.lines]
        return [(INDENT + line).rstrip() for line in lines]

    def _tokens(self, text: ClassText) -> list[str]:
        state = ["state=None"] if text.unit.has_state else []
        lines = [f"def tokens({', '.join(['self', *text.token_arguments, *state])}):"]
        if text.unit.has_state:
            lines.append(INDENT + "old, new = state or {}, {}")
        return [INDENT + line for line in [*lines, *(INDENT + line for line in text.tokens)]]

    def _pairs(self, text: ClassText) -> list[str]:
        lines = [f"def forward({', '.join(['self', *text.arguments])}):", *(INDENT + line for line in text.lines)]
        return [INDENT + line for line in lines]

    def _init_state(self, text: ClassText) -> list[str]:
        entries = [f'"{key}": {value},' for key, value in text.states]
        arguments = (
            ["batch", "context", "dtype", "device", *text.shared]
            if text.shared
            else ["batch", "context", "dtype", "device=None"]
        )
        lines = [f"def init_state({', '.join(['self', *arguments])}):", INDENT + "return {"]
        lines += [INDENT * 2 + entry for entry in entries]
        lines.append(INDENT + "}")
        return [INDENT + line for line in lines]

    # --- the model -----------------------------------------------------------------------------------

    def model_lines(self, text: ModelText) -> list[str]:
        """The class of the model itself."""
        lines = [f"class {text.unit.name}(nn.Module):", *docstring(text.doc, INDENT), ""]
        lines += [INDENT + line for line in text.constants] + [""]
        extra = [line for stack in text.stacks for line in self._layers(stack)]
        extra.append("self.remat = remat")
        taken = ", ".join(p for p in (signature(text.taken), "remat: bool = False") if p)
        lines += self._init(text, taken, extra)
        lines += ["", *self._public(text)]
        lines += ["", *self._run(text)]
        for stack in text.stacks:
            lines += ["", *self._run_layers(stack)]
        if text.unit.has_state:
            lines += ["", *self._model_state(text)]
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

    def _public(self, text: ModelText) -> list[str]:
        inputs = ", ".join(text.arguments)
        out = "logits [B, T, vocab]" if text.results == 1 else "the outputs"
        first = "[0]" if text.unit.has_state else ""
        lines = [
            f"def forward(self, {inputs}, pos=None):",
            f'    """{inputs} [B, T] to {out}. pos [B, T]: 0 where a packed document begins."""',
            "    if pos is None:",
            "        pos = torch.arange(tokens.shape[1], device=tokens.device)",
            f"    return self.run({inputs}, pos){first}",
        ]
        if text.unit.has_state:
            lines += [
                "",
                f"def step(self, {inputs}, state):",
                '    """The next tokens [B, T] after a state (T >= 1): logits [B, T, vocab] and the new state."""',
                '    pos = state["pos"][:, None] + torch.arange(tokens.shape[1], device=tokens.device)',
                f"    logits, new = self.run({inputs}, pos, state)",
                '    return logits, new | {"pos": pos[:, -1] + 1}',
            ]
        return [INDENT + line if line else line for line in lines]

    def _run(self, text: ModelText) -> list[str]:
        arguments = [*text.arguments, "pos", *(["state=None"] if text.unit.has_state else [])]
        return self._forward(text, "run", arguments)

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
            return [INDENT + line for line in lines]
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
        return [INDENT + line for line in lines]

    def _model_state(self, text: ModelText) -> list[str]:
        entries = ['"pos": torch.zeros(batch, dtype=torch.int64, device=device),']
        entries += [f'"{key}": {value},' for key, value in text.states]
        for stack in text.stacks:
            if stack.has_state:
                arguments = ", ".join(["batch", "context", "dtype", "device", *(f"self.{n}" for n in stack.shared)])
                made = f"[layer.init_state({arguments}) for layer in self.{stack.name}]"
                entries.append(f'"{stack.name}": {made},')
        lines = [
            "def init_state(self, batch, context, dtype=torch.float32, device=None):",
            '    """The empty state of `batch` sequences of at most `context` tokens."""',
            "    return {",
            *(f"        {entry}" for entry in entries),
            "    }",
        ]
        return [INDENT + line for line in lines]
