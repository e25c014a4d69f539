"""Names, sizes, kinds, axes and instances: syntax tree to graph."""
