"""Evaluates expressions and runs statements: one forward walk, no unification."""

from __future__ import annotations

from archc.diagnostics import ArchError
from archc.elaborate import builtins, functions, loops, names, stacks, statements, weights
from archc.elaborate.axes import axis_names
from archc.elaborate.bound import BlockUse, Bound, Builtin, Function, Poison, Repeated, SharedFunction
from archc.elaborate.decays import feeders
from archc.elaborate.frame import Frame, Poisoned, describe
from archc.elaborate.numbers import ARITHMETIC, Num, merge_roots
from archc.ir.graph import Operand, Value
from archc.text import ast

OPS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow", "and": "and", "or": "or",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip


class Elaborator:
    """The walker: no state of its own."""

    def evaluate(self, node: ast.Expr, frame: Frame) -> Bound:
        """The value of an expression, kept among the facts of the call."""
        return _keep(node, self._evaluate(node, frame), frame)

    def _evaluate(self, node: ast.Expr, frame: Frame) -> Bound:
        match node:
            case ast.Number():
                return Num(node.value)
            case ast.Name():
                return names.name(node, frame)
            case ast.Unary():
                return unary(node, frame)
            case ast.Binary():
                return chain(node, frame)
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
                frame.fail("E210", "layers are chosen only in the list of a stack", node)
        raise AssertionError(node)

    def body(self, body: tuple[ast.Stmt, ...], frame: Frame) -> tuple[Bound, ...] | None:
        """Runs the statements in order; a failing one is reported and its names are poisoned."""
        statements.declare(body, frame)
        result: tuple[Bound, ...] | None = None
        for place, statement in enumerate(body):
            try:
                match statement:
                    case ast.Return():
                        result = tuple(self.evaluate(value, frame) for value in statement.values)
                    case ast.Let():
                        let(statement, frame)
                    case ast.Loop():
                        loops.run(statement, frame, names.read_in(body[place + 1 :]))
                    case ast.InputDecl():
                        for ident in statement.names:
                            value = frame.add("input", (), ident, {"name": ident.text}, label=ident.text)
                            names.assign(ident, value, frame)
                    case ast.Shared():
                        functions.share(statement, frame)
                    case _:
                        pass
            except ArchError as failed:
                frame.shelf.report(failed)
                for ident in statements.targets(statement):
                    frame.scope.names[ident.text] = Poison()
                if isinstance(statement, ast.Return):
                    result = (Poison(),) * len(statement.values)
        return result


def _keep(node: ast.Expr, bound: Bound, frame: Frame) -> Bound:
    """Notes what an expression came to; inside of `fp32(...)` the parts of arithmetic are widened."""
    if isinstance(bound, Poison):
        raise Poisoned
    if isinstance(bound, Value) and not isinstance(node, ast.Name):
        frame.call.nodes.setdefault(bound, node)
    if frame.wide and isinstance(bound, Value) and not isinstance(node, ast.Binary | ast.Unary):
        widened = frame.widen(bound, node)
        assert isinstance(widened, Value)
        bound = widened
    frame.call.facts[node] = bound
    return bound


def let(statement: ast.Let, frame: Frame) -> None:
    """`a, b = expr`."""
    targets = statement.targets
    inner = frame.at(target=targets[0].text, wide=targets[0].text in feeders(frame.call.definition.body))
    bound = inner.walker.evaluate(statement.value, inner)
    parts = bound if isinstance(bound, tuple) else (bound,)
    if len(parts) != len(targets):
        have = f"{len(parts)} values" if len(parts) > 1 else "one value"
        want = f"{len(targets)} names" if len(targets) > 1 else "one name"
        frame.fail("E212", f"{want} for {have}", targets[0].span.to(targets[-1].span))
    for ident, part in zip(targets, parts, strict=True):
        if isinstance(part, Value) and not part.label:
            part.label = ident.text
        names.assign(ident, part, frame)


def unary(node: ast.Unary, frame: Frame) -> Bound:
    """`-x`, `not m`."""
    bound = frame.walker.evaluate(node.value, frame)
    if node.op == "-" and isinstance(bound, Num):
        return Num(-bound.value, bound.roots)
    value = frame.value(bound, node.value, f"what follows '{node.op}'")
    return frame.add("neg" if node.op == "-" else "not", (value,), node)


def chain(node: ast.Binary, frame: Frame) -> Bound:
    """A sum of a thousand terms leans to the left a thousand deep: its spine is walked without recursion."""
    spine = [node]
    while isinstance(spine[-1].left, ast.Binary):
        spine.append(spine[-1].left)
    left = frame.walker.evaluate(spine[-1].left, frame)
    for each in reversed(spine):
        right = frame.walker.evaluate(each.right, frame)
        left = _keep(each, binary(each, left, right, frame), frame)
    return left


def binary(node: ast.Binary, left: Bound, right: Bound, frame: Frame) -> Bound:
    """Arithmetic on numbers is exact; on values it joins axes by name."""
    if isinstance(left, BlockUse) and node.op == "*":
        times = frame.whole(right, node.right, "a repetition")
        if times < 0:
            frame.fail("E233", f"a block repeated {times} times", node.right)
        return Repeated(left, times)
    if isinstance(left, Num) and isinstance(right, Num) and node.op in ARITHMETIC:
        return arithmetic(node, left, right, frame)
    a = frame.operand(left, node.left, f"the left side of '{node.op}'")
    b = frame.operand(right, node.right, f"the right side of '{node.op}'")
    if not isinstance(a, Value) and not isinstance(b, Value):
        frame.fail(
            "E213",
            f"'{node.op}' compares two numbers",
            node,
            help="a spec has no conditionals; only values are compared",
        )
    return pointwise(OPS[node.op], (a, b), node, frame)


def arithmetic(node: ast.Binary, left: Num, right: Num, frame: Frame) -> Num:
    """Two numbers."""
    roots = merge_roots(left, right)
    try:
        return Num(ARITHMETIC[node.op](left.value, right.value), roots)
    except (ZeroDivisionError, OverflowError, ValueError):
        frame.fail("E203", f"cannot compute {left} {node.op} {right}", node, *roots)


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
            if isinstance(other, Poison):
                raise Poisoned
            if other is not None:
                frame.fail("E102", f"'{text}' is not a function, it is {describe(other)}", node.callee)
            names.unknown(text, "function", frame.scope.callables(), node.callee, frame)
        case Builtin(name="stack"):
            return stacks.run(node, frame)
        case Builtin():
            return builtins.apply(target.name, node, frame)
        case Function() | SharedFunction():
            return functions.apply(target, node, frame)
        case BlockUse():
            if node.label is not None:
                frame.fail("E113", "a layer is named by its number, not by a label", node.label)
            given, _ = functions.arguments(node, target.definition.params, target.definition, frame)
            return BlockUse(target.definition, target.scope, {**target.given, **given}, node)
