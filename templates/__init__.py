"""Skeletons of the emitted files."""
