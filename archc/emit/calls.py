"""Renders calls of other units: what is handed over, by which name, and the numbers that do not keep their default."""

from __future__ import annotations

from archc.elaborate.attributes import attribute
from archc.elaborate.bound import BlockUse, Bound, SharedFunction
from archc.elaborate.call import Call, Stack
from archc.elaborate.numbers import Num
from archc.elaborate.stacks import argument_key
from archc.emit.body import Body
from archc.emit.code import Code, handed_name
from archc.emit.numbers import Place, axis_order, literal
from archc.emit.placed import whole
from archc.emit.units import Unit, argument_of, handed_fns, is_number_mask
from archc.ir.graph import Kind, Value
from archc.text import ast


def called(body: Body, value: Value) -> Code:
    """A result of a call as an expression; a call with a state gets a line of its own."""
    node, index = body.results[value]
    text, unit = call_text(body, node)
    below = body.call.calls[node]
    if not unit.has_state or unit.takes_rows:
        return Code(text) if len(below.results) == 1 else Code(f"{text}[{index}]")
    return body.hoist(value, text, state_name(body, node))


def instance_name(body: Body, node: ast.Call) -> str:
    """The name of a called instance below this one."""
    return body.call.calls[node].instance.path.rsplit(".", 1)[-1]


def state_name(body: Body, node: ast.Call) -> str:
    """The key of the state of a call: every call of a shared fn has one of its own."""
    name = instance_name(body, node)
    alike = [n for n in body.call.calls if instance_name(body, n) == name]
    return name if alike[0] is node else f"{name}_{alike.index(node) + 1}"


def module_name(body: Body, node: ast.Call) -> str:
    """A called module: ours, or a shared one that was handed in."""
    callee = node.callee.text
    if body.call.is_shared(node) and callee not in body.call.shared:
        return handed_name(callee)
    return f"self.{instance_name(body, node)}"


def weight_of(body: Body, weight: Value) -> Code:
    """A weight of this unit or of one below it, as it is stored."""
    way, name = body.call.way_to(weight), str(weight.attrs["path"]).rsplit(".", 1)[-1]
    assert way is not None, f"{name} is out of reach"
    if not way:
        return body.dialect.weight(name)
    below, parts = body.call.calls[way[0]], [module_name(body, way[0])]
    for node in way[1:]:
        below = below.calls[node]
        parts.append(below.instance.path.rsplit(".", 1)[-1])
    return Code(".".join([*parts, name]))


def call_text(body: Body, node: ast.Call) -> tuple[str, Unit]:
    """A call of another unit."""
    below = body.call.calls[node]
    unit = body.units.of[below]
    if unit.takes_rows:
        pairs = [argument(body, below, k).text for k in tensor_parameters(unit) if _is_pair(below, k)]
        return f"{module_name(body, node)}({', '.join([*pairs, body.bundles[node], 'rows'])})", unit
    args = [argument(body, below, key).text for key in tensor_parameters(unit)]
    if unit.needs_pos:
        args.append("pos")
    if unit.has_state:
        args.append(body.old(state_name(body, node)))
    if unit.is_class:
        return f"{module_name(body, node)}({', '.join(args)})", unit
    args += number_arguments(body, below, unit, "forward")
    return f"{unit.name}({', '.join(args)})", unit


def argument(body: Body, below: Call, key: str) -> Code:
    """A value handed to another unit, without the renaming of its axes; or a shared fn."""
    value = below.arguments[key]
    if isinstance(value, SharedFunction):
        return shared_argument(body, below, key)
    assert isinstance(value, Value)
    while value not in body.names and value.op == "rename" and value not in body.results:
        value = value.operands[0]
    return whole(body, value)


def shared_argument(body: Body, below: Call, key: str) -> Code:
    """A shared fn that is handed to another: a module, or the function that it is without weights."""
    unit = body.units.of_instance(handed_fns(below)[key])
    if not unit.is_class:
        return Code(unit.name)
    node = next(n for n, c in body.call.calls.items() if c is below)
    given = argument_of(node, below, key)
    assert isinstance(given, ast.Name)
    name = given.text
    return Code(f"self.{attribute(name)}" if name in body.call.shared else handed_name(name))


def number_arguments(body: Body, below: Call, unit: Unit, place: Place) -> list[str]:
    """The numbers handed to another unit; those that keep their default are left out."""
    taken = body.finished[unit].taken()
    given: dict[str, ast.Expr] = {}
    site = next((n for n, c in body.call.calls.items() if c is below), None)
    for name, statement in body.call.shared.items():
        if below.instance.path == body.call.instance.below(attribute(name)):
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
            text = number_or_mask(body, given[name], below.arguments[name], place)
            out.append(f"{each.local}={text}" if each.default is not None else text)
        elif each.param is not None and name in below.defaulted:
            if each.default is None:
                out.append(default_text(body, below, name))
        elif each.param is not None and isinstance(below.arguments.get(name), Num):
            text = default_text(body, below, name)  # given where the shared fn was made
            out.append(f"{each.local}={text}" if each.default is not None else text)
        elif name == "layer":
            out.append(body.numbers.symbol(name, place).text)
        else:
            axis = ours[theirs.index(name)] if name in theirs else name
            out.append(axis_text(body, below, axis, place))
    return out


def default_text(body: Body, below: Call, name: str) -> str:
    """A default that another call of the unit overrides, as a plain number."""
    bound = below.arguments[name]
    if is_number_mask(bound):
        assert isinstance(bound, Value)
        return str(bound.attrs["sizes"][0]) if bound.attrs["sizes"] else "None"
    assert isinstance(bound, Num)
    return literal(bound.value)


def axis_text(body: Body, below: Call, axis: str, place: Place) -> str:
    """The size of an axis of another call, in our words."""
    ours = below.renamed.get(axis, axis)
    size = next(b.type.sizes[axis] for b in below.arguments.values() if isinstance(b, Value) and axis in b.names)
    return body.numbers.size(ours, size, place).text


def number_or_mask(body: Body, node: ast.Expr, bound: Bound, place: Place) -> str:
    """A number argument; a mask becomes the number of keys it sees, None for all."""
    if is_number_mask(bound):
        if isinstance(node, ast.Name):
            return "None" if node.text == "causal" else body.numbers.symbol(node.text, place).text
        assert isinstance(node, ast.Call)
        (arg,) = node.args
        assert isinstance(arg.value, ast.Expr)
        return body.numbers.text(arg.value, place).text
    return body.numbers.text(node, place).text


def block_arguments(body: Body, stack: Stack, index: int) -> dict[str, ast.Expr]:
    """The arguments of the block at a layer, as the list of the stack wrote them."""
    below = stack.calls[index]
    for node in stack.node.walk():
        if isinstance(node, ast.Call) and node.callee.text == below.name and node in body.call.facts:
            use = body.call.facts[node]
            if isinstance(use, BlockUse) and all(
                argument_key(use.given[k]) == argument_key(below.arguments[k]) for k in use.given
            ):
                params = [p.name.text for p in below.definition.params]
                names = [a.name.text if a.name else params[i] for i, a in enumerate(node.args)]
                if set(names) == set(below.arguments) - below.defaulted:
                    return {n: a.value for n, a in zip(names, node.args, strict=True) if isinstance(a.value, ast.Expr)}
    return {}


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


def keywords_last(arguments: list[str], names: list[str]) -> list[str]:
    """After the first keyword argument every argument is one."""
    out: list[str] = []
    for name, text in zip(names, arguments, strict=False):
        named = any("=" in o for o in out) and not text.startswith(f"{name}=")
        out.append(f"{name}={text}" if named else text)
    return out
