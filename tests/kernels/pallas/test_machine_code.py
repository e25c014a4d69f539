"""The kernels for GPUs, compiled by Triton to machine code on a machine without one: they fit into registers.

What jaxlib hands to its own Triton is a module in bytecode; printed as text it is read by the Triton that is installed.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from tests.kernels.pallas.test_lowering import (
    chunked_gated,
    chunked_key_gated,
    chunked_normalised,
    convolution,
    in_groups,
    selective,
    single_precision,  # noqa: F401
)

triton = pytest.importorskip("triton")
SIZE = (2, 1024, 640)


def calls(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                if inner.operation.name == "stablehlo.custom_call":
                    yield inner.attributes["mhlo.backend_config"]
                yield from calls(inner.operation)


def text(bytecode: bytes) -> str:
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir
    from jaxlib.triton import dialect

    with mlir.make_ir_context() as context:
        dialect.register_dialect(context)
        return ir.Module.parse(bytecode).operation.get_asm(enable_debug_info=False)


def stack(config: Any, folder: Path, chip: int = 90) -> int:
    """Bytes of registers that a thread of this kernel spills on a chip, by its capability: an H100."""
    from triton.backends.compiler import GPUTarget

    source, code = folder / "kernel.ttir", folder / "kernel.cubin"
    source.write_text(text(config["ir"].value_bytes))
    built = triton.compile(
        str(source),
        target=GPUTarget("cuda", chip, 32),
        options={"num_warps": int(config["num_warps"]), "num_stages": int(config["num_stages"])},
    )
    code.write_bytes(built.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", code], capture_output=True, text=True, check=True).stdout
    return max(map(int, re.findall(r"STACK:(\d+)", usage)))


@pytest.mark.parametrize("traced", [selective, in_groups, convolution])
def test_nothing_spills(kernels, tmp_path, traced):
    lowered = traced(kernels, SIZE, jnp.bfloat16, impl="gpu").lower(lowering_platforms=("cuda",))
    configs = list(calls(lowered.compiler_ir("stablehlo").operation))
    assert len(configs) == 2
    assert [stack(config, tmp_path) for config in configs] == [0, 0]


@pytest.mark.parametrize(
    ("traced", "chip", "keys"), [(chunked_gated, 80, 160), (chunked_normalised, 80, 0), (chunked_key_gated, 90, 24)]
)
def test_a_chunked_scan_with_its_equations_spills_in_the_gradient_of_keys_alone(kernels, tmp_path, traced, chip, keys):
    """And next to nothing there, of some 2,000 instructions a thread: addresses that are the same for all chunks."""
    lowered = traced(kernels, SIZE, jnp.bfloat16, impl="gpu").lower(lowering_platforms=("cuda",))
    found = {str(config["name"]).strip('"'): config for config in calls(lowered.compiler_ir("stablehlo").operation)}
    forward, *others = sorted(found)
    assert others == [f"{forward}_gradient", f"{forward}_gradient_of_queries"]
    assert [stack(found[name], tmp_path, chip) for name in (forward, others[1])] == [0, 0]
    assert stack(found[others[0]], tmp_path, chip) <= keys
