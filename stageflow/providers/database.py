"""A database of records in SQL: a SQLite file, or PostgreSQL (needs the extra ``db``).

A call is one statement and so one transaction: a `put` that is cancelled, or that loses its
connection, has been made wholly or not at all. What goes wrong is raised as the driver says it;
`stageflow.classification` knows what it means.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import Any

import aiosqlite
from sqlalchemy import (
    URL,
    Column,
    Executable,
    MetaData,
    Table,
    Text,
    bindparam,
    event,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from stageflow.closing import AsyncClosing
from stageflow.durations import is_duration
from stageflow.errors import ErrorCategory, InvalidConfigError, ProviderError, shown

_TABLE = Table(
    "stageflow_records",
    MetaData(),
    Column("collection", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # Text in place of JSONB: both databases then hold the same, down to "\u0000" in a string.
    Column("record", Text, nullable=False),
)
_READ = select(_TABLE.c.record).where(
    _TABLE.c.collection == bindparam("collection"), _TABLE.c.key == bindparam("key")
)
_FAREWELL_S = 0.1
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class InvalidRecordError(ProviderError):
    """A record, or its address, that a database cannot hold.

    Attributes:
        collection: Where it was to be put.
        key: The same.
    """

    code = "invalid_record"
    category = ErrorCategory.LOGIC

    def __init__(self, collection: object, key: object, problem: str) -> None:
        super().__init__(f"record {shown(key)} of collection {shown(collection)}: {problem}")
        self.collection = collection
        self.key = key


class SqlDatabase(AsyncClosing):
    """Records of JSON in one SQL table, by collection and key.

    It serves the event loop that first calls it; after `close` it may serve another. The table is
    made at the first call if it is missing. Tuples come back as lists.
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
        """Choose the database; nothing is opened before the first call.

        Args:
            url: ``sqlite:///path`` (relative; ``sqlite:////path`` is absolute) or
                ``postgresql://user:password@host:port/database``.
            pool_size: How many connections are open at most.
            pool_timeout_s: How long a call waits for one of them to be free, in seconds.
            lock_timeout_s: How long the database waits for a lock that another holds, in seconds.
            statement_timeout_s: How long it may work on a call, in seconds (PostgreSQL only).
            call_timeout_s: Limit of a whole call, connecting included, in seconds: it ends a call
                to which nothing answers.

        Raises:
            InvalidConfigError: The URL names no file and no PostgreSQL, or a number is not
                positive.
        """
        if not isinstance(pool_size, int) or pool_size < 1:
            raise InvalidConfigError("SqlDatabase", "pool_size", pool_size, "give 1 or more")
        for field, timeout_s in (
            ("pool_timeout_s", pool_timeout_s),
            ("lock_timeout_s", lock_timeout_s),
            ("statement_timeout_s", statement_timeout_s),
            ("call_timeout_s", call_timeout_s),
        ):
            if not is_duration(timeout_s):
                raise InvalidConfigError(
                    "SqlDatabase", field, timeout_s, "give a positive number of seconds"
                )
        self._url = _parsed(url)
        self._threads: list[Thread] = []
        self._call_timeout_s = call_timeout_s
        self._engine = create_async_engine(
            self._url,
            # A call is one statement: no other transaction is needed than its own.
            isolation_level="AUTOCOMMIT",
            poolclass=AsyncAdaptedQueuePool,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            **self._driver_options(lock_timeout_s, statement_timeout_s),
        )
        if _is_sqlite(self._url):
            event.listen(self._engine.sync_engine, "connect", _read_while_written)
        else:
            event.listen(self._engine.sync_engine, "invalidate", _part_quickly)
        self._write = _upsert(self._url)
        self._has_table = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[asyncio.Future[None]] = set()

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        """The record, or None if there is none.

        Raises:
            InvalidRecordError: There can be no such collection or key.
        """
        found = await self._execute(_READ, _address(collection, key))
        return None if found is None else _object(json.loads(found))

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        """Store the record, as it is now, in place of an earlier one.

        Raises:
            InvalidRecordError: It holds what JSON does not have.
        """
        row = _address(collection, key)
        try:
            row["record"] = json.dumps(_as_json(record, "record"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidRecordError(collection, key, str(error)) from None
        except RecursionError:
            raise InvalidRecordError(
                collection, key, "it holds itself, or is nested too deeply; flatten it"
            ) from None
        await self._execute(self._write, row)

    async def close(self) -> None:
        """Wait for the calls under way, and close all connections; the next call opens anew."""
        if self._calls:
            await asyncio.wait(self._calls)
        await self._engine.dispose()
        for thread in self._threads:
            # That of a cancelled call may still be at work, and tells the loop when it is done.
            if thread.is_alive():
                await asyncio.to_thread(thread.join, self._call_timeout_s)
        self._threads.clear()
        self._loop = None

    def __repr__(self) -> str:
        return f"SqlDatabase({self._url.render_as_string(hide_password=True)!r})"

    def _driver_options(self, lock_timeout_s: float, statement_timeout_s: float) -> dict[str, Any]:
        if _is_sqlite(self._url):
            opened = {"timeout": lock_timeout_s, "async_creator_fn": self._open_file}
            return {"connect_args": opened}
        limits = {"lock_timeout": lock_timeout_s, "statement_timeout": statement_timeout_s}
        in_ms = {name: str(math.ceil(limit_s * 1000.0)) for name, limit_s in limits.items()}
        # A server may have been restarted since the last call; a file has not.
        return {"pool_pre_ping": True, "connect_args": {"server_settings": in_ms}}

    def _open_file(self, *arguments: Any, **options: Any) -> aiosqlite.Connection:
        connection = aiosqlite.connect(*arguments, **options)
        thread = connection._thread  # it has no other name
        thread.daemon = True  # an interpreter that ends does not wait for it, as SQLAlchemy has it
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        return connection

    async def _execute(self, statement: Executable, parameters: Mapping[str, str]) -> str | None:
        call = self._serving_loop().create_future()
        self._calls.add(call)
        try:
            # Inside of the limit, a call that runs out of time is a cancelled one: SQLAlchemy
            # then throws the connection away instead of handing a mute one to the next call.
            async with asyncio.timeout(self._call_timeout_s), self._engine.connect() as connection:
                if not self._has_table:
                    await _make_table(connection)
                    self._has_table = True
                result = await connection.execute(statement, parameters)
                return result.scalar_one_or_none() if result.returns_rows else None
        except FileNotFoundError as error:
            raise ConnectionRefusedError(f"no server has its socket there: {error}") from error
        finally:
            self._calls.discard(call)
            call.set_result(None)

    def _serving_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise InvalidConfigError(
                "SqlDatabase",
                "event loop",
                "another one than that of the first call",
                "make a database in each loop, or close() it before its loop ends",
            )
        return loop


# ── setting up ──────────────────────────────────────────────────────────────────────────────


def _parsed(url: str) -> URL:
    mend = "give sqlite:///path/to/file or postgresql://user:password@host/database"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # What cannot be parsed may hold a password anywhere.
        raise InvalidConfigError("SqlDatabase", "url", "no URL of a database", mend) from None
    shown = parsed.render_as_string(hide_password=True)
    backend = parsed.get_backend_name()
    if backend not in _DRIVERS:
        raise InvalidConfigError("SqlDatabase", "url", shown, mend)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidConfigError(
            "SqlDatabase", "url", shown, f"{mend}; in memory, use FakeDatabase"
        )
    return parsed.set(drivername=_DRIVERS[backend])


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _upsert(url: URL) -> Executable:
    insert: sqlite.Insert | postgresql.Insert = (
        sqlite.insert(_TABLE) if _is_sqlite(url) else postgresql.insert(_TABLE)
    )
    return insert.on_conflict_do_update(
        index_elements=[_TABLE.c.collection, _TABLE.c.key],
        set_={"record": insert.excluded.record},
    )


def _read_while_written(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        # SQLite does not wait here for the lock of whoever is about to set the very same mode,
        # which then holds for the file.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    finally:
        cursor.close()


def _part_quickly(connection: Any, _record: Any, _error: BaseException | None) -> None:
    # Left to itself, SQLAlchemy waits 2 s for a farewell that a mute server never sends. Some
    # time it does need: asyncpg is telling the server to give up the call.
    with suppress(Exception):  # asyncpg aborts a connection that it cannot close
        connection.run_async(lambda driver: driver.close(timeout=_FAREWELL_S))


async def _make_table(connection: AsyncConnection) -> None:
    try:
        await connection.run_sync(_TABLE.metadata.create_all)
    except DBAPIError:
        # Another process may have made it since we looked.
        if not await connection.run_sync(lambda sync: inspect(sync).has_table(_TABLE.name)):
            raise


# ── records ─────────────────────────────────────────────────────────────────────────────────


def _address(collection: str, key: str) -> dict[str, str]:
    for part in (collection, key):
        # PostgreSQL takes neither NUL nor half of a surrogate pair; so SQLite does not either.
        if not isinstance(part, str) or "\0" in part or not _encodable(part):
            raise InvalidRecordError(
                collection, key, f"{shown(part)} cannot be an address; give a string without NUL"
            )
    return {"collection": collection, "key": key}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_json(value: Any, path: str) -> Any:
    """`value` made of dicts and lists; raises TypeError where JSON would change it silently."""
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
    raise TypeError(
        f"{path} is {shown(value)} of type {type(value).__name__}; make it text, a number, a list"
        " or a mapping"
    )


def _object(value: Any) -> Mapping[str, Any]:
    assert isinstance(value, dict), "nothing else is ever stored"
    return value
