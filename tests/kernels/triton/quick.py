"""Makes Triton's interpreter quick enough for tests."""

from collections.abc import Iterator

import pytest
import triton
from triton.runtime.interpreter import InterpretedFunction


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """It prepares the language anew for every call of a device function, though the launch has done so already.

    Before 3.9 a call undoes what the launch has prepared, and must do it again.
    """
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "__call__", lambda f, *args, **kwargs: f.rewrite()(*args, **kwargs))
        yield
