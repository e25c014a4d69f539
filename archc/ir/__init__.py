"""The graph: values, regions, weights."""
