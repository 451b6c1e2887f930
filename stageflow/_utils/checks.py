"""Questions about arguments: whether a function is async, a value a time limit."""

from __future__ import annotations

import inspect
import sys
from typing import TypeGuard

_CO_COROUTINE = inspect.CO_COROUTINE
#: Each evaluation of ``int | float`` would make a new union.
_NUMBER = (int, float)


def is_async(function: object) -> bool:
    """Return whether calling `function` returns a coroutine, as far as its code shows."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the question is whether it is async
    )


def is_duration(value: object) -> TypeGuard[float]:
    """Return whether `value` is a positive number of seconds that a float can hold; no bool."""
    number = isinstance(value, _NUMBER) and not isinstance(value, bool)
    return number and 0 < value <= sys.float_info.max  # type: ignore[operator]
