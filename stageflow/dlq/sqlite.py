"""Dead letters in SQLite: a file that several processes share, or memory for simulations."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from stageflow._utils.fork import leave, renew_after_fork
from stageflow._utils.sqlite import Schema, guarded, open_file, transaction
from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.dlq.store import SqlDeadLetterStore, Steps
from stageflow.errors import DeadLetterError, DeadLetterStoreError

T = TypeVar("T")

#: Marks the file as ours in SQLite's header ("SfDL").
APPLICATION_ID = 0x5366444C
_TABLE = """\
CREATE TABLE dead_letters (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  body TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'replaying', 'replayed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  lease_until REAL,
  replay_run_id TEXT
)
"""
_SCHEMA = Schema("dead letters", APPLICATION_ID, [[_TABLE]])


class _SqliteStore(SqlDeadLetterStore):
    def __init__(self, where: str, codec: Codec, wall_clock: Callable[[], float]) -> None:
        super().__init__(where, codec)
        self._wall_clock = wall_clock
        self._connection: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        raise NotImplementedError

    def _run_now(self, action: str, steps: Steps[T]) -> T:
        if self._connection is None:
            self._connection = self._open()
            self._connection.create_function("wall_clock", 0, self._wall_clock)
            # By default a text that is not UTF-8 fails the query, and with it all other letters.
            self._connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        with transaction(self._connection) if action == "write" else nullcontext():
            try:
                statement, values = next(steps)
                while True:
                    rows = self._connection.execute(statement, values).fetchall()
                    statement, values = steps.send(rows)
            except StopIteration as end:
                result: T = end.value
        return result


class InMemoryDeadLetterStore(_SqliteStore):
    """Keeps dead letters in memory, for simulations and tests."""

    def __init__(
        self, *, codec: Codec = DEFAULT_CODEC, wall_clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__("memory", codec, wall_clock)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin unlocked: the thread that held the lock is not in a child process."""
        self._lock = threading.Lock()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.execute(_TABLE)
        weakref.finalize(self, connection.close)
        return connection

    async def _run(self, action: str, steps: Steps[T]) -> T:
        with self._lock:  # loops in several threads may share the store
            return self._run_now(action, steps)


class SQLiteDeadLetterStore(_SqliteStore):
    """A `DeadLetterStore` in one file.

    One thread with one connection, opened at the first call, does all of the work, so an event loop
    never waits for the disk, and several loops may use the store one after another. Close it, or
    use it as an async context manager.

    Args:
        path: The file, which the first call opens.
        create: Whether to make the file if there is none.
        busy_timeout_s: How long to wait for another process that writes, in seconds.
        codec: Knows the types that letters hold.
        wall_clock: Seconds since the epoch; leases are measured by it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        busy_timeout_s: float = 5.0,
        codec: Codec = DEFAULT_CODEC,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(str(path), codec, wall_clock)
        self.path = Path(path)
        self._create = create
        self._busy_timeout_s = busy_timeout_s
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Use a thread and a connection of its own in a child process."""
        if self._connection is not None:
            leave(self._connection)
            self._connection = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="stageflow-dead-letters")

    def _open(self) -> sqlite3.Connection:
        return open_file(
            self.path,
            _SCHEMA,
            # A commit returns when the log is on the disk, on macOS also out of its cache.
            ["synchronous = FULL", "fullfsync = ON"],
            create=self._create,
            busy_timeout_s=self._busy_timeout_s,
        )

    async def _run(self, action: str, steps: Steps[T]) -> T:
        invalid = partial(DeadLetterError.invalid_store, self.where)
        failed = partial(DeadLetterStoreError, action, self.where)
        work = partial(self._run_now, action, steps)
        return await self._in_worker(partial(guarded, work, invalid=invalid, failed=failed))

    async def _in_worker(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)

    async def close(self) -> None:
        """Close the file; nothing can be called afterwards."""
        if not self._closed:
            self._closed = True
            try:
                await self._in_worker(self._disconnect)
            finally:
                self._worker.shutdown(wait=False)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
