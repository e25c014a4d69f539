"""Makes Triton's interpreter quick enough for tests: what it asks of every operation is asked once, or of whole arrays.

What a kernel computes stays the interpreter's; these are its questions about types, of which there are only a few.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with quickened():
        yield


@contextmanager
def quickened() -> Iterator[None]:
    prepared: set[str] = set()

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        """Of a device function. A launch has prepared the language, but not what the language itself is made of."""
        if function.fn.__module__ not in prepared:
            prepared.add(function.fn.__module__)
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patch.setattr(interpreter, "_get_np_dtype", _stored_as)
        patch.setattr(TritonSemantic, "binary_op_sanitize_overflow_impl", _fits)
        patch.setattr(tl.core.tensor, "__init__", _tensor)
        yield


def _stored_as(kind: Any) -> Any:
    return POINTER if kind.scalar.is_ptr() else _scalar_stored_as(kind.scalar)


POINTER = np.dtype(np.uint64)
_scalar_stored_as = functools.cache(interpreter._get_np_dtype)


def _tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _sides(tuple(type.shape) if type.is_block() else ())


@functools.cache
def _sides(shape: tuple[int, ...]) -> tuple[Any, Any]:
    return tl.core.tuple([tl.constexpr(side) for side in shape]), tl.constexpr(math.prod(shape))


def _fits(semantic: Any, left: Any, right: Any, operation: Callable[..., Any]) -> None:
    """An integer that leaves its type is a mistake, as in the interpreter, which casts and compares by operations."""
    kind = left.dtype
    if kind.int_bitwidth >= 64:
        return
    wide = getattr(np, WHOLE[operation.__name__])(*(x.handle.data.astype(np.int64) for x in (left, right)))
    assert kind.get_int_min_value() <= wide.min()
    assert wide.max() <= kind.get_int_max_value(), f"{kind} overflow in {operation.__name__}"


WHOLE = {"add": "add", "sub": "subtract", "mul": "multiply"}
