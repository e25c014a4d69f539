"""Makes Triton's interpreter quick enough for tests."""

from collections.abc import Iterator

import pytest
from triton.runtime.interpreter import InterpretedFunction


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """It prepares the language anew for every call of a device function, though the launch has done so already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "__call__", lambda f, *args, **kwargs: f.rewrite()(*args, **kwargs))
        yield
