"""A declarative architecture compiler for sequence models."""
