"""Evaluates expressions and runs statements: one forward walk, no unification."""

from __future__ import annotations

from archc.diagnostics import ArchError, Note, closest
from archc.elaborate import builtins, functions, loops, stacks, weights
from archc.elaborate.axes import axis_names, axis_size
from archc.elaborate.bound import (
    ARITHMETIC,
    Axes,
    BlockUse,
    Bound,
    Builtin,
    Function,
    Num,
    Poison,
    Repeated,
    Replaced,
    SharedFunction,
    merge_roots,
)
from archc.elaborate.frame import Frame, Poisoned, describe
from archc.ir.graph import Kind, Operand, Value
from archc.ops.pair import MASKS
from archc.text import ast

OPS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow", "and": "and", "or": "or",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip


class Elaborator:
    """The walker: no state of its own."""

    def evaluate(self, node: ast.Expr, frame: Frame) -> Bound:
        """The value of an expression, kept among the facts of the call."""
        bound = self._evaluate(node, frame)
        if isinstance(bound, Poison):
            raise Poisoned
        if isinstance(bound, Value) and not isinstance(node, ast.Name):
            frame.call.nodes.setdefault(bound, node)
        if frame.wide and isinstance(bound, Value) and not isinstance(node, ast.Binary | ast.Unary):
            bound = frame.widen(bound, node)
            assert isinstance(bound, Value)
        frame.call.facts[node] = bound
        return bound

    def _evaluate(self, node: ast.Expr, frame: Frame) -> Bound:
        match node:
            case ast.Number():
                return Num(node.value)
            case ast.Name():
                return name(node, frame)
            case ast.Unary():
                return unary(node, frame)
            case ast.Binary():
                return binary(node, frame)
            case ast.Contract():
                inner = frame.at(wide=False)
                left = self.evaluate(node.left, inner)
                return weights.contract(node, inner.value(left, node.left, "what stands left of @"), inner)
            case ast.WeightRef():
                return weights.plain_weight(node, frame)
            case ast.Lookup():
                index = frame.operand(self.evaluate(node.index, frame.at(wide=False)), node.index, "the index")
                return weights.lookup(node, index, frame)
            case ast.Call():
                return call(node, frame)
            case ast.ListExpr() | ast.AxisList():
                return axis_names(node, frame)
            case ast.Override():
                frame.fail("E210", "an override of layers stands only in the list of a stack", node)
        raise AssertionError(node)

    def body(self, body: tuple[ast.Stmt, ...], frame: Frame) -> tuple[Bound, ...] | None:
        """Runs the statements in order; a failing one is reported and its names are poisoned."""
        declare(body, frame)
        result: tuple[Bound, ...] | None = None
        for statement in body:
            try:
                match statement:
                    case ast.Return():
                        result = tuple(self.evaluate(value, frame) for value in statement.values)
                    case ast.Let():
                        let(statement, frame)
                    case ast.Loop():
                        loops.run(statement, frame)
                    case ast.InputDecl():
                        for ident in statement.names:
                            value = frame.add("input", (), ident, {"name": ident.text}, label=ident.text)
                            frame.scope.names[ident.text] = value
                    case ast.Shared():
                        functions.share(statement, frame)
                    case _:
                        pass
            except ArchError as failed:
                frame.shelf.report(failed)
                for ident in targets(statement):
                    frame.scope.names[ident.text] = Poison()
                if isinstance(statement, ast.Return):
                    result = (Poison(),) * len(statement.values)
        return result


def targets(statement: ast.Stmt) -> tuple[ast.Ident, ...]:
    """The names that a statement binds."""
    match statement:
        case ast.Let():
            return statement.targets
        case ast.Loop():
            return tuple(state.name for state in statement.states)
        case ast.InputDecl():
            return statement.names
        case ast.Shared():
            return (statement.name,)
    return ()


def declare(body: tuple[ast.Stmt, ...], frame: Frame) -> None:
    """Makes fns and blocks of a body known before its statements run."""
    for statement in body:
        match statement:
            case ast.FnDef():
                frame.scope.names[statement.name.text] = Function(statement, frame.scope)
            case ast.BlockDef():
                frame.scope.names[statement.name.text] = BlockUse(statement, frame.scope)
            case _:
                pass


def let(statement: ast.Let, frame: Frame) -> None:
    """`a, b = expr`."""
    names = [ident.text for ident in statement.targets]
    inner = frame.at(target=names[0])
    bound = inner.walker.evaluate(statement.value, inner)
    if len(names) == 1:
        if isinstance(bound, tuple):
            frame.fail("E212", f"{len(bound)} values for one name", statement)
        parts: tuple[Bound, ...] = (bound,)
    elif not isinstance(bound, tuple) or len(bound) != len(names):
        have = f"{len(bound)} values" if isinstance(bound, tuple) else describe(bound)
        frame.fail("E212", f"{len(names)} names for {have}", statement)
    else:
        parts = bound
    for label, part in zip(names, parts, strict=True):
        if isinstance(part, Value) and not part.label:
            part.label = label
        frame.scope.names[label] = part


