"""Dead letters in a SQLite file: durable when `put` returns, shared by several processes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from stageflow.closing import AsyncClosing
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.dlq.store import Claim, check_claimable, letter_of
from stageflow.errors import (
    DeadLetterLeaseLostError,
    DeadLetterStoreError,
    DuplicateDeadLetterError,
    InvalidDeadLetterStoreError,
    UnknownDeadLetterError,
)
from stageflow.letter import DeadLetter, LetterState
from stageflow.sqlite_file import connect, patiently, transaction

T = TypeVar("T")

#: Marks the file as ours in SQLite's header ("SfDL").
APPLICATION_ID = 0x5366444C
SCHEMA_VERSION = 1

_SCHEMA = (
    """\
CREATE TABLE dead_letters (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  body TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'replaying', 'replayed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  lease_until REAL,
  replay_run_id TEXT
)
""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_SELECT = "SELECT body, state, attempts, lease_until, replay_run_id FROM dead_letters"


class SQLiteDeadLetterStore(AsyncClosing):
    """A `DeadLetterStore` in one file.

    All of SQLite happens in one thread with one connection, opened at the first call, so no event
    loop ever waits for the disk, and several may use the store one after another. Close it, or
    use it as an async context manager.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        busy_timeout_s: float = 5.0,
        codec: LetterCodec = DEFAULT_CODEC,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a store; the file is touched by the first call.

        Args:
            path: The file.
            create: Whether to make the file if there is none.
            busy_timeout_s: How long to wait for another process that writes, in seconds.
            codec: Knows the types that letters hold.
            wall_clock: Seconds since the epoch; leases are measured by it.
        """
        self.path = Path(path)
        self._create = create
        self._busy_timeout_s = busy_timeout_s
        self._codec = codec
        self._wall_clock = wall_clock
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="stageflow-dead-letters")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    # ── the port ────────────────────────────────────────────────────────────────────────────

    async def put(self, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        # Encoded here, not in the thread: nobody can change a value meanwhile.
        body = self._codec.encode(letter)
        await self._call("write", self._put, letter.id, body)

    async def get(self, letter_id: str) -> DeadLetter:
        """See `DeadLetterStore`."""
        return await self._call("read", self._get, letter_id)

    async def letters(self, state: LetterState | None = None) -> tuple[DeadLetter, ...]:
        """See `DeadLetterStore`."""
        return await self._call("read", self._letters, state)

    async def claim(self, letter_id: str, *, lease_s: float) -> Claim:
        """See `DeadLetterStore`."""
        return await self._call("write", self._claim, letter_id, lease_s)

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        """See `DeadLetterStore`."""
        until = self._wall_clock() + lease_s
        await self._call("write", self._update, claim, "lease_until = ?", (until,))

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        """See `DeadLetterStore`."""
        change = "state = 'replayed', lease_until = NULL, replay_run_id = ?"
        await self._call("write", self._update, claim, change, (replay_run_id,))

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        change = "state = 'waiting', lease_until = NULL, body = ?"
        await self._call("write", self._update, claim, change, (self._codec.encode(letter),))

    async def close(self) -> None:
        """Close the file; nothing can be called afterwards."""
        if not self._closed:
            self._closed = True
            try:
                await self._in_worker(self._disconnect)
            finally:
                self._worker.shutdown(wait=False)

    # ── the thread ──────────────────────────────────────────────────────────────────────────

    async def _call(self, action: str, function: Callable[..., T], *arguments: Any) -> T:
        if self._closed:
            raise DeadLetterStoreError(action, str(self.path), "the store has been closed")
        return await self._in_worker(self._guarded, action, function, arguments)

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)

    def _guarded(self, action: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        try:
            return function(self._connected(), *arguments)
        # What SQLite says of a damaged schema quotes it, and then need not be text at all.
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise InvalidDeadLetterStoreError(
                    str(self.path), "is no SQLite database; give another file"
                ) from error
            raise DeadLetterStoreError(action, str(self.path), error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = connect(
                self.path, create=self._create, busy_timeout_s=self._busy_timeout_s
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make sure that the file is ours before anything in it is changed."""
        if self._is_new(connection):
            patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), self._busy_timeout_s)
            with transaction(connection):
                # Another process may have been faster.
                if self._is_new(connection):
                    for statement in _SCHEMA:
                        connection.execute(statement)
        # A commit returns when the log is on the disk, on macOS also out of the disk's cache.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        query = (
            "SELECT application_id, user_version, schema_version"
            " FROM pragma_application_id, pragma_user_version, pragma_schema_version"
        )
        application_id, version, schema_version = patiently(
            lambda: connection.execute(query).fetchone(), self._busy_timeout_s
        )
        if application_id == APPLICATION_ID:
            if version != SCHEMA_VERSION:
                raise InvalidDeadLetterStoreError(
                    str(self.path),
                    f"holds dead letters in the form of version {version}, and this stageflow"
                    f" knows version {SCHEMA_VERSION}; use the stageflow that wrote it",
                )
            return False
        if application_id or version or schema_version:
            raise InvalidDeadLetterStoreError(
                str(self.path), "is a database of another program; give another file"
            )
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ── the statements ──────────────────────────────────────────────────────────────────────

    def _put(self, connection: sqlite3.Connection, letter_id: str, body: str) -> None:
        with transaction(connection):
            query = "SELECT body FROM dead_letters WHERE id = ?"
            row = connection.execute(query, (letter_id,)).fetchone()
            if row is None:
                connection.execute(
                    "INSERT INTO dead_letters (id, body) VALUES (?, ?)", (letter_id, body)
                )
            elif row[0] != body:
                raise DuplicateDeadLetterError(letter_id, str(self.path))

    def _get(self, connection: sqlite3.Connection, letter_id: str) -> DeadLetter:
        row = connection.execute(f"{_SELECT} WHERE id = ?", (letter_id,)).fetchone()
        if row is None:
            raise UnknownDeadLetterError(letter_id, str(self.path))
        return letter_of(self._codec, *row)

    def _letters(
        self, connection: sqlite3.Connection, state: LetterState | None
    ) -> tuple[DeadLetter, ...]:
        query = f"{_SELECT} WHERE ? IN (state, '') ORDER BY number"
        rows = connection.execute(query, (str(state or ""),))
        return tuple(letter_of(self._codec, *row) for row in rows)

    def _claim(self, connection: sqlite3.Connection, letter_id: str, lease_s: float) -> Claim:
        with transaction(connection):
            query = "SELECT state, lease_until, replay_run_id FROM dead_letters WHERE id = ?"
            row = connection.execute(query, (letter_id,)).fetchone()
            if row is None:
                raise UnknownDeadLetterError(letter_id, str(self.path))
            state, lease_until, replay_run_id = row
            now = self._wall_clock()
            check_claimable(letter_id, state, lease_until, replay_run_id, now)
            connection.execute(
                "UPDATE dead_letters SET state = 'replaying', attempts = attempts + 1,"
                " lease_until = ? WHERE id = ?",
                (now + lease_s, letter_id),
            )
            letter = self._get(connection, letter_id)
        return Claim(letter, letter.attempts)

    def _update(
        self, connection: sqlite3.Connection, claim: Claim, change: str, values: tuple[Any, ...]
    ) -> None:
        with transaction(connection):
            # Every claim counts an attempt, so the count tells which claim is the latest.
            changed = connection.execute(
                f"UPDATE dead_letters SET {change}"  # noqa: S608 - one of the three above
                " WHERE id = ? AND state = 'replaying' AND attempts = ?",
                (*values, claim.letter.id, claim.token),
            )
            if changed.rowcount != 1:
                raise DeadLetterLeaseLostError(claim.letter.id)
