"""Dead letters in PostgreSQL, shared by any number of machines (needs the extra ``db``)."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeVar

from stageflow._utils.extras import needs_extra
from stageflow._utils.fork import renew_after_fork
from stageflow._utils.postgres import FIX, cancelled_in_time, checked, shown
from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.dlq.store import SqlDeadLetterStore, Steps
from stageflow.errors import DeadLetterError, DeadLetterStoreError, InvalidConfigError

with needs_extra("db"):
    import psycopg

T = TypeVar("T")
Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

#: Locked while the table is looked up and created, so that one of many processes creates it.
_LOCK = 0x5366444C
_FIX = "the server runs, can be reached, and has room"

_TABLE = "stageflow_dead_letters"
_CREATE = """\
CREATE TABLE dead_letters (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id text NOT NULL UNIQUE,
  body text NOT NULL,
  state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'replaying', 'replayed')),
  attempts integer NOT NULL DEFAULT 0,
  lease_until double precision,
  replay_run_id text
)
"""
_VERSION = "stageflow dead letters, version 1"
#: The parts of the shared statements that PostgreSQL writes in another way.
_PARTS = {
    "dead_letters": _TABLE,
    "wall_clock()": "extract(epoch FROM clock_timestamp())::float8",
    "?": "%s",
}


class PostgresDeadLetterStore(SqlDeadLetterStore):
    """A `DeadLetterStore` in a table of a PostgreSQL database.

    Leases are measured by the server's clock. Each call opens a connection and closes it. Close the
    store, or use it as an async context manager.

    Args:
        url: ``postgresql://user:password@host:port/database``; the first call creates the table.
        connections: How many are open at most.
        call_timeout_s: Limit of a call, waiting for a connection included, in seconds.
        codec: Knows the types that letters hold.
    """

    _for_update = " FOR UPDATE"

    def __init__(
        self,
        url: str,
        *,
        connections: int = 4,
        call_timeout_s: float = 10.0,
        codec: Codec = DEFAULT_CODEC,
    ) -> None:
        super().__init__(shown(url), codec)
        try:
            self._url = checked(url)
        except ValueError:
            raise InvalidConfigError("PostgresDeadLetterStore", "url", self.where, FIX) from None
        self._connections = connections
        self.after_fork()
        renew_after_fork(self)
        self._call_timeout_s = call_timeout_s
        self._has_table = False

    def after_fork(self) -> None:
        """Forget the calls of the parent process."""
        self._slots = asyncio.Semaphore(self._connections)

    async def _run(self, action: str, steps: Steps[T]) -> T:
        async def connected() -> T:
            async with self._slots:
                connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
                try:
                    if not self._has_table:
                        async with connection.transaction():
                            await self._run_on(connection, self._prepare())
                        self._has_table = True
                    async with connection.transaction() if action == "write" else nullcontext():
                        return await self._run_on(connection, steps)
                finally:
                    await connection.close()

        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await cancelled_in_time(connected())
        except (psycopg.Error, OSError) as error:
            raise DeadLetterStoreError(action, self.where, error, _FIX) from error

    @staticmethod
    async def _run_on(connection: Connection, steps: Steps[T]) -> T:
        try:
            statement, values = next(steps)
            while True:
                for part, ours in _PARTS.items():
                    statement = statement.replace(part, ours)
                cursor = await connection.execute(statement, values)
                rows = await cursor.fetchall() if cursor.description else []
                statement, values = steps.send(rows)
        except StopIteration as end:
            result: T = end.value
        return result

    def _prepare(self) -> Steps[None]:
        """Create the table, or check that the one that exists is ours."""
        yield "SELECT pg_advisory_xact_lock(?)", (_LOCK,)
        query = "SELECT obj_description(oid) FROM pg_class WHERE oid = to_regclass(?)"
        found = yield query, (_TABLE,)
        if not found:
            yield _CREATE, ()
            yield f"COMMENT ON TABLE dead_letters IS '{_VERSION}'", ()
        elif found[0][0] != _VERSION:
            problem = f"has a table {_TABLE} that is described as {found[0][0]!r}, where"
            fix = f"{_VERSION!r} was expected; use the stageflow that made it"
            raise DeadLetterError.invalid_store(self.where, f"{problem} {fix}")
