"""The files that travel with the compiler can be found and read."""

from __future__ import annotations

import pytest

from archc import resources


def test_only_files_of_the_right_kind_are_listed() -> None:
    assert resources.paths("grammars") == ("arch.lark",)
    assert all(path.endswith(".arch") for path in resources.paths("specs"))


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        resources.read("specs", "no/such.arch")
