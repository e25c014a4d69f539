"""What a project launches on a GPU, found without one: its model runs on tensors without values, launches are noted.

The launchers of the project decide themselves, from shapes and types as they are at run time. For that the tensors say
that they are on a GPU wherever an operator of the project looks, the GPU says what its compute capability is, and a
kernel that is started notes what with. Nothing is computed and no memory taken, so any size of a model will do.
"""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings

import torch
from archc.backends.torch.machine_code import Launch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.int8: "i8",
    torch.bool: "i1",
}
NUMBER, SAME = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default
"""What the host reads from the device: positions, to skip work, and whether they are those of whole documents."""


@dataclass(frozen=True)
class Shape:
    """Sequences at a time, and tokens in each."""

    batch: int
    time: int


@dataclass(frozen=True, eq=False)
class Launched:
    """A launch in a run of the model: `use` says when ("training", "prefill", "one token"), `unit` which part of the
    model ("layers.3.rg_lru", "" for the model itself), `programs` how many there are.
    """

    use: str
    unit: str
    backward: bool
    launch: Launch
    programs: int


def launched(modules: Mapping[str, ModuleType], shape: Shape, arch: int, dtype: str) -> list[Launched]:
    """Every different launch in training on packed documents, in reading a prompt, and of a token after it.

    modules: of the project, by the names that they have there; dtype: that of computation ("bf16"). Layers that launch
    the same are told once, by the first of them.
    """
    if "kernels.operators" not in modules:
        return []
    log, model = _Log(arch), modules["model"].Model
    quiet = catch_warnings(action="ignore")  # what the framework says of running the model is for those who run it
    once = (
        patch.object(modules["model"], "loop", _one_step_for_all(modules))
        if "kernels.loop" in modules
        else nullcontext()
    )
    with quiet, once, _on_a_gpu(log, modules["kernels.operators"]), FakeTensorMode(allow_non_fake_inputs=True):
        built = model()
        _cast(built, model.FP32, DTYPES[dtype])
        log.names = {unit: name for name, unit in built.named_modules()}
        ints = [torch.zeros(shape.batch, shape.time, dtype=torch.int64) for _ in range(2)]
        with _unit_by_unit(built, log), _Operators(log):
            log.use = "training"
            built(*ints)
            if hasattr(built, "step"):
                with torch.no_grad():
                    state = built.init_state(shape.batch, shape.time, DTYPES[dtype], None)
                    log.use = "prefill"
                    _, state = built.step(ints[0], state)
                    log.use, log.before = "one token", shape.time
                    built.step(ints[0][:, :1], state)
    return log.found


@dataclass(eq=False)
class _Log:
    """What is running, how many tokens came before, and what was launched."""

    arch: int
    use: str = ""
    before: int = 0
    backward: bool = False
    units: list[nn.Module] = field(default_factory=list)
    names: dict[nn.Module, str] = field(default_factory=dict)
    found: list[Launched] = field(default_factory=list)
    known: set[tuple[str, str]] = field(default_factory=set)
    fresh: set[nn.Module] = field(default_factory=set)

    def note(self, kernel: Any, args: Sequence[Any], grid: Any, keywords: Mapping[str, Any]) -> None:
        """Keeps a launch, unless there was one with the same machine code in the same use."""
        launch = described(kernel, args, keywords)
        key = self.use, launch.key
        if key in self.known:
            return
        self.known.add(key)
        unit = self.units[-1] if self.units else None
        if unit is not None:
            self.fresh.add(unit)
        name = self.names[unit] if unit is not None else ""
        self.found.append(Launched(self.use, name, self.backward, launch, prod(grid)))


