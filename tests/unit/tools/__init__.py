"""The programs of this repository."""
