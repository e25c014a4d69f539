"""Groups the calls of the call tree into units of text: one class or function per fn and shape of use.

Two calls are one unit when they differ in nothing but the sizes and numbers that the text takes as arguments: the
same definition, the same
kinds and axes of arguments, the same callables, the same terms that vanish because an axis is empty.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field

from archc.elaborate.attributes import attribute
from archc.elaborate.bound import Axes, Bound, Builtin, Function, Instance, SharedFunction
from archc.elaborate.call import Call, Program
from archc.elaborate.numbers import Num
from archc.emit.code import RESERVED, camel, handed_name, python_name
from archc.ir.graph import Kind, Value, captures
from archc.text import ast

TIME_OPS = frozenset({"conv", "prev", "scan", "maxscan", "loop", "keys"})
POSITION_OPS = TIME_OPS | {"pos", "mask", "softmax_keys", "contract_keys", "reduce_keys", "queries"}


@dataclass(eq=False)
class Unit:
    """One class or function of the output, and the calls that it serves; `first` is the one whose facts are rendered.

    `takes_rows`: it maps pairs to pairs and lifts tokens itself, so it is cut into a part per token and a part per
    block of queries.
    """

    name: str
    first: Call
    calls: list[Call] = field(default_factory=list)
    is_class: bool = True
    has_state: bool = False
    needs_pos: bool = False
    takes_rows: bool = False

    @property
    def definition(self) -> ast.FnDef | ast.BlockDef | ast.ModelDef:
        """What it was written as."""
        return self.first.definition


@dataclass(frozen=True, eq=False)
class Units:
    """All units of a program, each after the ones it uses.

    `owners`: the call that declared the weights of an instance (a shared one has several calls). `extras`: what the
    blocks of a stack take besides their streams: values of the model by name, and shared fns by the
    attribute that has them.
    """

    program: Program
    order: tuple[Unit, ...]
    of: Mapping[Call, Unit]
    owners: Mapping[Instance, Call]
    extras: Mapping[Unit, Mapping[str, Value | str]]

    def of_instance(self, instance: Instance) -> Unit:
        """The unit of all calls of an instance."""
        return self.of[self.owners[instance]]

    def remembering(self, call: Call) -> list[str]:
        """The parameters of a call that are shared fns with a state, which is kept where they are called."""
        return [name for name, fn in handed_fns(call).items() if self.of_instance(fn).has_state]


def own_values(call: Call) -> list[Value]:
    """The values that expressions of this very call made, not those of calls below it."""
    return [v for v, node in call.nodes.items() if not (isinstance(node, ast.Call) and node in call.calls)]


def is_bare(call: Call) -> bool:
    """Whether a call has no array of real numbers at hand, neither as an argument nor as a weight."""
    given = [bound for bound in call.arguments.values() if isinstance(bound, Value)]
    return not call.weights and all(bound.type.dtype != "real" for bound in given)


def _ops(call: Call) -> set[str]:
    found = {v.op for v in own_values(call)}
    if any(isinstance(b, Value) and b.op == "pos" for b in call.facts.values()):
        found.add("pos")
    if any(isinstance(s, ast.Loop) for s in call.definition.body):
        found.add("loop")
    return found


def _below(call: Call) -> list[Call]:
    return [*call.calls.values(), *(c for stack in call.stacks.values() for c in stack.distinct)]


class _Grouping:
    """Builds units bottom-up; remembers what it has answered."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.units: dict[object, Unit] = {}
        self.of: dict[Call, Unit] = {}
        self.order: list[Unit] = []
        self.taken = _words(program)
        self.owners: dict[Instance, Call] = {}
        for call in program.root.walk():
            if call.weights or call.instance not in self.owners:
                self.owners[call.instance] = call

    def visit(self, call: Call) -> Unit:
        """The unit of a call, after those below it."""
        if call in self.of:
            return self.of[call]
        for below in _below(call):
            self.visit(below)
        owner = self.owners[call.instance]
        if owner is not call:
            unit = self.visit(owner)
            unit.calls.append(call)
            self.of[call] = unit
            return unit
        for stack in call.stacks.values():
            self._alike([self.of[c] for c in stack.distinct])
        key = (id(call.definition), *self._signature(call))
        if key not in self.units:
            self.units[key] = self._new(call)
            self.order.append(self.units[key])
        unit = self.units[key]
        unit.calls.append(call)
        self.of[call] = unit
        return unit

    def _alike(self, units: list[Unit]) -> None:
        """The blocks of one stack are called alike: all take the state and the positions if one does."""
        has_state, needs_pos = any(u.has_state for u in units), any(u.needs_pos for u in units)
        for unit in units:
            unit.has_state, unit.needs_pos = has_state, needs_pos

    def _new(self, call: Call) -> Unit:
        below = [self.of[c] for c in _below(call)]
        ops = _ops(call)
        stateful = self.program.graph.kind == "model"
        bounds = (*call.arguments.values(), *call.returned)
        pairs = any(isinstance(b, Value) and b.kind is Kind.PAIR and b.op != "mask" for b in bounds)
        takes_rows = pairs and (bool(ops & {"queries", "keys", "mask"}) or any(u.takes_rows for u in below))
        is_class = (
            takes_rows
            or bool(call.weights)
            or any(u.is_class for u in below)
            or not isinstance(call.definition, ast.FnDef)
        )
        has_state = stateful and (bool(ops & TIME_OPS) or isinstance(call.definition, ast.ModelDef))
        has_state = has_state or any(u.has_state for u in below)
        needs_pos = bool(ops & POSITION_OPS) or any(u.needs_pos for u in below) or ("index" in ops and is_bare(call))
        return Unit(self._name(call, is_class), call, [], is_class, has_state, needs_pos, takes_rows)

    def _name(self, call: Call, is_class: bool) -> str:
        base = camel(call.name) if is_class else python_name(call.name)
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}{count}" if is_class else f"{base.rstrip('_')}_{count}"
        self.taken.add(name)
        return name

    def _signature(self, call: Call) -> tuple[object, ...]:
        axes: dict[str, int] = {}
        arguments = []
        for param in call.definition.params:
            key = param.name.text
            bound = call.arguments.get(key)
            computed = key in call.defaulted and not isinstance(param.default, ast.Number)
            arguments.append((key, self._shape(bound, axes), computed and isinstance(bound, Num)))
        cuts = [b for bound in call.facts.values() if isinstance(bound, tuple) for b in bound]
        empty = tuple(
            v.attrs["into"] for v in cuts if isinstance(v, Value) and v.op == "slice" and v.attrs["size"] == 0
        )
        single = tuple(sorted(n for v in own_values(call) for n, s in v.type.sizes.items() if s == 0))
        below = tuple(id(self.of[c]) for c in _below(call))
        return (tuple(arguments), empty, single, below, _sizes(call))

    def _shape(self, bound: Bound | None, axes: dict[str, int]) -> object:
        match bound:
            case Value(op="mask"):
                if bound.attrs["name"] in ("causal", "window"):
                    return "keys"
                return ("mask", bound.attrs["name"], bound.attrs["sizes"])
            case Value():
                names = tuple(axes.setdefault(n, len(axes)) for n in bound.names)
                return (bound.kind, names, bound.type.dtype, bound.type.wide)
            case Axes():
                return tuple(axes.setdefault(n, len(axes)) for n in bound.names)
            case Builtin():
                return bound.name
            case Function():
                return id(bound.definition)
            case Num():
                return "number"
            case SharedFunction():
                return id(bound.instance)
        return None


