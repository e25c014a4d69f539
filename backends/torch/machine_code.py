"""What a Triton kernel asks of a GPU, without one: compiled ahead of time, read off the machine code.

Offline `ptxas` spills and Triton passes the shared memory of the chip without a word, so both are asked for here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from archc.backends.torch.chips import WARP, Limit, resident
from archc.backends.torch.rounds import results_of_a_round
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.cache import get_cache_manager

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_ALIGNED = [["tt.divisibility", 16]]
MEASURED = "resources.2.json"
"""What of a kernel is kept beside it in Triton's cache; another name whenever something else is."""

Types = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel with all that its machine code depends on.

    types: of the arguments that are passed ("*bf16", "i32", a tuple for a tuple); constants: all others. aligned:
    which of the former are known to be multiples of 16 (addresses in bytes), by place: the index of an argument, and
    that inside of it if it is a tuple. options: those of the launch, such as `num_warps`; Triton has defaults.
    """

    kernel: Any
    types: Types
    constants: Mapping[str, Any]
    aligned: frozenset[tuple[int, ...]]
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the kernel."""
        return str(self.kernel.__name__)

    @property
    def source(self) -> ASTSource:
        """What Triton compiles."""
        names = self.kernel.arg_names
        types = {name: self.types.get(name, "constexpr") for name in names}
        constants = {(names.index(name),): value for name, value in self.constants.items()}
        return ASTSource(self.kernel, types, constants, dict.fromkeys(sorted(self.aligned), _ALIGNED))

    @property
    def arguments(self) -> str:
        """What the code was made for, in words: equations, sizes, switches, types, and what is not given."""
        given = {n: v for n, v in self.constants.items() if not isinstance(v, triton.language.dtype)}
        functions = [v.__name__ for v in given.values() if isinstance(v, triton.runtime.jit.JITCallable)]
        sizes = [f"{n}={v}" for n, v in given.items() if isinstance(v, int | float) and not isinstance(v, bool)]
        switches = [n for n, v in given.items() if v is True]
        types: dict[str, list[str]] = {}
        for name, kind in self.types.items():
            kinds = kind if isinstance(kind, tuple) else (kind,)
            for each in dict.fromkeys(kinds):
                count = kinds.count(each)
                types.setdefault(each, []).append(name if count == 1 else f"{count} {name}")
        arrays = [f"{kind[1:]}: {' '.join(names)}" for kind, names in types.items() if kind[0] == "*"]
        without = [n for n, v in given.items() if v is None]
        parts = [", ".join(functions), " ".join([*sizes, *switches]), "; ".join(arrays)]
        return "; ".join([p for p in parts if p] + ([f"without {', '.join(without)}"] if without else []))

    @property
    def key(self) -> str:
        """Equal for launches with the same machine code."""
        return f"{self.source.hash()} {sorted(self.options.items())}"


@dataclass(frozen=True)
class Resources:
    """Of a thread: registers, bytes of stack, loads and stores of the loop there (spills), instructions in all and in
    the loop (in all where there is none). Of a program: warps, bytes of shared memory. Of a multiprocessor: programs at
    a time, and what allows no more. Of an element: instructions of the loop over all threads, None where it is not
    known what a round of the loop results in.
    """

    registers: int
    stack: int
    spills: int
    warps: int
    shared: int
    instructions: int
    loop: int
    programs: int
    limit: Limit
    per_element: float | None


def compiled(launch: Launch, arch: int) -> Any:
    """The kernel for a compute capability (90: Hopper) as Triton's `CompiledKernel`; its `asm` has every stage.

    It is kept in Triton's cache, under the hash of sources, options and target.
    """
    options = {"enable_fp_fusion": True, **launch.options}
    return triton.compile(launch.source, target=GPUTarget("cuda", arch, WARP), options=options)


def resources(launch: Launch, arch: int) -> Resources:
    """Compiles and measures; both results are kept in Triton's cache."""
    kernel = compiled(launch, arch)
    cache = get_cache_manager(kernel.hash)
    kept = cache.get_file(MEASURED)
    if kept is None:
        code = _tool("nvdisasm", "-c", kernel.asm["cubin"])
        whole, loop = len(_INSTRUCTION.findall(code)), largest_loop(code)
        spills = sum(_SPILL.search(line) is not None for line in loop)
        counts = [*_usage(kernel.asm["cubin"]), spills, whole, len(loop) or whole]
        kept = cache.put(json.dumps(counts), MEASURED, binary=False)
    registers, stack, spills, instructions, length = json.loads(Path(kept).read_text("utf-8"))
    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
    results = results_of_a_round(launch.name, launch.constants)
    per_element = None if results is None else round(length * warps * WARP / results, 1)
    room = resident(arch, registers, shared, warps)
    return Resources(registers, stack, spills, warps, shared, instructions, length, *room, per_element)


def largest_loop(code: str) -> list[str]:
    """The instructions of the largest loop in disassembled code, none if nothing branches back."""
    places: dict[str, int] = {}
    lines: list[str] = []
    longest: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            places[label[1]] = len(lines)
        elif _INSTRUCTION.match(line):
            lines.append(line)
            target = re.search(r"BRA.*`\((\.L_\w+)\)", line)
            if target and target[1] in places:
                longest = max(longest, lines[places[target[1]] :], key=len)
    return longest if len(longest) > 1 else []  # code ends in a branch to itself


_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+\S.*;", re.MULTILINE)
_SPILL = re.compile(r"\b(?:LDL|STL)\b")


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    found = re.search(r"REG:(\d+) STACK:(\d+)", _tool("cuobjdump", "-res-usage", cubin))
    assert found is not None
    return int(found[1]), int(found[2])


def _tool(name: str, flag: str, cubin: bytes) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([_TOOLS / name, flag, path], check=True, capture_output=True, text=True).stdout
