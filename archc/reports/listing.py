"""The specs that come with archc, as a list."""

from __future__ import annotations

from textwrap import shorten

from archc.diagnostics import Source
from archc.resources import read
from archc.specs_index import shipped
from archc.text import ast
from archc.text.parse import parse


def listing() -> str:
    """One line a spec: name, what it is, sizes."""
    rows = [_row(name) for name in shipped()]
    wide = max(len(name) for name, _, _ in rows)
    lines = []
    for name, what, sizes in rows:
        lines.append(f"{name:<{wide}}  {what}".rstrip())
        if sizes:
            lines.append(f"{'':<{wide}}  :{' :'.join(sizes)}")
    return "\n".join(lines)


def _row(name: str) -> tuple[str, str, tuple[str, ...]]:
    """Name, the first sentence about its model, the names of its sizes."""
    file = parse(Source(f"{name}.arch", read("specs", f"{name}.arch")))
    models = [item for item in file.items if isinstance(item, ast.ModelDef)]
    model = next((m for m in models if m.name.text == name), models[0])
    sizes = tuple(s.name.text for s in model.body if isinstance(s, ast.SizeDecl))
    return name, shorten(model.doc, 100, placeholder=" ..."), sizes
