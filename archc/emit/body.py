"""One unit while it is rendered: values as expressions, one rule per op, and the lines and names made so far.

The graph says what is computed, the syntax tree where it has a name and how its numbers were written. Ops that cross
time become statements of their own, because they also hand on their part of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from archc.elaborate.attributes import attribute
from archc.elaborate.call import Call
from archc.emit.code import Code, python_name
from archc.emit.dialect import Dialect
from archc.emit.fused import Fused
from archc.emit.layout import legend, reindex
from archc.emit.mixes import Mixes
from archc.emit.numbers import Numbers, Place, literal, number_node
from archc.emit.precision import Precision
from archc.emit.units import TIME_OPS, Unit, Units
from archc.fuse.convs import FusedConv
from archc.fuse.fused_scan import FusedScan
from archc.ir.graph import Kind, Value
from archc.ops.table import OPS
from archc.passes.norms import Norm
from archc.text import ast

Rule = Callable[["Body", Value], Code]
State = str | tuple[str, ...]
"""The name of a part of the state, or of several that one kernel keeps."""


def results_of(call: Call) -> dict[Value, tuple[ast.Call, int]]:
    """What the calls below one give back: the call, and which of its results."""
    return {
        value: (node, index)
        for node, below in call.calls.items()
        for index, value in enumerate(below.results)
        if isinstance(value, Value) and value not in below.arguments.values()  # what it was given is there already
    }


@dataclass(eq=False)
class Body:
    """One unit while it is rendered."""

    unit: Unit
    units: Units
    dialect: Dialect
    rules: Mapping[str, Rule]
    fused: Fused
    precision: Precision
    finished: Mapping[Unit, Numbers]
    numbers: Numbers
    lines: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)
    aliases: dict[Value, list[Value]] = field(default_factory=dict)
    kernels: dict[str, None] = field(default_factory=dict)
    gates: dict[str, FusedScan | FusedConv] = field(default_factory=dict)
    mixes: dict[str, Mixes] = field(default_factory=dict)
    statement: ast.Stmt | None = None
    place: Place = "forward"
    in_rows: bool = False
    bundles: dict[ast.Call, str] = field(default_factory=dict)
    lifted: dict[Value, str] = field(default_factory=dict)
    sliced: frozenset[Value] = frozenset()
    """What the step of a loop is handed token by token: it may read nothing that these are made of."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """What another unit calls axes, where that unit writes for this one."""

    def __post_init__(self) -> None:
        self.results = results_of(self.call)

    @property
    def call(self) -> Call:
        """The call whose facts are rendered."""
        return self.unit.first

    def render(self, value: Value) -> Code:
        """A value as an expression; a named one by its name."""
        if value in self.names:
            return Code(self.names[value])
        conv = self.fused.convs.get(value)
        if conv is not None and conv.conv in self.call.nodes:  # else a function that computes it also outside of it
            return self.rules["conv"](self, value)
        if value in self.results:
            return self.rules["called"](self, value)
        if value in self.fused.gated:
            return self.rules["gated"](self, value)
        if self.dialect.own_norms and value in self.fused.norms:
            return self._norm(self.fused.norms[value])
        if value.op in ("narrow", "fp32") or value not in self.call.nodes:
            named = self._alias(value)
            if named is not None:
                return named
        return self.rules[value.op](self, value)

    def _norm(self, norm: Norm) -> Code:
        """The framework's own norm."""
        sizes = norm.input.type.sizes
        given = self.render(norm.input)
        scale, shift = (self._norm_weight(w, norm, given) for w in (norm.scale, norm.shift))
        eps = self.operand(norm.total, 1)
        return self.dialect.norm(norm.kind, given, [self.size(n, sizes[n]) for n in norm.over], scale, shift, eps)

    def _norm_weight(self, weight: Value | None, norm: Norm, given: Code) -> Code | None:
        """A weight in the type that the input has when it runs: frameworks want one for both.

        What has a name may have come from a kernel that has rounded it, whatever the spec says.
        """
        if weight is None:
            return None
        code = self.render(weight)
        if norm.input.type.wide == (weight.attrs.get("path") in self.precision.fp32):
            return code
        if norm.input.type.wide and not given.text.isidentifier():
            self.kernel("fp32")
            return Code(f"fp32({code.text})")
        return self.dialect.cast(code, given)

    def _alias(self, value: Value) -> Code | None:
        """The name of what a fn gave back, for the value it computed inside."""
        named = next((v for v in self.aliases.get(value, ()) if v in self.names), None)
        return None if named is None else Code(self.names[named])

    def operand(self, value: Value, index: int) -> Code:
        """An argument of an op: a value, or a number as the spec wrote it."""
        arg = value.args[index]
        if isinstance(arg, Value):
            return self.render(arg)
        node = number_node(self.call, value, index)
        return self.numbers.text(node, self.place) if node is not None else Code(literal(arg))

    def aligned(self, value: Value, index: int) -> Code:
        """An argument brought to the axes of the result, so that the frameworks broadcast it."""
        arg = value.args[index]
        code = self.operand(value, index)
        if not isinstance(arg, Value):
            return code
        code = reindex(code, arg, value.type, self.dialect)
        plain = value.kind is not Kind.WEIGHT and not value.type.wide and value.type.dtype == "real"
        return self.narrow(code) if plain and self.precision.is_wide_weight(arg) else code

    def matched(self, code: Code, operand: Value, value: Value) -> Code:
        """An operand of a contraction in the element type of the result: the frameworks want one for all."""
        if "complex" in (operand.type.dtype, value.type.dtype):
            return code
        wide = operand.type.wide and not self.precision.is_rounded(operand)
        single = wide or self.precision.is_wide_weight(operand)
        if operand.type.dtype != "real" or (single and not value.type.wide):
            code, single = self.narrow(code), False
        if value.type.wide and not single:
            self.kernel("fp32")
            return Code(f"fp32({code.text})")
        return code

    def size(self, axis: str, value: int) -> Code:
        """The size of an axis, in the methods."""
        return self.numbers.size(self.axes.get(axis, axis), value, self.place)

    def narrow(self, code: Code) -> Code:
        """The value in the compute type: that of the first argument."""
        return self.dialect.cast(code, self.like)

    @property
    def like(self) -> Code:
        """A value that has the compute type, or, of a fn that is given none, an argument in single precision; of a fn
        that is given nothing but numbers the positions, which say only on which device it runs.
        """
        if isinstance(self.call.definition, ast.BlockDef) and (self._narrow or not self._narrow_weights):
            return Code("x" if "x" in self._narrow or not self._narrow else self._narrow[0])
        if isinstance(self.call.definition, ast.BlockDef):
            return self.dialect.weight(attribute(self._narrow_weights[0]))
        given = [(p.name.text, self.call.arguments.get(p.name.text)) for p in self.call.definition.params]
        real = [(n, v) for n, v in given if isinstance(v, Value) and v.type.dtype == "real" and v.op != "mask"]
        narrow = [(python_name(name), value) for name, value in real if not value.type.wide]
        if narrow:
            kept = [name for name, value in narrow if value in self.names] or self._narrow
            return Code(kept[0] if kept else narrow[0][0])
        if real and not self.call.instance.weights:
            return Code(python_name(real[0][0]))
        if not self.call.instance.weights:
            return Code("pos")
        return self.dialect.weight(attribute(next(iter(self.call.instance.weights))))

    @property
    def _narrow(self) -> list[str]:
        """The names that stand for tokens in the compute type by now."""
        tokens = [(v, n) for v, n in self.names.items() if v.kind is Kind.TOKEN and v.type.dtype == "real"]
        return [name for value, name in tokens if not value.type.wide]

    @property
    def _narrow_weights(self) -> list[str]:
        """The weights of this very call that are in the compute type."""
        weights = self.call.instance.weights
        return [name for name, weight in weights.items() if weight.attrs["path"] not in self.precision.fp32]

    def kernel(self, name: str) -> str:
        """Uses a function of a kernel file; gives back its name."""
        self.kernels.setdefault(name)
        return name

    def line(self, text: str, value: Value | None = None) -> None:
        """Adds a line, with the axes of the value it makes."""
        self.lines.append(f"{text}  # {legend(value.type)}" if value is not None else text)

    def bind(self, value: Value, name: str) -> None:
        """From now on the value has this name, and no other value has it."""
        for other in [v for v, n in self.names.items() if n == name]:
            del self.names[other]
        self.names[value] = name
        inner = value
        while OPS[inner.op].flow == "alias":
            (inner,) = inner.operands
            self.aliases.setdefault(inner, []).append(value)

    def hoist(self, value: Value, text: str, state: State | None, name: str = "") -> Code:
        """Puts an op that crosses time on a line of its own; gives back the name of its value.

        `state`: where its part of the state is kept, if anywhere.
        """
        name = self.temporary(value, name or (state if isinstance(state, str) else str(state and state[0])))
        self.line(f"{name}, {self.new(state)} = {text}", value)
        self.bind(value, name)
        return Code(name)

    def named(self, value: Value, text: str, name: str) -> Code:
        """Puts a value on a line of its own, under its own name or `name`; gives back the name."""
        name = self.temporary(value, name)
        self.line(f"{name} = {text}", value)
        self.bind(value, name)
        return Code(name)

    def old(self, state: State) -> str:
        """The part of the incoming state; an encoder has none."""
        if not isinstance(state, str):
            return f"({', '.join(map(self.old, state))})"
        return f'old.get("{state}")' if self.unit.has_state else "None"

    def new(self, state: State | None) -> str:
        """Where the part of the state goes that is handed on."""
        if state is None or not self.unit.has_state:
            return "_"
        return f'new["{state}"]' if isinstance(state, str) else f"({', '.join(map(self.new, state))})"

    def local_state(self, value: Value) -> str:
        """The name of a state below this unit."""
        path = self.call.instance.path
        name = str(value.attrs["states"][0] if value.op == "loop" else value.attrs["state"])
        return name.removeprefix(path + ".") if path else name

    def temporary(self, value: Value, state: str) -> str:
        """A name for a value on a line of its own: that of the statement if it is free, else a given one."""
        if isinstance(self.statement, ast.Let):
            name = python_name(self.statement.targets[0].text)
            bound = self.call.facts.get(self.statement.value)
            read = {n.text for n in self.statement.value.walk() if isinstance(n, ast.Name)}
            alone = self.statement.targets[0].text not in read and self._crossings(self.statement) <= 1
            if bound is value or alone:
                return name
        name = base = python_name(state)
        count = 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        return name

    @property
    def taken(self) -> set[str]:
        """Names that a line of the unit makes or reads, now or later."""
        taken = {python_name(t.text) for s in self.call.definition.body if isinstance(s, ast.Let) for t in s.targets}
        return taken | set(self.names.values()) | self.reserved_functions | set(self.units.extras.get(self.unit, {}))

    def _crossings(self, statement: ast.Let) -> int:
        """How many parts of a statement get a line of their own."""
        calls = [n for n in statement.value.walk() if isinstance(n, ast.Call)]
        stateful = [c for c in calls if c in self.call.calls and self.units.of[self.call.calls[c]].has_state]
        return len(stateful) + sum(c.callee.text in TIME_OPS or c.callee.text == "dot" for c in calls)

    @property
    def reserved_functions(self) -> set[str]:
        """Names of functions that the unit calls: a local of that name would hide them."""
        return {self.units.of[c].name for c in self.call.calls.values() if not self.units.of[c].is_class}

    def remembered(self, lift: Value) -> str:
        """The remembered tokens of a lift to keys."""
        return self.lifted[lift]