def group(program: Program) -> Units:
    """The units of a program."""
    grouping = _Grouping(program)
    grouping.visit(program.root)
    extras: dict[Unit, Mapping[str, Value | str]] = {}
    for call in program.root.walk():
        for stack in call.stacks.values():
            found: dict[str, Value | str] = {}
            for block in stack.distinct:
                found |= _extras(block, grouping.of)
            extras |= {grouping.of[block]: found for block in stack.distinct}
    return Units(program, tuple(grouping.order), grouping.of, grouping.owners, extras)


def _words(program: Program) -> set[str]:
    """What classes and functions cannot be called: the variables of the text, and what it has from elsewhere."""
    words = {*RESERVED, *dir(builtins), "Model"}
    for definition in {call.definition for call in program.root.walk()}:
        words |= {python_name(param.name.text) for param in definition.params}
        for node in definition.walk():
            words |= {python_name(name) for name in _variables(node)}
    return words


def _sizes(call: Call) -> tuple[int, ...]:
    """For each size that is given in place, the first equal one of that axis: one text can't tell these apart."""
    given: list[tuple[str, Bound | None]] = [
        (p.name.text, call.arguments.get(p.name.text)) for p in call.definition.params
    ]
    declared = (n for n in call.definition.walk() if isinstance(n, ast.AxisDecl))
    given += [(n.axis.name, call.facts.get(n.size)) for n in declared if n.size is not None]
    sizes = [(name, bound.value) for name, bound in given if isinstance(bound, Num)]
    return tuple(sizes.index(each) for each in sizes)


