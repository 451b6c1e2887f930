"""Records in SQL: a SQLite file, or PostgreSQL (needs the extra ``db``).

A call is one transaction: a `put` that is cancelled or loses its connection is done completely or
not at all. Errors of the driver are raised unchanged; `classify` reads them.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections.abc import Mapping
from threading import Thread
from typing import Any

import aiosqlite

from stageflow._utils.closing import AsyncClosing
from stageflow._utils.extras import needs_extra
from stageflow._utils.postgres import cancelled_in_time
from stageflow._utils.postgres import shown as shown_url
from stageflow.errors import InvalidConfigError, shown
from stageflow.errors.data import require_durations
from stageflow.providers.ports import appended, appending, invalid_record, require_address

with needs_extra("db"):
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import ArgumentError, DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool

_TABLE = sa.Table(
    "stageflow_records",
    sa.MetaData(),
    sa.Column("collection", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    # Unlike JSONB, text holds any JSON, such as "\u0000" in a string, in both databases.
    sa.Column("record", sa.Text, nullable=False),
)
_READ = sa.select(_TABLE.c.record).where(
    _TABLE.c.collection == sa.bindparam("collection"), _TABLE.c.key == sa.bindparam("key")
)
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


class SqlDatabase(AsyncClosing):
    """Records of JSON in one SQL table, by collection and key.

    It serves the event loop that first calls it; after `close` it can serve another. The first call
    creates the table if it is missing. Tuples are read back as lists.

    Args:
        url: ``sqlite:///path`` (relative; ``sqlite:////path`` is absolute) or
            ``postgresql://user:password@host:port/database``.
        pool_size: How many connections are open at most.
        pool_timeout_s: How long a call waits for a free connection, in seconds.
        lock_timeout_s: How long the database waits for a lock, in seconds.
        statement_timeout_s: Limit of a statement, in seconds (PostgreSQL only).
        call_timeout_s: Limit of a whole call, connecting included, in seconds.

    Raises:
        InvalidConfigError: The URL names another database, or a number is not positive.
    """

    def __init__(
        self,
        url: str = "sqlite:///stageflow.db",
        *,
        pool_size: int = 5,
        pool_timeout_s: float = 1.0,
        lock_timeout_s: float = 1.0,
        statement_timeout_s: float = 2.0,
        call_timeout_s: float = 5.0,
    ) -> None:
        if not isinstance(pool_size, int) or pool_size < 1:
            raise InvalidConfigError("SqlDatabase", "pool_size", pool_size, "give 1 or more")
        require_durations("SqlDatabase", pool_timeout_s=pool_timeout_s)
        require_durations("SqlDatabase", lock_timeout_s=lock_timeout_s)
        require_durations("SqlDatabase", statement_timeout_s=statement_timeout_s)
        require_durations("SqlDatabase", call_timeout_s=call_timeout_s)
        self._url = _parsed(url)
        self._where = _shown(url, self._url)
        self._threads: list[Thread] = []
        self._call_timeout_s = call_timeout_s
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = create_async_engine(
            self._url,
            # A call is one statement, which is a transaction.
            isolation_level="AUTOCOMMIT",
            poolclass=AsyncAdaptedQueuePool,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            **self._driver_options(lock_timeout_s, statement_timeout_s),
        )
        if self._is_sqlite:
            sa.event.listen(self._engine.sync_engine, "connect", _read_while_written)
        insert = (sqlite if self._is_sqlite else postgresql).insert(_TABLE)
        at, set_ = [_TABLE.c.collection, _TABLE.c.key], {"record": insert.excluded.record}
        self._write = insert.on_conflict_do_update(index_elements=at, set_=set_)
        # It returns nothing if the record is no longer the one that was read.
        self._exchange = insert.on_conflict_do_update(
            index_elements=at, set_=set_, where=_TABLE.c.record == sa.bindparam("before")
        ).returning(_TABLE.c.key)
        self._has_table = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[asyncio.Future[None]] = set()

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        """Return the record, or None; raise `ProviderError` for an invalid collection or key."""
        require_address(collection, key)
        found = await self._execute(_READ, {"collection": collection, "key": key})
        return None if found is None else json.loads(found)

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        """Store the record as it is now; raise `ProviderError` also if JSON cannot hold it."""
        await self._execute(self._write, _row(collection, key, record))

    async def append(
        self, collection: str, key: str, field: str, item: Any, *, keep: int | None = None
    ) -> None:
        """Append atomically, also beside other processes; see `Database`. Raises as `put`."""
        row: dict[str, Any] = _row(collection, key, {"item": item})
        copied, stored = json.loads(row.pop("record"))["item"], None
        async with appending(self, at := (collection, key)):
            while stored is None:  # another process may write between
                before = await self._execute(_READ, row)
                record = None if before is None else json.loads(before)
                changed = _row(*at, appended(record, at, field, copied, keep))
                stored = await self._execute(self._exchange, {**changed, "before": before})

    async def close(self) -> None:
        """Wait for the calls under way, and close all connections; the next call reopens."""
        if self._calls:
            await asyncio.wait(self._calls)
        await self._engine.dispose()
        for thread in self._threads:
            # The thread of a cancelled call may still be working, and calls the loop at its end.
            if thread.is_alive():
                await asyncio.to_thread(thread.join, self._call_timeout_s)
        self._threads.clear()
        self._loop = None

    def __repr__(self) -> str:
        return f"SqlDatabase({self._where!r})"

    def _driver_options(self, lock_timeout_s: float, statement_timeout_s: float) -> dict[str, Any]:
        if self._is_sqlite:
            opened = {"timeout": lock_timeout_s, "async_creator_fn": self._open_file}
            return {"connect_args": opened}
        limits = {"lock_timeout": lock_timeout_s, "statement_timeout": statement_timeout_s}
        in_ms = (f"-c {name}={math.ceil(limit_s * 1000.0)}" for name, limit_s in limits.items())
        # A server may have restarted since the last call.
        return {"pool_pre_ping": True, "connect_args": {"options": " ".join(in_ms)}}

    def _open_file(self, *arguments: Any, **options: Any) -> aiosqlite.Connection:
        connection = aiosqlite.connect(*arguments, **options)
        thread = connection._thread
        thread.daemon = True  # SQLAlchemy sets it, too: the interpreter must not wait for it
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        return connection

    async def _execute(self, statement: sa.Executable, parameters: Mapping[str, Any]) -> str | None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            fix = "create a database in each loop, or close() it before its loop ends"
            found = "another one than that of the first call"
            raise InvalidConfigError("SqlDatabase", "event loop", found, fix)
        call = loop.create_future()
        self._calls.add(call)
        try:
            # The limit cancels the call, so that SQLAlchemy discards the connection and does not
            # give one that no longer answers to the next call.
            async with asyncio.timeout(self._call_timeout_s):
                work = self._connected(statement, parameters)
                return await (work if self._is_sqlite else cancelled_in_time(work))
        finally:
            self._calls.discard(call)
            call.set_result(None)

    async def _connected(
        self, statement: sa.Executable, parameters: Mapping[str, Any]
    ) -> str | None:
        async with self._engine.connect() as connection:
            if not self._has_table:
                await _make_table(connection)
                self._has_table = True
            result = await connection.execute(statement, parameters)
            return result.scalar_one_or_none() if result.returns_rows else None


def _row(collection: str, key: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of a record; raise `ProviderError` if it, or its address, cannot be stored."""
    require_address(collection, key)
    try:
        text = json.dumps(_as_json(record, "record"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise invalid_record(collection, key, str(error)) from None
    except RecursionError:
        problem = "it contains itself, or is nested too deeply; flatten it"
        raise invalid_record(collection, key, problem) from None
    return {"collection": collection, "key": key, "record": text}


def _parsed(url: str) -> sa.URL:
    fix = "give sqlite:///path/to/file or postgresql://user:password@host/database"
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not shown.
        raise InvalidConfigError("SqlDatabase", "url", "no URL of a database", fix) from None
    shown = _shown(url, parsed)
    backend = parsed.get_backend_name()
    if backend not in _DRIVERS:
        raise InvalidConfigError("SqlDatabase", "url", shown, fix)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidConfigError("SqlDatabase", "url", shown, f"{fix}; in memory, use FakeDatabase")
    return parsed.set(drivername=_DRIVERS[backend])


def _shown(url: str, parsed: sa.URL) -> str:
    """Return the URL without user, password and settings."""
    if parsed.get_backend_name() == "postgresql":
        return shown_url(url)
    return parsed.set(username=None, password=None, query={}).render_as_string()


def _read_while_written(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        # SQLite does not wait here for another connection that sets the mode of the file.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    finally:
        cursor.close()


async def _make_table(connection: AsyncConnection) -> None:
    try:
        await connection.run_sync(_TABLE.metadata.create_all)
    except DBAPIError:
        # Another process may have created it meanwhile.
        if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(_TABLE.name)):
            raise


def _as_json(value: Any, path: str) -> Any:
    """Return `value` as dicts and lists; raise TypeError where JSON would change it."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {shown(key)}; JSON's keys are strings")
        return {key: _as_json(item, f"{path}[{key!r}]") for key, item in value.items()}
    if path == "record":
        raise TypeError(f"it is {shown(value)}; give a mapping")
    if isinstance(value, list | tuple):
        return [_as_json(item, f"{path}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{path} is {value!r}, which JSON does not have; give None")
    if value is None or isinstance(value, str | int | float):
        return value
    fix = "make it text, a number, a list or a mapping"
    raise TypeError(f"{path} is {shown(value)} of type {type(value).__name__}; {fix}")
