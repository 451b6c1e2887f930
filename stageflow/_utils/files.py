"""Write files atomically, look for open ones at their path, and decompress unknown data."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Yield a text file that replaces `path` when the block ends without an error."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        with suppress(OSError):  # there may be no such folder
            partial.unlink(missing_ok=True)


def decompressed(packed: bytes, limit_bytes: int) -> bytes:
    """Return the content of zlib data; raise `ValueError` if it is damaged or above the limit."""
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(packed, limit_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"its compressed part is damaged: {error}") from error
    if len(content) > limit_bytes:
        raise ValueError(f"it holds more than {limit_bytes} bytes")
    if not reader.eof:
        raise ValueError("its compressed part is cut off")
    return content


def is_at(opened: os.stat_result, path: Path) -> bool:
    """Return whether an opened file is still at its path: not moved, deleted or replaced."""
    try:
        return os.path.samestat(opened, path.stat())
    except FileNotFoundError:
        return False
