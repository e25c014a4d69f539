"""The Pallas kernels of a project, found by tracing its model, and what the compilers of their machines say of them.

Nothing runs: JAX traces the model for arrays without values as if it were on the machine, and every kernel in what it
traced is lowered by itself. Where the compiler of TPUs is installed (libtpu) it goes on to machine code.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from inspect import signature
from itertools import groupby
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType
from typing import Any, Literal
from unittest.mock import patch

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import SingleDeviceSharding

Machine = Literal["tpu", "gpu"]
PLATFORMS: Mapping[Machine, str] = {"tpu": "tpu", "gpu": "cuda"}
DTYPES = {"bf16": jnp.bfloat16, "fp16": jnp.float16, "fp32": jnp.float32}
CHIP = "v5e:2x2"
"""The TPUs to compile for, as their topologies are called."""


@dataclass(frozen=True)
class Lowered:
    """A kernel: where the model starts it first ("training", "prefill" or "one token"), the shapes of its arrays, and
    what became of it.

    lowers: to the language of the machine's compiler; compiles: to machine code, None where that was not tried;
    refused: the message if not; bundles: instructions; memory: bytes of vector memory.
    """

    use: str
    kernel: str
    shapes: str
    lowers: bool
    compiles: bool | None = None
    bundles: int | None = None
    memory: int | None = None
    refused: str = ""


def lowered(modules: Mapping[str, ModuleType], machine: Machine, batch: int, time: int, dtype: str) -> list[Lowered]:
    """Every different kernel of the project's model in training, in reading a prompt, and of a token after it."""
    notes = _notes() if machine == "tpu" and find_spec("libtpu") else None
    device = None if notes is None else _tpu()
    found: dict[str, Lowered] = {}
    with patch.object(jax, "default_backend", lambda: machine):
        for use, traced in _runs(modules["model"].Model, batch, time, DTYPES[dtype]):
            for call in _kernels(traced.jaxpr):
                key = f"{call.params['jaxpr']} {call.params['grid_mapping']} {_shapes(call)}"
                if key not in found:
                    found[key] = _lowered(use, call, machine, device, notes)
    return list(found.values())


def _runs(model: Any, batch: int, time: int, dtype: Any) -> Iterator[tuple[str, ClosedJaxpr]]:
    """What the model does, as JAX traces it."""
    parts: Any = nnx.split(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))), nnx.Param, ...)
    graph, params, rest = parts
    params = _cast(params, model.FP32, dtype)
    ints = _array((batch, time), jnp.int32)
    inputs = [ints for name in signature(model.__call__).parameters if name not in ("self", "pos")]

    def loss(params: Any, rest: Any, inputs: Any, pos: jax.Array) -> Any:
        return _first(nnx.merge(graph, params, rest)(*inputs, pos=pos)).sum()

    yield "training", jax.make_jaxpr(jax.grad(loss))(params, rest, inputs, ints)
    if "step" not in vars(model):
        return
    empty = jax.eval_shape(lambda p, r: nnx.merge(graph, p, r).init_state(batch, time, dtype), params, rest)

    def step(params: Any, rest: Any, inputs: Any, state: Any) -> Any:
        return nnx.merge(graph, params, rest).step(*inputs, state)

    for use, count in (("prefill", time), ("one token", 1)):
        tokens = [_array((batch, count), jnp.int32) for _ in inputs]
        yield use, jax.make_jaxpr(step)(params, rest, tokens, empty)


def _array(shape: tuple[int, ...], dtype: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # type: ignore[no-untyped-call]


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _cast(params: Any, wide: Iterable[str], dtype: Any) -> Any:
    """The weights in the type of computation, as in training: those that the spec computes in single precision stay."""
    kept = tuple(f".{name}" for name in wide)

    def cast(path: Any, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = "." + jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        return x if name.endswith(kept) else _array(x.shape, dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def _kernels(traced: Jaxpr) -> Iterator[Any]:
    """The calls of kernels in a program and in the programs inside of it."""
    for equation in traced.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                match inner:
                    case ClosedJaxpr():
                        yield from _kernels(inner.jaxpr)
                    case Jaxpr():
                        yield from _kernels(inner)


def _shapes(call: Any) -> str:
    """Types and sizes of what a kernel is given and gives back, equal neighbours together."""
    sides = ([v.aval.str_short(short_dtypes=True) for v in each] for each in (call.invars, call.outvars))
    runs = [[(shape, len([*equal])) for shape, equal in groupby(side)] for side in sides]
    return " -> ".join(", ".join(f"{count} {shape}" if count > 1 else shape for shape, count in run) for run in runs)


def _lowered(use: str, call: Any, machine: Machine, device: Any, notes: Path | None) -> Lowered:
    name = str(call.params["name"])
    about = use, name, _shapes(call)

    def kernel(*arrays: jax.Array) -> Any:
        return call.primitive.bind(*arrays, **call.params)

    arrays = [_array(v.aval.shape, v.aval.dtype, device) for v in call.invars]
    traced = jax.jit(kernel).trace(*arrays)
    try:
        text = traced.lower(lowering_platforms=(PLATFORMS[machine],))
    except (NotImplementedError, ValueError, TypeError, jax.errors.JaxRuntimeError) as refusal:
        return Lowered(*about, lowers=False, refused=_sentence(refusal))
    if notes is None:
        return Lowered(*about, lowers=True)
    for old in notes.iterdir():
        old.unlink()
    try:
        text.compile()
    except jax.errors.JaxRuntimeError as refusal:
        return Lowered(*about, lowers=True, compiles=False, refused=_sentence(refusal))
    return Lowered(*about, True, True, *_counted(notes))


def _sentence(refusal: Exception) -> str:
    return str(refusal).strip().splitlines()[0]


@cache
def _notes() -> Path:
    """Where the compiler of TPUs writes what it does: it reads that once in a process, when it is loaded."""
    folder = mkdtemp(prefix="archc-")
    atexit.register(rmtree, folder, ignore_errors=True)
    told = os.environ.get("LIBTPU_INIT_ARGS", "")
    os.environ["LIBTPU_INIT_ARGS"] = f"{told} --xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true".strip()
    return Path(folder)


def _tpu() -> SingleDeviceSharding:
    """A TPU to compile for."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # it asks the network what machine this is otherwise
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU is opened, so others may
    from jax.experimental import topologies

    return SingleDeviceSharding(topologies.get_topology_desc(platform="tpu", topology_name=CHIP).devices[0])


_ALLOCATED = re.compile(r"(#allocation\d+) \[.*space=vmem, size = (0x[0-9a-f]+)")


def _counted(folder: Path) -> tuple[int | None, int | None]:
    """Bundles of the machine code of `kernel`, and bytes of vector memory that it allocates, as the compiler notes."""
    about = [p.read_text("utf-8") for p in folder.glob("*-kernel.*-schedule-analysis_final_bundles.txt")]
    bundles = [int(n) for text in about for n in re.findall(r"total scheduled bundles:\s+(\d+)", text)]
    code = [p.read_text("utf-8") for p in folder.glob("*-kernel.*-post-ra.txt")]
    memory = [sum(int(size, 16) for size in dict(_ALLOCATED.findall(text)).values()) for text in code]
    return max(bundles, default=None), max(memory, default=None)
