"""What every SQLite file of ours needs: opening, transactions, and waiting for other processes."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

T = TypeVar("T")

#: How often a locked file is tried again where SQLite does not wait by itself, in seconds.
_PAUSE_S = 0.01


def connect(
    path: Path, *, create: bool, busy_timeout_s: float, any_thread: bool = False
) -> sqlite3.Connection:
    """Open a file; transactions begin and end by statements alone.

    Args:
        path: The file.
        create: Whether to make it if there is none.
        busy_timeout_s: How long a statement waits for another process, in seconds.
        any_thread: Whether several threads may use the connection, one after another.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    mode = "rwc" if create else "rw"
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=not any_thread,
    )


def patiently(attempt: Callable[[], T], busy_timeout_s: float) -> T:
    """Wait for a lock in the few places where SQLite itself gives up at once."""
    give_up_at = time.monotonic() + busy_timeout_s
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= give_up_at:
                raise
            time.sleep(_PAUSE_S * random.random())


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; other writers wait from the start, so nobody decides on what is outdated."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself if, say, the disk was full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
