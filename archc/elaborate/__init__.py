"""Names, sizes, kinds, axes and instances: syntax tree to graph."""

from archc.elaborate.call import Call, Program, Stack
from archc.elaborate.library import Library, load
from archc.elaborate.program import elaborate

__all__ = ["Call", "Library", "Program", "Stack", "elaborate", "load"]
