"""Every example of the language reference is a spec."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from archc.elaborate.library import standard_files
from archc.passes.support import check_causal
from archc.text import ast
from tests.elaborate.specs import program

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```arch\n(.*?)```", PAGE, re.DOTALL)
SIZES = {"width": 64, "depth": 4, "vocab": 256, "heads": 4, "hidden": 128, "side": 16, "half": 8, "experts": 4}
IN_A_MODEL = """
model m({params}) {{
    x = E[vocab width](tokens) * {all}
{lines}
    logits = x @ U[width -> vocab]
}}
"""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.strip().splitlines()[0][:50])
def test_an_example_is_a_spec(example: str) -> None:
    text = example
    if not re.search(r"^(model|encoder) ", example, re.MULTILINE):
        params = ", ".join(f"{n} = {v}" for n, v in SIZES.items())
        text = IN_A_MODEL.format(params=params, all=" * ".join(SIZES), lines=example)
    check_causal(program(text).graph)


def test_the_page_names_every_fn_of_the_standard_library() -> None:
    for file in standard_files():
        row = next(line for line in PAGE.splitlines() if f"`{file.span.source.name.removeprefix('std/')}`" in line)
        fns = [item.name.text for item in file.items if isinstance(item, ast.FnDef)]
        assert [name for name in fns if f"`{name}`" not in row] == []
