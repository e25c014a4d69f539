"""Python expressions as text that knows how tightly it binds, so that parentheses stand where they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from keyword import iskeyword

ATOM, POWER, UNARY, PRODUCT, SUM, BITS_AND, BITS_OR, COMPARE = 100, 90, 80, 70, 60, 50, 45, 40

_BINARY = {
    "**": POWER, "*": PRODUCT, "/": PRODUCT, "//": PRODUCT, "@": PRODUCT, "+": SUM, "-": SUM, "&": BITS_AND, "|":
    BITS_OR,
    "==": COMPARE, "!=": COMPARE, "<": COMPARE, "<=": COMPARE, ">": COMPARE, ">=": COMPARE,
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """An expression, the level of its outermost operator, and the operator itself if it takes two values.

    `plain`: a number of Python, though perhaps only a name of one.
    """

    text: str
    level: int = ATOM
    op: str = ""
    plain: bool = False

    def at(self, level: int) -> str:
        """The text, in parentheses if it binds less tightly than `level`."""
        return self.text if self.level >= level else f"({self.text})"

    @property
    def number(self) -> float | None:
        """The value of a literal number; None for any other expression."""
        try:
            return float(self.text)
        except ValueError:
            return None

    @property
    def as_float(self) -> Code:
        """A number as a floating-point one."""
        return Code(f"float({self.text})") if self.number is None else Code(repr(self.number))

    @property
    def atom(self) -> str:
        """The text as something that can be called, indexed or dotted."""
        return self.at(ATOM)


def infix(op: str, left: Code, right: Code) -> Code:
    """`left op right` with the parentheses that Python needs.

    A matrix product is always set apart: `(a * b) @ W`, since Python would read `a * b @ W` from the left as well
    but a reader would not.
    """
    level = _BINARY[op]
    if op == "**":
        return Code(f"{left.at(ATOM)} ** {right.at(UNARY)}", level, op)
    if level == COMPARE:
        return Code(f"{left.at(BITS_OR)} {op} {right.at(BITS_OR)}", level, op)
    first, second = left.at(level), right.at(level + 1)
    if level == PRODUCT and left.level == PRODUCT and (op == "@") != (left.op == "@"):
        first = f"({left.text})"
    return Code(f"{first} {op} {second}", level, op)


def minus(value: Code) -> Code:
    """`-value`."""
    return Code(f"-{value.at(UNARY)}", UNARY)


def call(function: str, *args: Code | str, **named: Code | str) -> Code:
    """`function(args, name=value)`."""
    parts = [a.text if isinstance(a, Code) else a for a in args]
    parts += [f"{k}={v.text if isinstance(v, Code) else v}" for k, v in named.items()]
    return Code(f"{function}({', '.join(parts)})")


def method(value: Code, name: str, *args: Code | str, **named: Code | str) -> Code:
    """`value.name(args)`."""
    return call(f"{value.atom}.{name}", *args, **named)


def camel(name: str) -> str:
    """`rg_lru` as a class name.

    >>> [camel(name) for name in ("rg_lru", "_", "_2d")]
    ['RgLru', 'X', 'X2d']
    """
    found = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return found if found.isidentifier() else f"X{found}"


METHODS = frozenset("state old new pos rows program step inputs states keys tokens".split())
"""Variables of methods and functions."""
RESERVED = METHODS | frozenset(
    """
    self pattern replaced rngs remat unroll math torch jax jnp nn nnx F checkpoint
    len min max int float abs range enumerate super
    affine fp32 inv_softplus power root softmax_over softmax_keys orthogonal top causal_conv prev scan maxscan
    selective_scan long_convolution chunked_scan chunked_key_scan delta_scan normalised_chunked_scan gated_scan
    gated_complex_scan joined_parts gated_selective_scan
    gated_chunked_scan gated_chunked_key_scan gated_normalised_scan attention bidirectional_attention
    composed_attention loop over_buckets over_rows remember unflatten
    Frozen Layers stacked single
    """.split()
)
"""What the emitted text calls things by itself."""
HANDED = frozenset("layer part i batch context dtype device".split())
"""What the methods use that hand values of the model to layers."""


def handed_name(name: str) -> str:
    """A value of the model, a stream or a shared fn as layers are given it."""
    found = python_name(name)
    return f"{found}_" if found.rstrip("_") in HANDED else found


def number_name(name: str) -> str:
    """A number of the spec as a variable of a constructor."""
    return name if name in METHODS else python_name(name)


def python_name(name: str) -> str:
    """A name of the spec as a variable: none that the emitted text uses itself, different ones for different names."""
    if name.startswith("__") or not name.strip("_"):
        return f"x{name}"  # Python changes such names inside of classes, the text throws `_` away
    plain = name.rstrip("_")
    return f"{name}_" if plain in RESERVED or iskeyword(plain) else name
