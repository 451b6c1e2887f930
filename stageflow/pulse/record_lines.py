"""Records that grow by a line of JSON each time something is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read_lines(path: Path, made: Callable[[dict[str, Any]], T]) -> tuple[list[T], int]:
    """What a record holds, oldest first, and how many of its lines could not be read.

    Args:
        path: The record; it need not be there.
        made: Makes of a line's object what is wanted. A `ValueError`, `KeyError` or `TypeError`
            says that it cannot: the line was cut off, or is of another version.
    """
    if not path.exists():
        return [], 0
    found, unread = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(made(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            unread += 1
    return found, unread
