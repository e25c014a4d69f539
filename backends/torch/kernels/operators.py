"""What fused operators share: whether and on what they run, names that no other project in the process has taken."""

from importlib.util import find_spec
from itertools import count
from typing import Any

import torch
from torch import Tensor

KINDS: dict[Any, str] = {
    Tensor: "Tensor",
    list[Tensor]: "Tensor[]",
    list[float]: "float[]",
    Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    bool: "bool",
}
"""Annotations in torch's own language."""
TRITON = find_spec("triton") is not None
INTERPRETED = (
    False  # tests: Triton's interpreter runs (TRITON_INTERPRET=1), so tensors of the CPU go to its kernels too
)


def runs_fused(x: Tensor) -> bool:
    """Whether a tensor's operators are Triton kernels: real numbers on a GPU, where Triton is installed."""
    return TRITON and (x.is_cuda or INTERPRETED) and x.is_floating_point()


def arch_of(x: Tensor) -> int:
    """The compute capability of a tensor's device, ten times the major and the minor number; 0 for the interpreter."""
    if not x.is_cuda:
        return 0
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done with any of these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def gradient_of_numbers(numbers: list[float]) -> Any:
    """What an operator gives back for a list of numbers: to autograd it is a leaf, an empty one is not."""
    return None if numbers else []


def schema(*groups: Any, gives: str) -> str:
    """The arguments that the fields of these tuples are, one after another, as torch's own language has them.

    No two may have one name: torch reads such a schema, but torch.compile binds arguments by name.
    """
    fields = [(name, KINDS[kind]) for group in groups for name, kind in group.__annotations__.items()]
    assert len(dict(fields)) == len(fields), f"two arguments have one name: {fields}"
    return f"({', '.join(f'{kind} {name}' for name, kind in fields)}) -> {gives}"


def free_name(stem: str) -> str:
    """A name `archc::stem` for an operator, with a number where that one is taken: two projects may share a process."""
    names = (stem if i == 0 else f"{stem}_{i}" for i in count())
    taken = set(torch._C._dispatch_get_all_op_names())
    return next(name for name in (f"archc::{each}" for each in names) if name not in taken)