def name(node: ast.Name, frame: Frame) -> Bound:
    """A name: a variable, a builtin, the size of an axis in scope."""
    bound = frame.scope.find(node.text)
    if bound is not None:
        return bound
    if node.text == "pos" and frame.shelf.pos is not None:
        return frame.shelf.pos
    if node.text in MASKS and not MASKS[node.text]:
        return frame.add("mask", (), node, {"name": node.text, "sizes": ()}, label=node.text)
    size = frame.scope.find_axis(node.text)
    if size is not None:
        return Num(ast.Number(node.span, str(size)).value)
    if node.text in builtins.NAMES:
        return Builtin(node.text)
    return unknown(node.text, "name", node, frame)


def unknown(text: str, what: str, node: ast.Node, frame: Frame) -> Bound:
    """Raises E101 with the nearest name."""
    hint = closest(text, frame.scope.visible() | builtins.NAMES)
    frame.fail("E101", f"unknown {what} '{text}'" + (f"; {hint}" if hint else ""), node)


def unary(node: ast.Unary, frame: Frame) -> Bound:
    """`-x`, `not m`."""
    bound = frame.walker.evaluate(node.value, frame)
    if node.op == "-" and isinstance(bound, Num):
        return Num(-bound.value, bound.roots)
    value = frame.value(bound, node.value, f"what follows '{node.op}'")
    return frame.add("neg" if node.op == "-" else "not", (value,), node)


def binary(node: ast.Binary, frame: Frame) -> Bound:
    """Arithmetic on numbers is exact; on values it joins axes by name."""
    left, right = frame.walker.evaluate(node.left, frame), frame.walker.evaluate(node.right, frame)
    if isinstance(left, BlockUse) and node.op == "*":
        return Repeated(left, frame.whole(right, node.right, "a repetition"))
    if isinstance(left, Num) and isinstance(right, Num) and node.op in ARITHMETIC:
        return arithmetic(node, left, right, frame)
    a = frame.operand(left, node.left, f"the left side of '{node.op}'")
    b = frame.operand(right, node.right, f"the right side of '{node.op}'")
    if not isinstance(a, Value) and not isinstance(b, Value):
        frame.fail("E213", "numbers known when compiling are not compared: there are no conditionals", node)
    return pointwise(OPS[node.op], (a, b), node, frame)


def arithmetic(node: ast.Binary, left: Num, right: Num, frame: Frame) -> Num:
    """Two numbers."""
    try:
        return Num(ARITHMETIC[node.op](left.value, right.value), merge_roots(left, right))
    except (ZeroDivisionError, OverflowError, ValueError) as why:
        notes = tuple(r.note for r in merge_roots(left, right))
        frame.fail("E203", f"cannot compute {left} {node.op} {right}: {why}", node, *notes)


def pointwise(op: str, args: tuple[Operand, ...], node: ast.Node, frame: Frame) -> Value:
    """An element-wise op, in single precision inside of `fp32(...)`."""
    if frame.wide:
        args = tuple(frame.widen(a, node) for a in args)
    return frame.add(op, args, node)


def call(node: ast.Call, frame: Frame) -> Bound:
    """A call of a fn, a builtin or a block with arguments."""
    text = node.callee.text
    target = frame.scope.find_callable(text)
    if target is None and text in builtins.NAMES:
        target = Builtin(text)
    match target:
        case None:
            other = frame.scope.find(text)
            if other is not None:
                frame.fail("E102", f"'{text}' is not a function, it is {describe(other)}", node.callee)
            return unknown(text, "function", node.callee, frame)
        case Builtin(name="stack"):
            return stacks.run(node, frame)
        case Builtin():
            return builtins.apply(target.name, node, frame)
        case Function() | SharedFunction():
            return functions.apply(target, node, frame)
        case BlockUse():
            return block_use(target, node, frame)


def block_use(block: BlockUse, node: ast.Call, frame: Frame) -> BlockUse:
    """`local(window = 256)`: a block with arguments."""
    given, _ = functions.arguments(node, block.definition.params, block.definition, frame)
    return BlockUse(block.definition, block.scope, {**block.given, **given}, node)


def override(node: ast.Override, frame: Frame) -> Replaced:
    """`at(7, 15): attention`."""
    how = node.where.callee.text
    if how not in ("at", "first", "last"):
        hint = closest(how, ("at", "first", "last"))
        frame.fail("E104", f"unknown choice of layers '{how}'" + (f"; {hint}" if hint else ""), node.where)
    numbers = []
    for arg in node.where.args:
        assert isinstance(arg.value, ast.Expr)
        numbers.append(frame.number(frame.walker.evaluate(arg.value, frame), arg.value, "a layer"))
    entry = frame.walker.evaluate(node.value, frame)
    if not isinstance(entry, BlockUse):
        frame.fail("E214", f"a stack holds blocks, this is {describe(entry)}", node.value)
    return Replaced(node, how, tuple(numbers), entry)


