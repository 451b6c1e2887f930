"""What counts as a limit of time."""

from __future__ import annotations

import sys
from typing import TypeGuard


def is_duration(value: object) -> TypeGuard[float]:
    """Whether `value` is a positive, finite number of seconds; True and False are no numbers.

    An integer that no float can hold is not finite either: clocks are floats.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= sys.float_info.max  # type: ignore[operator]
