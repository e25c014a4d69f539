"""The text of model.py: units in order, each a class or a function, with the numbers that each takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from archc.elaborate.attributes import attribute
from archc.elaborate.call import Call, Program, Stack
from archc.elaborate.numbers import Num
from archc.emit.body import Body
from archc.emit.bundles import pair_parameters, split_unit, token_parameters
from archc.emit.calls import (
    block_arguments,
    default_text,
    instance_name,
    keywords_last,
    number_arguments,
    number_or_mask,
    tensor_parameters,
)
from archc.emit.code import Code, handed_name, python_name
from archc.emit.constants import constants
from archc.emit.fused import Fused, find
from archc.emit.initial import initial_value
from archc.emit.layout import axis_of
from archc.emit.mixes import Mixes
from archc.emit.numbers import Numbers, Taken
from archc.emit.precision import Precision
from archc.emit.rules import RULES
from archc.emit.statements import give_back, run_statements
from archc.emit.states import state_entries
from archc.emit.texts import ClassText, ModelText, Shape, StackText, docstring
from archc.emit.units import Unit, Units, group
from archc.fuse.convs import FusedConv
from archc.fuse.fused_scan import FusedScan
from archc.ir.graph import Value
from archc.passes.precision import single_precision
from archc.passes.weights import weight_names
from archc.text import ast


@dataclass(eq=False)
class Module:
    """One model while its file is written."""

    program: Program
    shape: Shape
    context: int
    units: Units = field(init=False)
    fused: Fused = field(init=False)
    finished: dict[Unit, Numbers] = field(default_factory=dict)
    kernels: dict[str, None] = field(default_factory=dict)
    gates: dict[str, FusedScan | FusedConv] = field(default_factory=dict)
    mixes: dict[str, Mixes] = field(default_factory=dict)
    model: dict[str, bool] = field(default_factory=dict)

    @property
    def scans(self) -> dict[str, FusedScan]:
        """The scans whose equations run in kernels."""
        return {stem: each for stem, each in self.gates.items() if isinstance(each, FusedScan)}

    @property
    def convs(self) -> dict[str, FusedConv]:
        """The convolutions behind which equations run in kernels."""
        return {stem: each for stem, each in self.gates.items() if isinstance(each, FusedConv)}

    def __post_init__(self) -> None:
        self.units = group(self.program)
        self.fused = find(self.program, self.units)
        single = single_precision(self.program.graph)
        names = weight_names(self.program.graph)
        facts = self.program.root.facts
        self.model = {name: n.whole is not None for name, n in self.program.settings.items()}
        for name, node in Numbers(self.units.of[self.program.root]).lets.items():
            number = facts.get(node)
            self.model[name] = not isinstance(number, Num) or number.whole is not None
        fp32 = frozenset(v.attrs["path"] for v, full in names.items() if set(full) <= single)
        self.precision = Precision(fp32, self.fused.rounded)

    def blocks(self) -> list[list[str]]:
        """The text of every unit."""
        out = []
        for unit in self.units.order:
            if isinstance(unit.definition, ast.ModelDef):
                out.append(self.shape.model_lines(self._model(unit)))
            elif unit.is_class:
                out.append(self.shape.class_lines(self._class(unit)))
            else:
                out.append(self._function(unit))
        return out

    # --- bodies --------------------------------------------------------------------------------------

    def _body(self, unit: Unit, numbers: Numbers) -> Body:
        return Body(unit, self.units, self.shape.dialect, RULES, self.fused, self.precision, self.finished, numbers)

    def _run(self, unit: Unit, numbers: Numbers) -> Body:
        body = self._body(unit, numbers)
        for name in tensor_parameters(unit):
            bound = unit.first.arguments[name]
            if isinstance(bound, Value):
                body.bind(bound, python_name(name))
        if isinstance(unit.definition, ast.BlockDef):
            assert unit.first.region is not None
            for param in unit.first.region.params:
                body.bind(param, python_name(param.label))
            for name, value in self.units.extras[unit].items():
                if isinstance(value, Value):
                    body.bind(value, name)
        if isinstance(unit.definition, ast.ModelDef):
            assert unit.first.region is not None
            for value in unit.first.region.values:
                if value.op in ("input", "pos"):
                    body.bind(value, "pos" if value.op == "pos" else input_name(value.label))
        run_statements(body)
        if isinstance(unit.definition, ast.BlockDef):
            assert unit.first.region is not None
            give_back(body, [python_name(p.label) for p in unit.first.region.params])
        elif isinstance(unit.definition, ast.ModelDef) and not any(
            isinstance(s, ast.Return) for s in unit.definition.body
        ):
            give_back(body, [])
        self.kernels.update(body.kernels)
        self.gates.update(body.gates)
        self.mixes.update(body.mixes)
        return body

    def _function(self, unit: Unit) -> list[str]:
        numbers = Numbers(unit, self.model)
        body = self._run(unit, numbers)
        numbers.close()
        self.finished[unit] = numbers
        taken = numbers.taken()
        tensors = [python_name(n) for n in tensor_parameters(unit)]
        arguments = [*tensors]
        if unit.needs_pos:
            arguments.append("pos")
        if unit.has_state:
            arguments.append("state=None")
        lines: list[str] = []
        for each in taken:
            axis = self._axis_line(unit, each, tensors)
            if axis is not None:
                lines.append(axis)
                numbers.read_off.add(each.name)
        taken = numbers.taken()
        arguments += [t.local if t.default is None else f"{t.local}={t.default}" for t in taken]
        if unit.has_state and any(t.default is None for t in taken):
            arguments.remove("state=None")
            arguments.insert(len(tensors) + 1, "state")
        lines += [f"{name} = {code.text}" for name, code in numbers.computed()]
        if unit.has_state:
            lines.append("old, new = state or {}, {}")
        lines += body.lines
        doc = unit.definition.doc.strip()
        head = [f"def {unit.name}({', '.join(arguments)}):"]
        head += docstring(doc, "    ")
        return [*head, *(f"    {line}" for line in lines)]

    def _axis_line(self, unit: Unit, each: Taken, tensors: list[str]) -> str | None:
        """A size that a function can read off an argument."""
        if each.param is not None:
            return None
        for name in tensor_parameters(unit):
            bound = unit.first.arguments[name]
            assert isinstance(bound, Value)
            if each.name in bound.names:
                return f"{each.local} = {python_name(name)}.shape[{axis_of(bound, each.name)}]"
        return None

    def _class(self, unit: Unit) -> ClassText:
        numbers = Numbers(unit, self.model)
        tokens: list[str] = []
        if unit.takes_rows:
            body = self._body(unit, numbers)
            for name in tensor_parameters(unit):
                bound = unit.first.arguments[name]
                assert isinstance(bound, Value)
                body.bind(bound, python_name(name))
            tokens, _ = split_unit(body)
            self.kernels.update(body.kernels)
        else:
            body = self._run(unit, numbers)
        states = state_entries(body) if unit.has_state else []
        weights = self._weights(unit, numbers)
        children = self._children(unit, body)
        if isinstance(unit.definition, ast.ModelDef):
            self.finished[unit] = numbers
            for stack in unit.first.stacks.values():
                self._stack(unit, stack)
        kept = [(numbers.attribute(name), numbers.local(name)) for name in sorted(numbers.needed["forward"])]
        numbers.close()
        self.finished[unit] = numbers
        return ClassText(
            unit, unit.definition.doc.strip(), numbers.taken(), numbers.computed(), kept, weights, children,
            self._inputs(unit), body.lines, states, len(unit.first.returned), tokens, self._token_inputs(unit),
            self._shared(unit),
        )  # fmt: skip

    def _inputs(self, unit: Unit) -> list[str]:
        names = [python_name(n) for n in tensor_parameters(unit)]
        if isinstance(unit.definition, ast.BlockDef):
            assert unit.first.region is not None
            names = [python_name(p.label) for p in unit.first.region.params]
            names += self.units.extras[unit]
        if unit.takes_rows:
            return [*map(python_name, pair_parameters(unit.first)), "tokens", "rows"]
        if unit.needs_pos:
            names.append("pos")
        return names

    def _shared(self, unit: Unit) -> list[str]:
        """The shared fns that a unit is handed: it makes the state of its calls of them."""
        if isinstance(unit.definition, ast.FnDef):
            return [python_name(name) for name in self.units.remembering(unit.first)]
        return [name for name, value in self.units.extras.get(unit, {}).items() if isinstance(value, str)]

    def _token_inputs(self, unit: Unit) -> list[str]:
        return [*map(python_name, token_parameters(unit.first)), "pos"] if unit.takes_rows else []

    def _weights(self, unit: Unit, numbers: Numbers) -> list[tuple[str, Code, bool]]:
        out = []
        for name, weight in unit.first.weights.items():
            body = self._body(unit, numbers)
            body.place = "init"
            value = unit.first.instance.weights[name]
            out.append((weight.path.rsplit(".", 1)[-1], initial_value(body, name, value, weight), weight.frozen))
            self.kernels.update(body.kernels)
        return out

    def _children(self, unit: Unit, body: Body) -> list[tuple[str, str]]:
        out: dict[str, str] = {}
        for node, below in unit.first.calls.items():
            child = self.units.of[below]
            if child.is_class and not unit.first.is_shared(node):
                name = instance_name(body, node)
                if name not in out:
                    out[name] = self.construct(body, below, child)
        for name in map(attribute, unit.first.shared):
            owner = next(c for i, c in self.units.owners.items() if i.path == unit.first.instance.below(name))
            if not self.units.of[owner].is_class:
                continue
            out[name] = self.construct(body, owner, self.units.of[owner])
        return list(out.items())

    def construct(self, body: Body, below: Call, child: Unit) -> str:
        """A constructor call."""
        return f"{child.name}({', '.join(number_arguments(body, below, child, 'init'))})"

    # --- the model -----------------------------------------------------------------------------------

    def _model(self, unit: Unit) -> ModelText:
        text = self._class(unit)
        stacks = [self._stack(unit, s) for s in unit.first.stacks.values()]
        taken = self.finished[unit].taken()
        return ModelText(
            unit, text.doc, taken, self.finished[unit].computed(), text.kept, text.weights, text.children,
            [input_name(n) for n in self.program.graph.inputs], text.lines, text.states, text.results,
            program=self.program,
            stacks=stacks, constants=constants(self.program, self.context),
        )  # fmt: skip

    def _stack(self, unit: Unit, stack: Stack) -> StackText:
        numbers = self.finished[unit]
        body = self._body(unit, numbers)
        body.place = "init"
        by_layer = [self._layer(body, stack, i) for i in range(len(stack.layers))]
        pattern = by_layer[: stack.period]
        replaced = {i: text for i, text in enumerate(by_layer) if text != pattern[i % stack.period]}
        first = [self.units.of[c] for c in stack.calls]
        depth = stack.node.args[len(stack.streams)].value
        assert isinstance(depth, ast.Expr)
        extra = list(self.units.extras[first[0]])
        layers = stack.layers[0].prefix.rsplit(".", 1)[0]
        text = StackText(
            layers,
            numbers.text(depth, "init").text,
            pattern[: len(stack.layers)],
            replaced,
            tuple(map(handed_name, stack.streams)),
            extra,
            [value for value in self.units.extras[first[0]].values() if isinstance(value, str)],
            first,
            len(stack.layers),
        )
        numbers.close()
        return text

    def _layer(self, body: Body, stack: Stack, index: int) -> str:
        """The constructor of one layer; `layer` stands for its index."""
        below = stack.calls[index]
        unit = self.units.of[below]
        given = block_arguments(body, stack, index)
        out = []
        for each in self.finished[unit].taken():
            name = each.name
            if each.param is None:
                out.append("layer" if name == "layer" else body.numbers.symbol(name, "init").text)
            elif name in given:
                text = number_or_mask(body, given[name], below.arguments[name], "init")
                out.append(f"{each.local}={text}")
            elif each.default is None:
                out.append(f"{each.local}={default_text(body, below, name)}")
        return f"{unit.name}({', '.join(keywords_last(out, [t.local for t in self.finished[unit].taken()]))})"


def input_name(name: str) -> str:
    """An input of the model as its argument."""
    return name if name == "tokens" else python_name(name)
