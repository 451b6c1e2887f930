"""Values of any type: copied where that is possible, and compared by what they hold."""

import copy
import io
import pickle
from contextlib import suppress
from functools import cached_property
from types import MappingProxyType
from typing import Any

from stageflow.engine.stream import Stream

#: Modules whose objects are used, which does not change a value.
_USED = frozenset(
    ("asyncio", "concurrent", "io", "logging", "queue", "socket", "threading", "unittest")
)

#: The sign of a NaN in a float and in an array, which no comparison sees.
_NAN = b"\xff\xf8" + bytes(6), b"\x7f\xf8" + bytes(6)
_NAN_OF_ARRAYS = bytes(6) + b"\xf8\xff", bytes(6) + b"\xf8\x7f"


class Picture:
    """The contents of a value at one moment, to compare with another value or a later state."""

    def __init__(self, value: Any) -> None:
        self._copy = copied(value)
        self._sketch = _sketched(value)

    def shows(self, value: Any) -> bool:
        """Return whether the value is equal to the picture, or holds the same."""
        # What could not be copied is compared with itself here.
        equal = self._copy is not value and _are_equal(self._copy, value)
        return equal or self._sketch == _sketched(value)


def copied(value: Any) -> Any:
    """Return a deep copy, or the value itself if it cannot be copied: it holds a lock, a file."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _are_equal(one: Any, other: Any) -> bool:
    try:
        # A table compares element by element, and an array has no truth value.
        return (one == other) is True
    except Exception:
        return False


def _sketched(value: Any) -> bytes:
    # Without a memo shared parts make no difference, and a cycle does not end.
    for without_memo in (True, False):
        sketch = io.BytesIO()
        pickler = _Sketcher(sketch, 4)
        pickler.fast = without_memo
        with suppress(Exception):
            pickler.dump(value)
            return sketch.getvalue().replace(*_NAN).replace(*_NAN_OF_ARRAYS)
    return b""


class _Sketcher(pickle.Pickler):
    """Writes what a value holds. It is never read again, so nothing is refused."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if value is str:
            return NotImplemented
        reduced: Any = str, (getattr(value, "__qualname__", kind.__qualname__),)
        if kind is MappingProxyType:
            reduced = str, (dict(value),)
        elif kind is Stream:
            reduced = str, (value.items() if value.whole else (),)
        elif not _is_used(value):
            with suppress(Exception):
                reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return str, (reduced,)
        parts: list[Any] = [kind.__qualname__, *reduced[1:]]
        if len(parts) > 2 and isinstance(parts[2], dict):
            # A property that is computed when it is first read is not a change.
            computed = {k for k, v in vars(kind).items() if isinstance(v, cached_property)}
            parts[2] = {k: v for k, v in parts[2].items() if k not in computed}
        parts[3:] = [list(items) for items in parts[3:] if items is not None]
        return str, tuple(parts)


def _is_used(value: Any) -> bool:
    """Return whether a value is a function, an iterator, a file, a queue, a mock or the like."""
    if callable(value) or hasattr(value, "__next__") or hasattr(value, "__anext__"):
        return True
    return any(
        base.__module__.partition(".")[0].strip("_") in _USED for base in type(value).__mro__
    )
