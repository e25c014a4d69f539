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
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.cache import get_cache_manager

WARP = 32
REGISTERS = 65536  # of a multiprocessor, on every chip below
ALLOCATED = 256  # registers come to a warp in such pieces
RESERVED = 1024  # bytes of shared memory that each program costs beside its own
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

Types = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Chip:
    """Limits by compute capability: bytes of shared memory for a program and for a multiprocessor, warps, programs."""

    shared: int
    shared_all: int
    warps: int
    programs: int


# CUDA C++ Programming Guide 13.0, table of technical specifications per compute capability.
CHIPS = {
    80: Chip(166912, 167936, 64, 32),
    89: Chip(101376, 102400, 48, 24),
    90: Chip(232448, 233472, 64, 32),
    100: Chip(232448, 233472, 64, 32),
}


@dataclass(frozen=True)
class Launch:
    """A kernel with all that its machine code depends on.

    types: of the arguments that are passed ("*bf16", "i32", a tuple for a tuple); constants: all others. Arrays are
    taken to begin at multiples of 16 bytes, and the arguments `aligned` to be multiples of 16. elements: results of one
    round of the kernel's loop.
    """

    kernel: Any
    types: Types
    constants: Mapping[str, Any]
    warps: int
    elements: int
    aligned: frozenset[str] = frozenset({"C"})


@dataclass(frozen=True)
class Resources:
    """Of a thread: registers, bytes of stack (spills), instructions in all and in the loop. Of a program: bytes of
    shared memory. Of a multiprocessor: programs at a time. Of an element: instructions of the loop, over all threads.
    """

    registers: int
    stack: int
    shared: int
    instructions: int
    loop: int
    programs: int
    per_element: float


