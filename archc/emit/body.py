"""Renders the body of one unit: statements in the order of the spec, expressions from the graph, one rule per op.

The graph says what is computed, the syntax tree where it has a name and how its numbers were written. Ops that cross
time become statements of their own, because they also hand on their part of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from archc.elaborate.attributes import attribute
from archc.elaborate.bound import BlockUse, Bound, Num, SharedFunction
from archc.elaborate.call import Call, Stack
from archc.elaborate.stacks import argument_key
from archc.emit.code import Code, handed_name, python_name
from archc.emit.dialect import Dialect
from archc.emit.fused import Fused
from archc.emit.layout import axis_of, legend, reindex
from archc.emit.numbers import Numbers, Place, axis_order, literal
from archc.emit.units import TIME_OPS, Unit, Units, is_number_mask, is_shared
from archc.ir.graph import Kind, Value
from archc.passes.norms import Norm
from archc.text import ast

Rule = Callable[["Body", Value], Code]


@dataclass(eq=False)
class Body:
    """One unit while it is rendered."""

    unit: Unit
    units: Units
    dialect: Dialect
    rules: Mapping[str, Rule]
    fused: Fused
    fp32: frozenset[str]
    finished: Mapping[Unit, Numbers]
    numbers: Numbers
    lines: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)
    kernels: dict[str, None] = field(default_factory=dict)
    statement: ast.Stmt | None = None
    place: Place = "forward"
    in_rows: bool = False
    bundles: dict[ast.Call, str] = field(default_factory=dict)
    lifted: dict[Value, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results = {
            value: (node, index)
            for node, below in self.call.calls.items()
            for index, value in enumerate(below.results)
            if isinstance(value, Value) and value not in below.arguments.values()  # what it was given is there already
        }

    @property
    def call(self) -> Call:
        """The call whose facts are rendered."""
        return self.unit.first

    # --- expressions ---------------------------------------------------------------------------------

    def render(self, value: Value) -> Code:
        """A value as an expression; a named one by its name."""
        if value in self.names:
            return Code(self.names[value])
        if value in self.results:
            return self._call(*self.results[value])
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
        scale, shift = (self._norm_weight(w, norm) for w in (norm.scale, norm.shift))
        eps = self.operand(norm.total, 1)
        text = self.dialect.norm(
            norm.kind, self.render(norm.input), [self.size(n, sizes[n]) for n in norm.over], scale, shift, eps
        )
        return text

    def _norm_weight(self, weight: Value | None, norm: Norm) -> Code | None:
        if weight is None:
            return None
        code = self.render(weight)
        if norm.input.type.wide and weight.attrs["path"] not in self.fp32:
            self.kernel("fp32")
            return Code(f"fp32({code.text})")
        return code

    def _alias(self, value: Value) -> Code | None:
        """The name of what a fn gave back, for the value it computed inside."""
        for named, name in self.names.items():
            inner = named
            while inner.op in ("narrow", "rename") and inner is not value:
                inner = inner.operands[0]
            if inner is value:
                return Code(name)
        return None

    def operand(self, value: Value, index: int) -> Code:
        """An argument of an op: a value, or a number as the spec wrote it."""
        arg = value.args[index]
        if isinstance(arg, Value):
            return self.render(arg)
        node = self.number_node(value, index)
        return self.numbers.text(node, self.place) if node is not None else Code(literal(arg))

    def number_node(self, value: Value, index: int) -> ast.Expr | None:
        """The expression that an argument, a number, was written as."""
        node = self.call.nodes.get(value)
        match node:
            case ast.Binary():
                found: ast.Expr | None = (node.left, node.right)[index]
            case ast.Call():
                positional = [a.value for a in node.args if a.name is None and isinstance(a.value, ast.Expr)]
                named = [a.value for a in node.args if a.name is not None and isinstance(a.value, ast.Expr)]
                found = (positional or named)[index] if index < len(positional or named) else None
            case _:
                found = None
        return found if found is not None and isinstance(self.call.facts.get(found), Num) else None

    def aligned(self, value: Value, index: int) -> Code:
        """An argument brought to the axes of the result, so that the frameworks broadcast it."""
        arg = value.args[index]
        code = self.operand(value, index)
        if not isinstance(arg, Value):
            return code
        code = reindex(code, arg, value.type, self.dialect)
        plain = value.kind is not Kind.WEIGHT and not value.type.wide and value.type.dtype == "real"
        return self.narrow(code) if plain and self.is_wide_weight(arg) else code

    def is_wide_weight(self, value: Value) -> bool:
        """Whether a function of weights is in single precision because its weights are."""
        if value.kind is not Kind.WEIGHT:
            return False
        if value.op == "weight":
            return value.attrs["path"] in self.fp32
        if value.op == "index":
            return True
        return value.type.wide or any(self.is_wide_weight(v) for v in value.operands)

    def size(self, axis: str, value: int) -> Code:
        """The size of an axis, in the methods."""
        return self.numbers.size(axis, value, self.place)

    def narrow(self, code: Code) -> Code:
        """The value in the compute type: that of the first argument."""
        return self.dialect.cast(code, self.like)

    @property
    def like(self) -> Code:
        """A value that has the compute type."""
        for param in self.call.definition.params:
            bound = self.call.arguments.get(param.name.text)
            if isinstance(bound, Value) and bound.type.dtype == "real" and not bound.type.wide and bound.op != "mask":
                return Code(python_name(param.name.text))
        if isinstance(self.call.definition, ast.BlockDef):
            return Code("x")
        return self.dialect.weight(attribute(next(iter(self.call.instance.weights))))

    def kernel(self, name: str) -> str:
        """Uses a function of a kernel file; gives back its name."""
        self.kernels.setdefault(name)
        return name

    # --- statements ----------------------------------------------------------------------------------

    def line(self, text: str, value: Value | None = None) -> None:
        """Adds a line, with the axes of the value it makes."""
        self.lines.append(f"{text}  # {legend(value.type)}" if value is not None else text)

    def bind(self, value: Value, name: str) -> None:
        """From now on the value has this name, and no other value has it."""
        for other in [v for v, n in self.names.items() if n == name]:
            del self.names[other]
        self.names[value] = name

    def hoist(self, value: Value, text: str, state: str, name: str = "") -> Code:
        """Puts an op that crosses time on a line of its own; gives back the name of its value."""
        name = self.temporary(value, name or state)
        stored = f'new["{state}"]'
        self.line(f"{name}, {stored} = {text}" if self.unit.has_state else f"{name}, _ = {text}", value)
        self.bind(value, name)
        return Code(name)

    def old(self, state: str) -> str:
        """The part of the incoming state; an encoder has none."""
        return f'old.get("{state}")' if self.unit.has_state else "None"

    def local_state(self, value: Value) -> str:
        """The name of a state below this unit."""
        path = self.call.instance.path
        name = str(value.attrs["state"])
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
        taken = {python_name(t.text) for s in self.call.definition.body if isinstance(s, ast.Let) for t in s.targets}
        taken |= set(self.names.values()) | self.reserved_functions | set(self.units.extras.get(self.unit, {}))
        name = base = python_name(state)
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        return name

    def _crossings(self, statement: ast.Let) -> int:
        """How many parts of a statement get a line of their own."""
        calls = [n for n in statement.value.walk() if isinstance(n, ast.Call)]
        stateful = [c for c in calls if c in self.call.calls and self.units.of[self.call.calls[c]].has_state]
        return len(stateful) + sum(c.callee.text in TIME_OPS or c.callee.text == "dot" for c in calls)

    @property
    def reserved_functions(self) -> set[str]:
        """Names of functions that the unit calls: a local of that name would hide them."""
        return {self.units.of[c].name for c in self.call.calls.values() if not self.units.of[c].is_class}

    def run(self) -> None:
        """Renders every statement."""
        for statement in self.call.definition.body:
            self.statement = statement
            match statement:
                case ast.Let():
                    self.let(statement)
                case ast.Loop():
                    self.rules["loop"](self, self._loop_value(statement))
                case ast.Return():
                    self._return()
                case _:
                    pass
        self.statement = None

    def _loop_value(self, statement: ast.Loop) -> Value:
        region = self.fused.regions[self.call]
        return next(v for v in region.values if v.op == "loop" and v.origin.span == statement.span)

    def let_pairs(self, statement: ast.Let) -> None:
        """A statement that names a pair, inside of its program."""
        bound = self.call.facts[statement.value]
        assert isinstance(bound, Value)
        if bound.op == "mask":
            return
        name = python_name(statement.targets[0].text)
        self.line(f"{name} = {self.render(bound).text}", bound)
        self.bind(bound, name)

    def remembered(self, lift: Value) -> str:
        """The remembered tokens of a lift to keys."""
        return self.lifted[lift]

    def is_number_mask(self, value: Value) -> bool:
        """Whether a mask travels as a number of keys."""
        return is_number_mask(value)

    def let(self, statement: ast.Let) -> None:
        """A statement that names what it computes."""
        bound = self.call.facts[statement.value]
        names = [python_name(t.text) for t in statement.targets]
        if isinstance(bound, Value):
            if bound in self.fused.absorbed or bound.kind is Kind.PAIR or self._in_norm(bound):
                return
            if bound in self.names and self.names[bound] != names[0]:
                self.line(f"{names[0]} = {self.names[bound]}", bound)
                self.bind(bound, names[0])
                return
            code = self.render(bound)
            if code.text != names[0]:
                self.line(f"{names[0]} = {code.text}", bound)
            self.bind(bound, names[0])
        elif isinstance(bound, tuple):
            self._unpack(statement, bound, names)

    def _in_norm(self, value: Value) -> bool:
        return self.dialect.own_norms and any(value in n.inside for n in self.fused.norms.values())

    def _unpack(self, statement: ast.Let, bound: tuple[Bound, ...], names: list[str]) -> None:
        values = [b for b in bound if isinstance(b, Value)]
        if values[0].op == "stack_out":
            self.stack(values[0])
            return
        if values[0].op == "slice" and values[0] not in self.results:
            kept = [(n, v) for n, v in zip(names, values, strict=True) if v.attrs["size"]]
            if len(kept) == 1:
                ((name, value),) = kept
                self.line(f"{name} = {self.render(value.operands[0]).text}", value)
                self.bind(value, name)
                return
            self.line(f"{', '.join(n for n, _ in kept)} = {self._cut([v for _, v in kept]).text}", kept[0][1])
            for name, value in kept:
                self.bind(value, name)
            return
        node = next((self.results[v][0] for v in values if v in self.results), None)
        if node is None:  # a fn gave back what it was given
            self.line(f"{', '.join(names)} = {', '.join(self.render(v).text for v in values)}", values[0])
            for name, value in zip(names, values, strict=True):
                self.bind(value, name)
            return
        text, unit = self.call_text(node)
        state = f', new["{self.state_name(node)}"]' if unit.has_state else ""
        left = ", ".join(names)
        self.line(f"({left}){state} = {text}" if state else f"{left} = {text}", values[0])
        for name, value in zip(names, values, strict=True):
            self.bind(value, name)

    def _cut(self, pieces: list[Value]) -> Code:
        """One axis cut into the pieces that are not empty."""
        inner = pieces[0].operands[0]
        sizes = [self.size(v.attrs["into"], v.attrs["size"]) for v in pieces]
        return self.dialect.pieces(self.render(inner), sizes, axis_of(inner, pieces[0].attrs["axis"]))

    def _return(self) -> None:
        self._give([self.render(v).text for v in self.call.returned if isinstance(v, Value)])

    def _give(self, texts: list[str]) -> None:
        text = ", ".join(texts)
        if self.unit.has_state:
            text = f"({text}), new" if len(texts) > 1 else f"{text}, new"
        self.line(f"return {text}")

    def give_back(self, names: list[str]) -> None:
        """Ends a block or a model: its results, under the names of the streams if there are any."""
        values = [v for v in self.call.results if isinstance(v, Value)]
        for name, value in zip(names, values, strict=False):
            code = self.render(value)
            if code.text != name:
                self.line(f"{name} = {code.text}", value)
        self._give(names or [self.render(v).text for v in values])

    def stack(self, value: Value) -> Code:
        """Runs the layers of a stack; gives back one of its streams."""
        node, stack = next((n, s) for n, s in self.call.stacks.items() if s.value is value.operands[0])
        fact = self.call.facts[node]
        outs = [o for o in (fact if isinstance(fact, tuple) else (fact,)) if isinstance(o, Value)]
        if value not in self.names:
            streams = [self.render(s) for s in stack.value.operands]
            units = [self.units.of[c] for c in stack.calls]
            extras = self.units.extras[units[0]]
            extra = [f"self.{v}" if isinstance(v, str) else self.render(v).text for v in extras.values()]
            args = [*(s.text for s in streams), *extra]
            if any(u.needs_pos for u in units):
                args.append("pos")
            name = stack.layers[0].prefix.rsplit(".", 1)[0]
            names = [python_name(stream) for stream in stack.streams]
            left = ", ".join(names)
            if any(u.has_state for u in units):
                left = f"({left})" if len(outs) > 1 else left
                self.line(f'{left}, new["{name}"] = self.run_{name}({", ".join([*args, self.old(name)])})', value)
            else:
                self.line(f"{left} = self.run_{name}({', '.join(args)})", value)
            for out, stream in zip(outs, names, strict=True):
                self.bind(out, stream)
        return Code(self.names[value])

    def block_arguments(self, stack: Stack, index: int) -> dict[str, ast.Expr]:
        """The arguments of the block at a layer, as the list of the stack wrote them."""
        below = stack.calls[index]
        for node in stack.node.walk():
            if isinstance(node, ast.Call) and node.callee.text == below.name and node in self.call.facts:
                use = self.call.facts[node]
                if isinstance(use, BlockUse) and all(
                    argument_key(use.given[k]) == argument_key(below.arguments[k]) for k in use.given
                ):
                    params = [p.name.text for p in below.definition.params]
                    names = [a.name.text if a.name else params[i] for i, a in enumerate(node.args)]
                    if set(names) == set(below.arguments) - below.defaulted:
                        return {
                            n: a.value for n, a in zip(names, node.args, strict=True) if isinstance(a.value, ast.Expr)
                        }
        return {}

    # --- calls of other units ------------------------------------------------------------------------

    def _call(self, node: ast.Call, index: int) -> Code:
        text, unit = self.call_text(node)
        below = self.call.calls[node]
        value = below.results[index]
        assert isinstance(value, Value)
        if not unit.has_state or unit.takes_rows:
            return Code(text) if len(below.results) == 1 else Code(f"{text}[{index}]")
        return self.hoist(value, text, self.state_name(node))

    def instance_name(self, node: ast.Call) -> str:
        """The name of a called instance below this one."""
        return self.call.calls[node].instance.path.rsplit(".", 1)[-1]

    def state_name(self, node: ast.Call) -> str:
        """The key of the state of a call: every call of a shared fn has one of its own."""
        name = self.instance_name(node)
        alike = [n for n in self.call.calls if self.instance_name(n) == name]
        return name if alike[0] is node else f"{name}_{alike.index(node) + 1}"

    def module_name(self, node: ast.Call) -> str:
        """A called module: ours, or a shared one that was handed in."""
        callee = node.callee.text
        if is_shared(self.call, node) and callee not in self.call.shared:
            return handed_name(callee)
        return f"self.{self.instance_name(node)}"

    def call_text(self, node: ast.Call) -> tuple[str, Unit]:
        """A call of another unit."""
        below = self.call.calls[node]
        unit = self.units.of[below]
        if unit.takes_rows:
            pairs = [self.argument(below, k).text for k in tensor_parameters(unit) if _is_pair(below, k)]
            return f"{self.module_name(node)}({', '.join([*pairs, self.bundles[node], 'rows'])})", unit
        args = [self.argument(below, key).text for key in tensor_parameters(unit)]
        if unit.needs_pos:
            args.append("pos")
        if unit.has_state:
            args.append(self.old(self.state_name(node)))
        if unit.is_class:
            return f"{self.module_name(node)}({', '.join(args)})", unit
        args += self.number_arguments(below, unit, "forward")
        return f"{unit.name}({', '.join(args)})", unit

    def argument(self, below: Call, key: str) -> Code:
        """A value handed to another unit, without the renaming of its axes; or a shared fn."""
        value = below.arguments[key]
        if isinstance(value, SharedFunction):
            return self._shared_argument(below, key)
        assert isinstance(value, Value)
        while value not in self.names and value.op == "rename" and value not in self.results:
            value = value.operands[0]
        return self.render(value)

    def _shared_argument(self, below: Call, key: str) -> Code:
        node = next(n for n, c in self.call.calls.items() if c is below)
        params = [p.name.text for p in below.definition.params]
        arg = next(a for i, a in enumerate(node.args) if (a.name.text if a.name else params[i]) == key)
        assert isinstance(arg.value, ast.Name)
        name = arg.value.text
        return Code(f"self.{attribute(name)}" if name in self.call.shared else handed_name(name))

    def number_arguments(self, below: Call, unit: Unit, place: Place) -> list[str]:
        """The numbers handed to another unit; those that keep their default are left out."""
        taken = self.finished[unit].taken()
        given: dict[str, ast.Expr] = {}
        site = next((n for n, c in self.call.calls.items() if c is below), None)
        for name, statement in self.call.shared.items():
            if below.instance.path == self.call.instance.below(attribute(name)):
                site = statement.call
        params = [p.name.text for p in below.definition.params]
        position = 0
        for arg in site.args if site is not None else ():
            if isinstance(arg.value, ast.Expr):
                if arg.name is None:
                    given[params[position]] = arg.value
                    position += 1
                else:
                    given[arg.name.text] = arg.value
        theirs, ours = axis_order(unit.first), axis_order(below)
        out: list[str] = []
        for each in taken:
            name = each.name
            if each.param is not None and name in given:
                text = self.number_or_mask(given[name], below.arguments[name], place)
                out.append(f"{each.local}={text}" if each.default is not None else text)
            elif each.param is not None and name in below.defaulted:
                if each.default is None:
                    out.append(self.default_text(below, name))
            elif name == "layer":
                out.append(self.numbers.symbol(name, place).text)
            else:
                axis = ours[theirs.index(name)] if name in theirs else name
                out.append(self.axis_text(below, axis, place))
        return out

    def default_text(self, below: Call, name: str) -> str:
        """A default that another call of the unit overrides, as a plain number."""
        bound = below.arguments[name]
        if is_number_mask(bound):
            assert isinstance(bound, Value)
            return str(bound.attrs["sizes"][0]) if bound.attrs["sizes"] else "None"
        assert isinstance(bound, Num)
        return literal(bound.value)

    def axis_text(self, below: Call, axis: str, place: Place) -> str:
        """The size of an axis of another call, in our words."""
        ours = below.renamed.get(axis, axis)
        size = next(b.type.sizes[axis] for b in below.arguments.values() if isinstance(b, Value) and axis in b.names)
        return self.numbers.size(ours, size, place).text

    def number_or_mask(self, node: ast.Expr, bound: Bound, place: Place) -> str:
        """A number argument; a mask becomes the number of keys it sees, None for all."""
        if is_number_mask(bound):
            if isinstance(node, ast.Name):
                return "None" if node.text == "causal" else self.numbers.symbol(node.text, place).text
            assert isinstance(node, ast.Call)
            (arg,) = node.args
            assert isinstance(arg.value, ast.Expr)
            return self.numbers.text(arg.value, place).text
        return self.numbers.text(node, place).text


def _is_pair(below: Call, key: str) -> bool:
    bound = below.arguments[key]
    return isinstance(bound, Value) and bound.kind is Kind.PAIR


def tensor_parameters(unit: Unit) -> list[str]:
    """The parameters of a unit that are handed over as arrays."""
    out = []
    for param in unit.definition.params:
        bound = unit.first.arguments.get(param.name.text)
        if isinstance(bound, SharedFunction) or (isinstance(bound, Value) and bound.op != "mask"):
            out.append(param.name.text)
    return out