def described(kernel: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> Launch:
    """A launch as Triton specialises it: by the types of its arguments, what is one, and what is a multiple of 16."""
    names = kernel.arg_names
    given = dict(zip(names, args, strict=False)) | {n: v for n, v in keywords.items() if n in names}
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    types: dict[str, str | tuple[str, ...]] = {}
    aligned: set[tuple[int, ...]] = set()
    for place, name in enumerate(names):
        value = given[name]
        if isinstance(value, tuple) and name not in fixed:
            types[name] = tuple(map(_type, value))
            aligned |= {(place, i) for i, each in enumerate(value) if _is_aligned(each)}
        elif name not in fixed and value is not None and not _is_one(value):
            types[name] = _type(value)
            aligned |= {(place,)} if _is_aligned(value) else set()
    constants = {name: given[name] for name in names if name not in types}
    options = {n: v for n, v in keywords.items() if n not in names}
    return Launch(kernel, types, constants, frozenset(aligned), options)


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    assert type(value) is int, value
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _is_one(value: Any) -> bool:
    return type(value) is int and value == 1


def _is_aligned(value: Any) -> bool:
    """Whether a number, or the address of a tensor in memory of its own, is a multiple of 16."""
    if isinstance(value, Tensor):
        return int(value.storage_offset()) * value.element_size() % 16 == 0
    return bool(value % 16 == 0)


@contextmanager
def _on_a_gpu(log: _Log, operators: ModuleType) -> Iterator[None]:
    """Inside, the operators of a project go to its kernels, and these are noted where they would run."""

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        log.note(kernel, args, grid, keywords)

    with (
        patch.object(operators, "INTERPRETED", True),
        patch.object(JITFunction, "run", run),
        patch.object(torch.cuda, "device_of", lambda _: nullcontext()),
        patch.object(torch.cuda, "get_device_capability", lambda _=None: divmod(log.arch, 10)),
    ):
        yield


def _one_step_for_all(modules: Mapping[str, ModuleType]) -> Callable[..., Any]:
    """The loop of a project over the first token alone, whose values stand for those of all tokens: later steps launch
    nothing else, and a long sequence would take minutes.
    """
    loop = modules["kernels.loop"].loop

    def first(body: Any, inputs: Any, starts: Any, pos: Tensor, state: Any = None) -> Any:
        outs, state = loop(body, tuple(x[:, :1] for x in inputs), starts, pos[..., :1], state)
        return tuple(x.repeat(1, inputs[0].shape[1], *[1] * (x.dim() - 2)) for x in outs), state

    return first


class _Operators(TorchDispatchMode):
    """Runs the operators of a project as they are, where tensors without values would get shapes only."""

    def __init__(self, log: _Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (NUMBER, SAME):
            return self.log.before if func is NUMBER else False
        if func.namespace != "archc":
            return func(*args, **(kwargs or {}))
        cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
        with patch.object(Tensor, "is_cuda", True, create=True):
            return func.redispatch(cpu, *args, **(kwargs or {}))


@contextmanager
def _unit_by_unit(model: nn.Module, log: _Log) -> Iterator[None]:
    """Inside, every unit of a model that launches something new runs back as well, right behind its forward pass."""

    def enter(unit: nn.Module, _: Any) -> None:
        log.units.append(unit)

    def leave(unit: nn.Module, args: Any, keywords: Any, output: Any) -> None:
        if unit in log.fresh:
            log.fresh.discard(unit)
            _run_back(unit, (args, keywords), output, log)
        log.units.pop()

    hooks = []
    for unit in model.modules():
        hooks.append(unit.register_forward_pre_hook(enter))
        hooks.append(unit.register_forward_hook(leave, with_kwargs=True))
    yield
    for hook in hooks:
        hook.remove()


def _run_back(unit: nn.Module, inputs: Any, output: Any, log: _Log) -> None:
    """From what a unit gave back to what it was given and to its weights."""
    given, ends = (
        [x for x in tree_leaves(each) if isinstance(x, Tensor) and x.requires_grad] for each in (inputs, output)
    )
    if ends:
        log.backward = True
        sources = [*given, *unit.parameters()]
        torch.autograd.grad(ends, sources, [*map(torch.empty_like, ends)], retain_graph=True, allow_unused=True)
        log.backward = False


def _cast(model: nn.Module, wide: frozenset[str], dtype: torch.dtype) -> None:
    """The weights in the type of computation, as in training: those that the spec computes in single precision stay."""
    kept = tuple(f".{name}" for name in wide)
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if not f".{name}".endswith(kept):
            weight.data = weight.data.to(dtype)
