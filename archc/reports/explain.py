"""What `archc explain CODE` says of a diagnostic."""

from __future__ import annotations

from textwrap import indent

from archc.diagnostics import closest, error
from archc.reports.codes import CODES


def explanation(code: str) -> str:
    """Title, explanation, a wrong and a right example. `ArchError` E610 for a code that there is not."""
    found = CODES.get(code.upper())
    if found is None:
        raise error("E610", f"no diagnostic has the code '{code}'", help=closest(code.upper(), CODES))
    parts = [f"{code.upper()}: {found.title}", found.explanation]
    parts += [f"wrong:\n{indent(found.wrong, '    ')}"] if found.wrong else []
    parts += [f"right:\n{indent(found.right, '    ')}"] if found.right else []
    return "\n\n".join(parts)