def compiled(launch: Launch, arch: int) -> Any:
    """The kernel for a compute capability (90: Hopper) as Triton's `CompiledKernel`; its `asm` has every stage."""
    names = launch.kernel.arg_names
    types = {name: launch.types.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in launch.constants.items()}
    source = ASTSource(launch.kernel, types, constants, _alignment(launch, names))
    options = {"num_warps": launch.warps, "num_stages": 1, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", arch, WARP), options=options)


def resources(launch: Launch, arch: int) -> Resources:
    """Compiles and measures; both results are kept in Triton's cache, under the hash of sources, options and target."""
    kernel = compiled(launch, arch)
    cache = get_cache_manager(kernel.hash)
    kept = cache.get_file("resources.json")
    if kept is None:
        code = _tool("nvdisasm", "-c", kernel.asm["cubin"])
        counts = [*_usage(kernel.asm["cubin"]), len(_INSTRUCTION.findall(code)), loop_length(code)]
        kept = cache.put(json.dumps(counts), "resources.json", binary=False)
    registers, stack, instructions, loop = json.loads(Path(kept).read_text("utf-8"))
    shared = kernel.metadata.shared
    programs = resident(arch, registers, shared, launch.warps)
    per_element = round(loop * launch.warps * WARP / launch.elements, 1)
    return Resources(registers, stack, shared, instructions, loop, programs, per_element)


def resident(arch: int, registers: int, shared: int, warps: int) -> int:
    """Programs that a multiprocessor holds at a time; 0 if one of them does not fit.

    >>> resident(90, 168, 2048, 4)
    3
    """
    chip = CHIPS[arch]
    if shared > chip.shared:
        return 0
    of_warp = -(-registers * WARP // ALLOCATED) * ALLOCATED
    by_registers = REGISTERS // of_warp // warps
    return min(by_registers, chip.shared_all // (shared + RESERVED), chip.warps // warps, chip.programs)


def scan_launches(
    tiles: ModuleType, code: ModuleType, gates: Any, inputs: int, weights: int, arch: int, kind: str = "bf16"
) -> dict[str, Launch]:
    """Every pass of a gated scan over packed documents, at the tiles it is started with.

    tiles, code: the project's modules `kernels.gated_tiles` and `kernels.gated_launch`; gates: one of its `Gates`;
    inputs, weights: how many these have; kind: the type of the inputs.
    """
    x = f"*{kind}"
    shared: Types = {"xs": (x,) * inputs, "ws": ("*fp32",) * weights, "pos": "*i32", "T": "i32", "C": "i32", "L": "i32"}
    states: Types = {"y": x, "carries": "*fp32", "last": "*fp32"}
    gradients: Types = {"dxs": (x,) * inputs, "dws": ("*fp32",) * weights, "carries": "*fp32", "leaving": "*fp32"}
    pieces: Types = {"decays": "*fp32", "ends": "*fp32"}
    out, out_grad = (gates.read.device, gates.read.grad) if gates.read else (None, None)
    start = {"starts": None, "OUT": out}
    end, span = {"D": gates.grad, "OUT_GRAD": out_grad, "ends": None}, {"SPAN": tiles.SPAN}
    behind = {"OUT_GRAD": out_grad, "states": None}
    few, many = 0, tiles.MANY

    def launch(kernel: Any, types: Types, constants: Mapping[str, Any], kind: str, programs: int) -> Launch:
        tile = tiles.tile_of(kind, arch, programs)
        constants = {"G": gates.device, "ACC": triton.language.float32, **tile.sizes, **constants}
        return Launch(kernel, {**shared, **types}, constants, tile.warps, tile.tokens * tile.channels)

    return {
        "forward, few": launch(code.scan_forward, states, {**start, **span}, "forward", few),
        "forward, many": launch(code.scan_forward, states, {**start, **span}, "forward", many),
        "one token": launch(code.scan_forward, states, {**start, **span}, "one token", many),
        "backward": launch(code.scan_backward, {**gradients, "dy": x}, {**end, **span}, "backward", few),
        "pieces": launch(code.scan_pieces, pieces, {**behind, "dy": None}, "pieces", few),
        "pieces back": launch(code.scan_pieces, {**pieces, "dy": x}, behind, "pieces", few),
    }


def conv_launches(conv: ModuleType, taps: int, silu: bool, kind: str = "bf16") -> dict[str, Launch]:
    """The kernels of a causal convolution with a bias; conv: the project's module `kernels.conv_fused`."""
    x = f"*{kind}"
    shared: Types = {"x": x, "w": x, "bias": x, "pos": "*i32", "T": "i32", "C": "i32", "L": "i32"}
    constants = {"PAST": 0, "TAPS": taps, "SILU": silu, **conv.sizes(), "ACC": triton.language.float32}
    elements = constants["K"] * constants["S"] * constants["BC"]
    sums: Types = {"dy": x, "dx": x, "dw": "*fp32", "dbias": "*fp32"}
    return {
        "forward": Launch(conv.conv_forward, {**shared, "y": x}, constants, conv.WARPS, elements),
        "backward": Launch(conv.conv_backward, {**shared, **sums}, constants, conv.WARPS, elements),
    }


def loop_length(code: str) -> int:
    """Instructions of the largest loop in disassembled code, all of it if nothing branches back."""
    places: dict[str, int] = {}
    count, longest = 0, 0
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            places[label[1]] = count
        elif _INSTRUCTION.match(line):
            count += 1
            target = re.search(r"BRA.*`\((\.L_\w+)\)", line)
            if target and target[1] in places:
                longest = max(longest, count - places[target[1]])
    return longest if longest > 1 else count


_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+\S.*;", re.MULTILINE)


def _alignment(launch: Launch, names: list[str]) -> dict[tuple[int, ...], list[list[Any]]]:
    places: list[tuple[int, ...]] = []
    for index, name in enumerate(names):
        kind = launch.types.get(name, "")
        if isinstance(kind, tuple):
            places += [(index, each) for each in range(len(kind))]
        elif kind.startswith("*") or name in launch.aligned:
            places.append((index,))
    return {place: [["tt.divisibility", 16]] for place in places}


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
