"""Dead letters in PostgreSQL, shared by any number of machines (needs the extra ``db``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]

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
from stageflow.postgres_url import shown

T = TypeVar("T")

SCHEMA_VERSION = 1

#: Held while the table is looked for and made, so that of many processes one makes it.
_LOCK = 0x5366444C
_MEND = "the server runs, can be reached, and has room"

#: The client says that it is at odds with itself if a server goes away in the middle of a word.
_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

_CREATE = """\
CREATE TABLE stageflow_dead_letters (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id text NOT NULL UNIQUE,
  body text NOT NULL,
  state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'replaying', 'replayed')),
  attempts integer NOT NULL DEFAULT 0,
  lease_until double precision,
  replay_run_id text
)
"""
_VERSION = f"stageflow dead letters, version {SCHEMA_VERSION}"
_NOW = "extract(epoch FROM clock_timestamp())::float8"
_SELECT = "SELECT body, state, attempts, lease_until, replay_run_id FROM stageflow_dead_letters"


class PostgresDeadLetterStore(AsyncClosing):
    """A `DeadLetterStore` in a table of a PostgreSQL database.

    Leases are measured by the server's clock, so machines need not agree about theirs. It serves
    the event loop that first calls it. Close it, or use it as an async context manager.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 4,
        call_timeout_s: float = 10.0,
        codec: LetterCodec = DEFAULT_CODEC,
    ) -> None:
        """Prepare a store; nothing is opened before the first call, which makes the table.

        Args:
            url: ``postgresql://user:password@host:port/database``.
            pool_size: How many connections are open at most.
            call_timeout_s: Limit of a call, waiting for a connection included, in seconds.
            codec: Knows the types that letters hold.
        """
        self._url = url
        #: Where it is, without the password.
        self.where = shown(url)
        self._pool_size = pool_size
        self._call_timeout_s = call_timeout_s
        self._codec = codec
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    # ── the port ────────────────────────────────────────────────────────────────────────────

    async def put(self, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        body = self._codec.encode(letter)

        async def write(connection: Any) -> None:
            await connection.execute(
                "INSERT INTO stageflow_dead_letters (id, body) VALUES ($1, $2)"
                " ON CONFLICT (id) DO NOTHING",
                letter.id,
                body,
            )
            query = "SELECT body FROM stageflow_dead_letters WHERE id = $1"
            if await connection.fetchval(query, letter.id) != body:
                raise DuplicateDeadLetterError(letter.id, self.where)

        await self._call("write", write)

    async def get(self, letter_id: str) -> DeadLetter:
        """See `DeadLetterStore`."""
        return await self._call("read", lambda connection: self._get(connection, letter_id))

    async def letters(self, state: LetterState | None = None) -> tuple[DeadLetter, ...]:
        """See `DeadLetterStore`."""
        query = f"{_SELECT} WHERE $1 IN (state, '') ORDER BY number"
        rows = await self._call("read", lambda c: c.fetch(query, str(state or "")))
        return tuple(letter_of(self._codec, *row) for row in rows)

    async def claim(self, letter_id: str, *, lease_s: float) -> Claim:
        """See `DeadLetterStore`."""

        async def claim(connection: Any) -> Claim:
            async with connection.transaction():
                row = await connection.fetchrow(
                    f"SELECT state, lease_until, replay_run_id, {_NOW}"  # noqa: S608 - a constant
                    " FROM stageflow_dead_letters WHERE id = $1 FOR UPDATE",
                    letter_id,
                )
                if row is None:
                    raise UnknownDeadLetterError(letter_id, self.where)
                state, lease_until, replay_run_id, now_s = row
                check_claimable(letter_id, state, lease_until, replay_run_id, now_s)
                await connection.execute(
                    "UPDATE stageflow_dead_letters SET state = 'replaying',"
                    " attempts = attempts + 1, lease_until = $2 WHERE id = $1",
                    letter_id,
                    now_s + lease_s,
                )
                letter = await self._get(connection, letter_id)
            return Claim(letter, letter.attempts)

        return await self._call("write", claim)

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        """See `DeadLetterStore`."""
        await self._update(claim, f"lease_until = {_NOW} + $3", lease_s)

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        """See `DeadLetterStore`."""
        change = "state = 'replayed', lease_until = NULL, replay_run_id = $3"
        await self._update(claim, change, replay_run_id)

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        change = "state = 'waiting', lease_until = NULL, body = $3"
        await self._update(claim, change, self._codec.encode(letter))

    async def close(self) -> None:
        """Close all connections; nothing can be called afterwards."""
        self._closed = True
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()

    # ── how ─────────────────────────────────────────────────────────────────────────────────

    async def _call(self, action: str, function: Callable[[Any], Awaitable[T]]) -> T:
        if self._closed:
            raise DeadLetterStoreError(action, self.where, "the store has been closed")
        try:
            async with asyncio.timeout(self._call_timeout_s):
                pool = await self._opened()
                async with pool.acquire() as connection:
                    return await function(connection)
        except _FAILURES as error:
            raise DeadLetterStoreError(action, self.where, error, _MEND) from error

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                pool = await asyncpg.create_pool(self._url, min_size=0, max_size=self._pool_size)
                try:
                    async with pool.acquire() as connection, connection.transaction():
                        await self._prepare(connection)
                except BaseException:
                    pool.terminate()
                    raise
                self._pool = pool
            return self._pool

    async def _prepare(self, connection: Any) -> None:
        """Make the table, or make sure that the one that is there is ours."""
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = await connection.fetchrow(
            "SELECT oid, obj_description(oid) FROM pg_class"
            " WHERE oid = to_regclass('stageflow_dead_letters')"
        )
        if found is None:
            await connection.execute(_CREATE)
            await connection.execute(f"COMMENT ON TABLE stageflow_dead_letters IS '{_VERSION}'")
        elif found[1] != _VERSION:
            raise InvalidDeadLetterStoreError(
                self.where,
                f"has a table stageflow_dead_letters that is described as {found[1]!r}, where"
                f" {_VERSION!r} was expected; use the stageflow that made it",
            )

    async def _get(self, connection: Any, letter_id: str) -> DeadLetter:
        row = await connection.fetchrow(f"{_SELECT} WHERE id = $1", letter_id)
        if row is None:
            raise UnknownDeadLetterError(letter_id, self.where)
        return letter_of(self._codec, *row)

    async def _update(self, claim: Claim, change: str, value: Any) -> None:
        # Every claim counts an attempt, so the count tells which claim is the latest.
        statement = (
            f"UPDATE stageflow_dead_letters SET {change}"  # noqa: S608 - one of the three above
            " WHERE id = $1 AND state = 'replaying' AND attempts = $2"
        )
        values = (claim.letter.id, claim.token, value)
        done = await self._call("write", lambda connection: connection.execute(statement, *values))
        if done != "UPDATE 1":
            raise DeadLetterLeaseLostError(claim.letter.id)
