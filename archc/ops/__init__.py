"""The closed table of ops, one family a file."""
