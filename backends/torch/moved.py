"""What a Triton kernel loads and stores, counted in its intermediate code: bytes by argument, loop by loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from archc.backends.torch.machine_code import Launch, compiled

_NAME = r"%[\w$.-]+(?:#\d+)?"
_LOOP = re.compile(r"\b(?:scf\.for|scf\.while)\b")
_CARRIED = re.compile(rf"({_NAME}) = ({_NAME})[,)]")
_ACCESS = re.compile(rf"tt\.(load|store) ({_NAME}).* : (?:tensor<([\dx]+)x)?!tt\.ptr<(\w+)>")
_MADE = re.compile(rf"^\s*({_NAME}) = (?:tt|arith)\.(\w+) ({_NAME})")
_THROUGH = frozenset({"addptr", "splat", "broadcast", "expand_dims", "bitcast", "reshape", "trans"})
"""Ops whose first operand is the pointer that they give back in another place or shape."""
BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "i1": 1, "i8": 1, "i32": 4, "i64": 8}


@dataclass(frozen=True)
class Access:
    """A load or a store: of which argument, of how many elements of how many bytes each, mask or no mask; and in which
    loops it stands, the outermost first, each by its place in the text (0 is the first)."""

    stores: bool
    argument: str
    elements: int
    width: int
    loops: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of one execution by one program."""
        return self.elements * self.width


def accesses(launch: Launch, arch: int) -> tuple[Access, ...]:
    """Every load and store of a kernel, as Triton has it before it lays tiles out over threads.

    What nothing reads is gone by then, and what is surely the same value is loaded once.
    """
    code = compiled(launch, arch).asm["ttir"]
    return tuple(_accesses(code.splitlines(), [name for name, kind in _flat(launch)]))


def _flat(launch: Launch) -> Iterator[tuple[str, str]]:
    """The arguments in the order of the code; those of a tuple one by one: "xs 0"."""
    for name in launch.kernel.arg_names:
        kind = launch.types.get(name, ())
        if isinstance(kind, str):
            yield name, kind
        else:
            yield from ((f"{name} {i}", each) for i, each in enumerate(kind) if each != "constexpr")


def _accesses(lines: list[str], names: list[str]) -> Iterator[Access]:
    made: dict[str, str] = {}
    loops: list[tuple[int, int]] = []  # the number of a loop, and how deep the braces are around it
    seen = depth = 0
    for line in lines:
        if "tt.func public" in line:
            made |= dict(zip(re.findall(rf"({_NAME}):", line), names, strict=True))
        line = re.sub(r"\s*loc\(.*", "", line)
        if _LOOP.search(line):
            loops.append((seen, depth))
            seen += 1
            made |= {inner: _source(made, outer) for inner, outer in _CARRIED.findall(line)}
        if found := _ACCESS.search(line):
            kind, pointer, shape, width = found.groups()
            size = prod(map(int, shape.split("x"))) if shape else 1
            places = tuple(number for number, _ in loops)
            yield Access(kind == "store", _source(made, pointer), size, BYTES[width], places)
        elif (step := _MADE.match(line)) and step[2] in _THROUGH:
            made[step[1]] = _source(made, step[3])
        depth += line.count("{") - line.count("}")
        while loops and depth <= loops[-1][1]:
            loops.pop()


def _source(made: dict[str, str], name: str) -> str:
    """The argument that a pointer comes from; of anything else its own name."""
    return made.get(name, name)
