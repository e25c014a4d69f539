"""Names, sizes, kinds, axes and instances: syntax tree to graph."""

from archc.elaborate.call import Call, Program, Stack
from archc.elaborate.program import Library, elaborate, load

__all__ = ["Call", "Library", "Program", "Stack", "elaborate", "load"]
