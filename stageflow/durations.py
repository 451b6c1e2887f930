"""What counts as a limit of time."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_duration(value: object) -> TypeGuard[float]:
    """Whether `value` is a positive, finite number of seconds; True and False are no numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
