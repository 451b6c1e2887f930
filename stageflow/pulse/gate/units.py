"""Units of measurements, and the conversion between those that measure the same thing."""

from __future__ import annotations

_TIME = {"ns": 1e9, "µs": 1e6, "us": 1e6, "ms": 1e3, "s": 1.0, "seconds": 1.0}
_SIZE = {"B": 1e6, "bytes": 1e6, "kB": 1e3, "MB": 1.0}


def factor(unit: str, wanted: str) -> float:
    """By what a number of `unit` is multiplied to make it one of `wanted`.

    Raises:
        ValueError: They do not measure the same thing.
    """
    if unit == wanted:
        return 1.0
    for family in (_TIME, _SIZE):
        if unit in family and wanted in family:
            return family[wanted] / family[unit]
    raise ValueError(f"{unit!r} cannot be converted to {wanted!r}")


def fitting(unit: str) -> list[str]:
    """All units that `unit` can be converted to, itself included."""
    return next((list(family) for family in (_TIME, _SIZE) if unit in family), [unit])
