"""Everything that can be wrong with a spec that reads well, by code, as `archc explain` prints it."""

from __future__ import annotations

from archc.elaborate.codes_axes import AXES
from archc.elaborate.codes_names import NAMES
from archc.elaborate.codes_values import VALUES
from archc.text.codes import Code

CODES: dict[str, Code] = NAMES | VALUES | AXES
