"""What PyTorch calls things."""

from __future__ import annotations

from collections.abc import Sequence

from archc.emit.code import Code, call, infix, method

FUNCTIONS = {
    "exp": "torch.exp", "expm1": "torch.expm1", "log": "torch.log", "log1p": "torch.log1p", "sqrt": "torch.sqrt",
    "rsqrt": "torch.rsqrt", "abs": "torch.abs", "sign": "torch.sign", "sin": "torch.sin", "cos": "torch.cos",
    "tanh": "torch.tanh", "erf": "torch.erf", "sigmoid": "torch.sigmoid", "silu": "F.silu", "gelu": "F.gelu",
    "relu": "F.relu", "softplus": "F.softplus", "log_sigmoid": "F.logsigmoid", "inv_softplus": "inv_softplus",
}  # fmt: skip


def _tuple(sizes: Sequence[Code]) -> str:
    return "(" + ", ".join(s.text for s in sizes) + ")"


def _dims(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else "(" + ", ".join(map(str, axes)) + ")"


class TorchDialect:
    """See `archc.emit.dialect.Dialect`."""

    name = "torch"
    method = "forward"
    state_arguments: tuple[str, ...] = ("batch", "context", "dtype", "device")

    own_norms = True
    own_affine = True

    def norm(
        self, kind: str, value: Code, sizes: Sequence[Code], scale: Code | None, shift: Code | None, eps: Code
    ) -> Code:
        """`F.rms_norm`, `F.layer_norm`: statistics in single precision, the result like the input."""
        shape = "(" + ", ".join(s.text for s in sizes) + ("," if len(sizes) == 1 else "") + ")"
        weights = {k: v for k, v in (("weight", scale), ("bias", shift)) if v is not None}
        return call(f"F.{kind}_norm", value, shape, **weights, eps=eps)

    def affine(self, x: Code, matrix: Code, turned: bool, bias: Code) -> Code:
        """`x @ matrix + bias`; `F.linear` takes the transpose of its matrix."""
        return call("F.linear" if turned else "affine", x, matrix, bias)

    def weight(self, name: str) -> Code:
        """A weight of this module."""
        return Code(f"self.{name}")

    def cast(self, value: Code, like: Code) -> Code:
        """The value in the element type of another."""
        return method(value, "to", f"{like.atom}.dtype")

    def function(self, name: str, value: Code) -> Code:
        """An element-wise function of one value, by the name of its op."""
        match name:
            case "gelu_tanh":
                return call("F.gelu", value, approximate='"tanh"')
            case "not":
                return Code(f"~{value.atom}", 80)
            case "real" | "imag":
                return Code(f"{value.atom}.{name}")
            case "log_sigmoid":
                return call("F.logsigmoid", value)
        return call(FUNCTIONS[name], value)

    def two(self, name: str, left: Code, right: Code) -> Code:
        """`minimum`, `maximum`, `complex`; one of the two may be a number, of `complex` both."""
        numbers = [c.plain or c.number is not None for c in (left, right)]
        if name == "complex" and any(numbers):
            return infix("+", left, infix("*", Code("1j"), right))
        if any(numbers):
            value, number = (right, left) if numbers[0] else (left, right)
            return method(value, "clamp", **{"min" if name == "maximum" else "max": number})
        return call(f"torch.{name}", left, right)

    def where(self, condition: Code, yes: Code, no: Code) -> Code:
        """Element-wise choice."""
        return call("torch.where", condition, yes, no)

    def compared(self, value: Code) -> Code:
        """A side of a comparison."""
        return value

    def logic(self, name: str, left: Code, right: Code) -> Code:
        """`and`, `or`."""
        return infix("&" if name == "and" else "|", left, right)

    def einsum(self, spec: str, *values: Code) -> Code:
        """A contraction in letters."""
        return call("torch.einsum", f'"{spec}"', *values)

    def flatten(self, value: Code, count: int, after: int = 0) -> Code:
        """The last `count` axes, before `after` more, as one."""
        return method(value, "flatten", str(-count - after), *([str(-after - 1)] if after else []))

    def unflatten(self, value: Code, axis: int, sizes: Sequence[Code]) -> Code:
        """One axis as several."""
        return method(value, "unflatten", str(axis), _tuple(sizes))

    def unsqueeze(self, value: Code, axis: int) -> Code:
        """A new axis of size 1 at a place."""
        return method(value, "unsqueeze", str(axis))

    def squeeze(self, value: Code, axis: int) -> Code:
        """Without the axis of size 1 at a place."""
        return method(value, "squeeze", str(axis))

    def reshape_tail(self, value: Code, sizes: Sequence[str]) -> Code:
        """[B, T, ...] with other axes after time."""
        return method(value, "reshape", f"*{value.atom}.shape[:2]", *sizes)

    def move_axes(self, value: Code, places: str, targets: str) -> Code:
        """Axes to other places."""
        return method(value, "movedim", places, targets)

    def reduce(self, name: str, value: Code, axes: Sequence[int]) -> Code:
        """`sum`, `mean`, `max`, `min` over axes."""
        return method(value, {"max": "amax", "min": "amin"}.get(name, name), _dims(axes))

    def softmax(self, value: Code, axes: Sequence[int]) -> Code:
        """Softmax over axes, in single precision."""
        if len(axes) > 1:
            return call("softmax_over", value, _dims(axes))
        return method(call("fp32", value), "softmax", _dims(axes))

    def cumsum(self, value: Code, axis: int) -> Code:
        """Running sum."""
        return method(value, "cumsum", str(axis))

    def argmax(self, value: Code, axis: int) -> Code:
        """Index of the largest, in the four bytes in which whole numbers are remembered."""
        return method(method(value, "argmax", str(axis)), "to", "torch.int32")

    def top(self, value: Code, k: Code, axis: int) -> Code:
        """True at the k largest."""
        return call("top", value, k, str(axis))

    def pieces(self, value: Code, sizes: Sequence[Code], axis: int) -> Code:
        """An axis cut into pieces."""
        return method(value, "split", f"[{', '.join(s.text for s in sizes)}]", str(axis))

    def slice(self, value: Code, start: Code, stop: Code, axis: int) -> Code:
        """A stretch of an axis."""
        return Code(f"{value.atom}[{', '.join(['...', f'{start.text}:{stop.text}', *[':'] * (-axis - 1)])}]")

    def concat(self, values: Sequence[Code], axis: int) -> Code:
        """Values side by side along an axis."""
        return call("torch.cat", f"[{', '.join(v.text for v in values)}]", str(axis))

    def stack(self, values: Sequence[Code]) -> Code:
        """Values along a new last axis."""
        return call("torch.stack", f"torch.broadcast_tensors({', '.join(v.text for v in values)})", "-1")

    def arange(self, size: Code, like: Code | None) -> Code:
        """0, 1, ... in single precision, beside another value."""
        where = {"device": f"{like.atom}.device"} if like is not None else {}
        return call("torch.arange", size, dtype="torch.float32", **where)

    def lookup(self, table: Code, index: Code) -> Code:
        """Rows of a table."""
        return call("F.embedding", index, table)

    def reduce_time(self, name: str, value: Code, rank: int) -> Code:
        """A reduction over the whole sequence."""
        return method(value, {"max": "amax", "min": "amin"}.get(name, name), "1")

    def broadcast(self, value: Code, like: Code) -> Code:
        """The value repeated to the shape of another."""
        return method(value, "expand", f"{like.atom}.shape")

    def over_time(self, value: Code, like: Code, sizes: Sequence[Code]) -> Code:
        """A value without time, repeated to [B, T, sizes] with the batch and time of another."""
        shape = f"*{like.atom}.shape[:2], {', '.join(s.text for s in sizes)}"
        if value.text.replace(".", "").isdigit() or value.text.startswith("math."):
            return Code(f"torch.full(({shape}), {value.text}, device={like.atom}.device)")
        return Code(f"{value.atom}.expand({shape})")

    def start(self, value: Code, like: Code, sizes: Sequence[Code]) -> Code:
        """A number or a weight as the start of a state: [B, sizes], in at least single precision."""
        shape = ", ".join(["len(" + like.text + ")", *(s.text for s in sizes)])
        wide = f"torch.promote_types({like.atom}.dtype, torch.float32)"
        if value.text.lstrip("-").isdigit():
            return Code(f"{like.atom}.new_full(({shape}), {value.text}, dtype={wide})")
        return Code(f"{value.atom}.expand({shape}).to({wide})")

    def filled(self, sizes: Sequence[Code], number: Code) -> Code:
        """A new weight full of one number."""
        shape = ", ".join(s.text for s in sizes)
        if number.text in ("0", "1"):
            return call("torch.zeros" if number.text == "0" else "torch.ones", shape or "()")
        return call("torch.full", _tuple(sizes) if len(sizes) != 1 else f"({sizes[0].text},)", number.as_float)

    def random(self, how: str, sizes: Sequence[Code], params: Sequence[Code]) -> Code:
        """A new weight: `normal`, `uniform`, `log_uniform`, `orthogonal`."""
        shape = ", ".join(s.text for s in sizes) or "()"
        match how:
            case "normal":
                normal = call("torch.randn", shape)
                return infix("*", params[0], normal) if params and params[0].text != "1" else normal
            case "uniform":
                return call(f"torch.empty({shape}).uniform_", *params)
            case "log_uniform":
                low, high = (call("math.log", p) for p in params)
                return call(f"torch.empty({shape}).uniform_({low.text}, {high.text}).exp")
        return call("orthogonal", shape, *params)

    def expanded(self, value: Code, sizes: Sequence[Code]) -> Code:
        """A value repeated to the shape of a weight, with memory of its own."""
        return Code(f"{value.atom}.expand({', '.join(s.text for s in sizes) or '()'}).clone()")

    def zeros(self, sizes: Sequence[Code], how: str) -> Code:
        """An array of a state."""
        kind = {
            "dtype": "dtype",
            "wide": "torch.promote_types(dtype, torch.float32)",
            "complex": "torch.promote_types(dtype, torch.complex64)",
            "int": "torch.int32",
            "bool": "torch.bool",
        }[how]
        return call("torch.zeros", *(s.text for s in sizes), dtype=kind, device="device")
