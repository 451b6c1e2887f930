"""Programs of this repository, run from a clone by ``python -m tools.NAME``; see README.md."""
