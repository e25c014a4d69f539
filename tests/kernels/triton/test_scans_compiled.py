"""The scans of outer products and the selective scan compiled for GPUs that are not there: registers and memory."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from kernels import chunked_key_triton, chunked_triton, selective_triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tests.kernels.triton.mamba_gates import gates, gates_grad, read, read_grad  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SMALL_SHARED = 101376  # bytes that a program may have on GPUs of capability 8.6, 8.9 and 12.0, the least there are
ALMOST = 256  # bytes of stack of a thread, in versions 3.6 to 3.9 of Triton; a kernel gone wrong has thousands


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.9 wants to be told whether to fuse multiplications and additions."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")


def resources(kernel: Any, arch: int, warps: int, stages: int = 1, **arguments: Any) -> dict[str, int]:
    """Registers, bytes of stack and bytes of shared memory; types of arguments are strings, constants anything else."""
    types = {n: v if _is_type(v) else "constexpr" for n, v in arguments.items()}
    places = {name: i for i, name in enumerate(kernel.arg_names)}
    constants = {(places[n],): v for n, v in arguments.items() if types[n] == "constexpr"}
    aligned = [(places[n],) for n, v in types.items() if v[0] == "*" or n in ("channels", "heads", "K", "V")]
    aligned += [(places[n], i) for n, v in types.items() if isinstance(v, tuple) for i in range(len(v))]
    source = ASTSource(
        fn=kernel,
        signature={n: types[n] for n in kernel.arg_names},
        constexprs=constants,
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": warps, "num_stages": stages}
    done = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = {name: int(count) for name, count in re.findall(r"(REG|STACK):(\d+)", usage.stdout)}
    return {**found, "SHARED": done.metadata.shared}


def _is_type(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_type, value))
    return isinstance(value, str) and (value[0] == "*" or value == "i32")


def selective(states: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the forward and of the backward kernel, for Mamba's gates in bfloat16."""
    halves, single = dict.fromkeys(("keys", "queries", "y", "dy"), "*bf16"), "*fp32"
    both = {
        "xs": ("*bf16",) * 3, "ws": (single,) * 2, "A": single, "keys": "*bf16", "queries": "*bf16", "pos": "*i32",
        "carries": single, "time": "i32", "channels": "i32", "STATES": states, "GATES": gates, "PACKED": True,
        "SIZE": size, "CHUNK": 32, "BLOCK": 4, "ACC": tl.float32, "FAST": True,
    }  # fmt: skip
    forward = {"state": single, "y": halves["y"], "last": single, "OUT": read, "CONTINUED": True, "KEEP": True}
    backward = {
        **dict.fromkeys(("dA", "dkeys", "dqueries", "dstate", "notes", "reads"), single), "dy": halves["dy"],
        "dxs": ("*bf16",) * 3, "dws": (single,) * 2, "GROUP": 4, "GATES_GRAD": gates_grad, "OUT_GRAD": read_grad,
    }  # fmt: skip
    return both | forward, both | backward


@pytest.mark.parametrize(
    ("arch", "size", "registers"),
    [(80, 64, (168, 255)), (90, 64, (128, 255)), (100, 64, (136, 255)), (90, 32, (72, 168))],
)
def test_the_selective_scan_lives_in_registers(arch: int, size: int, registers: tuple[int, int]) -> None:
    kernels = selective_triton.selective_forward, selective_triton.selective_backward
    for kernel, arguments, limit in zip(kernels, selective(16, size), registers, strict=True):
        found = resources(kernel, arch, 1, **arguments)
        assert found["STACK"] <= 16
        assert found["REG"] <= limit
        assert found["SHARED"] == 0


def chunked(keys: int, values: int) -> dict[str, dict[str, Any]]:
    """The arguments of the three kernels in bfloat16; values: of a slice."""
    both = {
        "log_a": "*fp32", **dict.fromkeys(("k", "v", "q"), "*bf16"), "pos": "*i32", "PACKED": True, "CONTINUED": True,
        **dict.fromkeys(("time", "heads", "K", "V", "k_heads", "q_heads"), "i32"), "Q": 64, "BK": keys, "BV": values,
        "DOT": tl.bfloat16, "ACC": tl.float32, "LEAST": -104.0, "PRECISION": "ieee",
    }  # fmt: skip
    back = {"dy": "*bf16", "shares": "*fp32"}
    return {
        "chunked_forward": {**both, "state": "*fp32", "y": "*bf16", "last": "*fp32"},
        "chunked_backward_queries": {**both, **back, "state": "*fp32", "dq": "*bf16"},
        "chunked_backward_keys": {**both, **back, "dlast": "*fp32", "dk": "*bf16", "dv": "*bf16", "dstate": "*fp32"},
    }


@pytest.mark.parametrize(("arch", "keys", "values"), [(80, 128, 32), (90, 128, 32), (90, 64, 64), (100, 128, 32)])
def test_the_chunks_and_the_state_almost_live_in_registers(arch: int, keys: int, values: int) -> None:
    for name, arguments in chunked(keys, values).items():
        warps = 4 if name == "chunked_forward" and keys <= 64 else 8
        found = resources(getattr(chunked_triton, name), arch, warps, stages=2, **arguments)
        assert found["STACK"] <= ALMOST
        assert found["SHARED"] <= SMALL_SHARED


@pytest.mark.parametrize("arch", [80, 90])
def test_decays_of_keys_take_little_memory(arch: int) -> None:
    for name, arguments in chunked(128, 32).items():
        arguments |= {"Q": 16, **{name: "*fp32" for name in ("dq", "dk") if name in arguments}}
        arguments = {n: v for n, v in arguments.items() if n not in ("LEAST", "shares")}
        kernel = getattr(chunked_key_triton, name.replace("chunked_", "chunked_key_"))
        found = resources(kernel, arch, 8, stages=2, **arguments)
        assert found["STACK"] <= ALMOST
        assert found["SHARED"] <= 1 << 14
