"""The tree of errors."""
