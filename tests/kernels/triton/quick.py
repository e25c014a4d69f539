"""Makes Triton's interpreter quick enough for tests."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import triton
from triton.runtime import interpreter


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """It prepares the language anew for every call of a device function, though the launch has done so already.

    Before 3.9 a call undoes what the launch has prepared, and must do it again: there only the search for what is to be
    prepared is done once.
    """
    with pytest.MonkeyPatch.context() as patch:
        if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
            patch.setattr(interpreter, "_patch_builtin", _prepare)
        else:
            patch.setattr(
                interpreter.InterpretedFunction, "__call__", lambda f, *args, **kwargs: f.rewrite()(*args, **kwargs)
            )
        yield


def _prepare(language: Any, *arguments: Any) -> None:
    """As the interpreter's own function, which looks at everything that the language has each time."""
    for name in _builtins(language):
        member = getattr(language, name)
        if interpreter.tl.core.is_builtin(member):
            interpreter._patch_attr(language, name, member, *arguments)


@functools.cache
def _builtins(language: Any) -> tuple[str, ...]:
    """Asked first before anything is prepared."""
    return tuple(name for name, member in inspect.getmembers(language) if interpreter.tl.core.is_builtin(member))
