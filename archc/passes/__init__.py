"""Folds over the graph, one question a file."""
