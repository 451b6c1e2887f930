"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write; it takes the place of `path` once the body has ended well.

    Raises:
        OSError: It cannot be written; what was there is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        with suppress(OSError):  # a folder that is not there holds no part either
            partial.unlink(missing_ok=True)