def _variables(node: ast.Node) -> list[str]:
    """The names that a statement or a declared axis makes variables of."""
    match node:
        case ast.Let():
            return [target.text for target in node.targets]
        case ast.Loop():
            return [state.name.text for state in node.states]
        case ast.InputDecl():
            return [name.text for name in node.names]
        case ast.Shared():
            return [node.name.text]
        case ast.AxisDecl():
            return [node.axis.name]
    return []


def argument_of(site: ast.Call, below: Call, name: str) -> ast.Expr | None:
    """What a call gives a parameter, None if that keeps its default."""
    params = [p.name.text for p in below.definition.params]
    given = {a.name.text if a.name else params[i]: a.value for i, a in enumerate(site.args)}
    found = given.get(name)
    return found if isinstance(found, ast.Expr) else None


def handed_fns(call: Call) -> dict[str, Instance]:
    """The parameters of a call that are shared fns."""
    return {name: b.instance for name, b in call.arguments.items() if isinstance(b, SharedFunction)}


def _shared_fns(block: Call) -> dict[str, Instance]:
    """What a block calls or hands to other fns of those that were made by `shared`, by name."""
    out = {n.callee.text: c.instance for n, c in block.calls.items() if block.is_shared(n)}
    for site, below in block.calls.items():
        for key, instance in handed_fns(below).items():
            given = argument_of(site, below, key)
            if isinstance(given, ast.Name):
                out.setdefault(given.text, instance)
    return out


def _extras(block: Call, units: Mapping[Call, Unit]) -> dict[str, Value | str]:
    """What a block uses of the model: values by name, and fns with weights made by `shared`."""
    assert block.region is not None
    classes = {c.instance for c in block.walk() if units[c].is_class}
    shared = {name: instance for name, instance in _shared_fns(block).items() if instance in classes}
    own = [n for n in shared if n not in block.arguments and n not in block.shared]
    values = [v for v in captures(block.region) if v.op not in ("pos", "mask")]
    homes = {instance.path.split(".")[0] for instance in shared.values()}
    plain = [v for v in values if v.op != "weight" or v.attrs["path"].split(".")[0] not in homes]
    return {handed_name(v.label): v for v in plain} | {handed_name(n): attribute(n) for n in own}


def is_number_mask(bound: Bound | None) -> bool:
    """Whether an argument is a mask that travels as a number of keys: `causal` (None) or `window(n)`."""
    return isinstance(bound, Value) and bound.op == "mask" and bound.attrs["name"] in ("causal", "window")


__all__ = ["Unit", "Units", "group", "is_number_mask", "own_values"]
