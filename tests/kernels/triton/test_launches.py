"""What a model launches, noted without a device, against launches that Triton's own machinery prepares."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
from archc.backends.torch.launches import Shape, described, launched
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from archc.api import compile
from archc.diagnostics import ArchError
from archc.loading import import_project
from archc.offline import kernels
from archc.reports.compiled import table

Modules = dict[str, Any]


@pytest.fixture(scope="module")
def modules() -> Modules:
    return import_project(compile("griffin:tiny", backend="torch"), "model")


@triton.jit
def every_kind(tensors, x, flag, one, length, wide, odd, SIZE: triton.language.constexpr):  # type: ignore[no-untyped-def]
    pass


def test_a_launch_is_specialised_as_triton_does_it() -> None:
    """Types, alignment and what is one, as the runtime's own binder finds them."""
    x = torch.zeros(64, dtype=torch.bfloat16)
    args = (x.float(), x[1:]), x, None, 1, 4096, 2**31, 33
    found = described(every_kind, args, {"SIZE": 8, "num_warps": 2})
    backend = make_backend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(every_kind.signature, every_kind.params, backend)
    bound, specialisation, options = bind(*args, SIZE=8)
    _, signature, constants, attributes = every_kind._pack_args(backend, options, bound, specialisation, options)
    source = found.source
    assert source.signature == signature
    assert source.constants == constants
    assert source.attrs == {place: value for place, value in attributes.items() if value}
    assert found.options == {"num_warps": 2}


def test_every_pass_of_every_use_is_noted(modules: Modules) -> None:
    found = [
        (each.use, each.unit, each.backward, each.launch.name) for each in launched(modules, Shape(2, 1024), 90, "bf16")
    ]
    unit = "layers.0.rg_lru"
    passes = ["conv_forward", "scan_pieces", "scan_carries", "scan_forward"]
    back = ["conv_backward", "scan_backward", "scan_carries", "scan_pieces"]
    assert found[:4] == [("training", unit, False, name) for name in passes]
    assert sorted(found[4:8]) == [("training", unit, True, name) for name in back]
    assert found[8:12] == [("prefill", unit, False, name) for name in passes]
    assert found[12:] == [("one token", unit, False, name) for name in ("conv_token", "scan_forward")]


def test_launchers_see_the_chip_and_the_shapes(modules: Modules) -> None:
    """Many programs take one piece of time and the tile for them; the type of computation is that of the weights."""
    found = {
        each.launch.name: each.launch for each in launched(modules, Shape(512, 1024), 80, "fp16") if not each.backward
    }
    assert "scan_pieces" not in found
    one = found["scan_forward"]
    assert one.types["xs"] == ("*fp16",) * 4
    assert sorted(one.types["ws"]) == ["*fp16", "*fp16", "*fp32", "*fp32"]
    tile = modules["kernels.gated_tiles"].tile_of("one token", 80, 512 * 4)
    assert {name: one.constants[name] for name in tile.sizes} == tile.sizes


def test_nothing_is_left_behind(modules: Modules) -> None:
    launched(modules, Shape(1, 64), 90, "bf16")
    assert not modules["kernels.operators"].INTERPRETED
    assert not torch.zeros(1).is_cuda
    assert modules["model"].Model().E.dtype == torch.float32


def test_a_model_s_kernels_are_told_as_table_and_data() -> None:
    names = {"conv_forward", "conv_backward", "conv_token", "scan_forward", "scan_backward"}
    found = kernels("hawk:tiny", "sm_90", {}, batch=1, seq=64, dtype="bf16")
    assert {row.kernel for row in found.kernels} == names
    text = table(found)
    assert "hawk:tiny for sm_90, 1 x 64 tokens in bf16" in text
    for row in json.loads(json.dumps(found.data))["kernels"]:
        assert f"{row['instructions']:,}" in text
        assert row["limit"] in text
        assert row["registers"] <= 255


def refused(spec: str, target: str) -> str:
    with pytest.raises(ArchError) as found:
        kernels(spec, target, {}, batch=1, seq=64, dtype="bf16")
    return str(found.value)


def test_a_model_without_kernels_is_told_so() -> None:
    assert "error[E614]: 'llama:tiny' starts no kernel on sm_90" in refused("llama:tiny", "sm_90")


@pytest.mark.parametrize(("target", "framework", "extra"), [("sm_90", "triton", "torch"), ("tpu", "jax", "jax")])
def test_a_missing_framework_is_told_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, target: str, framework: str, extra: str
) -> None:
    find: Callable[[str], object] = lambda name: None if name == framework else object()  # noqa: E731
    monkeypatch.setattr("archc.runs.find_spec", find)
    said = refused("griffin:tiny", target)
    assert f"error[E608]: {framework} is not installed" in said
    assert f"pip install 'archc[{extra}]'" in said
