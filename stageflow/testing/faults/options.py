"""Checks of the options of faults."""

from __future__ import annotations

import math

from stageflow.errors import InvalidConfigError


def refused(kind: str, field: str, found: object, mend: str) -> InvalidConfigError:
    """What is raised for an option that does not fit."""
    return InvalidConfigError(f"fault {kind}", field, found, mend)


def is_integer(found: object) -> bool:
    """Whether it is an integer; True and False are none."""
    return isinstance(found, int) and not isinstance(found, bool)


def require_amount(kind: str, field: str, found: object, unit: str) -> None:
    """Let finite numbers from 0 up pass, and nothing else."""
    number = isinstance(found, float) or is_integer(found)
    if not number or not 0 <= found < math.inf:  # type: ignore[operator]
        raise refused(kind, field, found, f"give a number of {unit}, 0 or more")


def require_count(kind: str, field: str, found: object) -> None:
    """Let integers from 0 up pass, and nothing else."""
    if not is_integer(found) or found < 0:  # type: ignore[operator]
        raise refused(kind, field, found, "give an integer, 0 or more")
