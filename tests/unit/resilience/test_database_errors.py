"""How errors of real SQLite and PostgreSQL databases are classified."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from stageflow.resilience import classify
from tests.utils.errors import code_of
from tests.utils.postgres import PostgresServer


@contextmanager
def _connection(path: Path | str, **options: Any) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None, **options)) as connection:
        yield connection


def _locked(directory: Path) -> None:
    with _connection(directory / "db") as one, _connection(directory / "db") as other:
        one.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE t (x)")


def _shared_locked(directory: Path) -> None:
    url = f"file:{directory.name}?mode=memory&cache=shared"
    with _connection(url, uri=True) as one, _connection(url, uri=True) as other:
        one.execute("CREATE TABLE t (x)")
        one.execute("BEGIN IMMEDIATE")
        one.execute("INSERT INTO t VALUES (1)")
        other.execute("SELECT * FROM t").fetchall()


def _full(directory: Path) -> None:
    with _connection(directory / "db") as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")


def _read_only(directory: Path) -> None:
    with _connection(directory / "db") as connection:
        connection.execute("CREATE TABLE t (x)")
    with _connection(f"file:{directory / 'db'}?mode=ro", uri=True) as connection:
        connection.execute("INSERT INTO t VALUES (1)")


def _cannot_open(directory: Path) -> None:
    with _connection(directory / "missing" / "db"):
        pass


def _not_a_database(directory: Path) -> None:
    (directory / "db").write_bytes(b"no database at all" * 100)
    with _connection(directory / "db") as connection:
        connection.execute("CREATE TABLE t (x)")


def _corrupt(directory: Path) -> None:
    path = directory / "db"
    with _connection(path) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 50)
    sound = path.read_bytes()
    path.write_bytes(sound[:4096] + b"\xff" * (len(sound) - 4096))
    with _connection(path) as connection:
        connection.execute("SELECT * FROM t").fetchall()


def _bug(directory: Path) -> None:
    with _connection(directory / "db") as connection:
        connection.execute("SELECT nothing FROM nowhere")


@pytest.mark.parametrize(
    ("break_it", "becomes"),
    [
        (_locked, "database_busy"),
        (_shared_locked, "database_busy"),
        (_full, "storage_failed"),
        (_read_only, "storage_failed"),
        (_cannot_open, "storage_failed"),
        (_not_a_database, "storage_failed"),
        (_corrupt, "storage_failed"),
        (_bug, "stage_raised"),
    ],
)
def test_a_real_sqlite_file_in_trouble_is_understood(
    break_it: Callable[[Path], None], becomes: str, tmp_path: Path
) -> None:
    """A lock may pass, a broken or full file does not, and bad SQL is a bug."""
    with pytest.raises(sqlite3.Error) as raised:
        break_it(tmp_path)
    failure = classify(raised.value)
    assert code_of(failure) == becomes
    assert failure.retryable is (becomes == "database_busy")


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("SQLITE_BUSY", "database_busy"),
        ("SQLITE_BUSY_SNAPSHOT", "database_busy"),
        ("SQLITE_LOCKED_SHAREDCACHE", "database_busy"),
        ("SQLITE_PROTOCOL", "database_busy"),
        ("SQLITE_FULL", "storage_failed"),
        ("SQLITE_IOERR", "storage_failed"),
        ("SQLITE_IOERR_FSYNC", "storage_failed"),
        ("SQLITE_READONLY_DBMOVED", "storage_failed"),
        ("SQLITE_CANTOPEN", "storage_failed"),
        ("SQLITE_PERM", "storage_failed"),
        ("SQLITE_CORRUPT", "storage_failed"),
        ("SQLITE_NOTADB", "storage_failed"),
        ("SQLITE_NOMEM", "out_of_resources"),
        ("SQLITE_ERROR", "stage_raised"),
        ("SQLITE_CONSTRAINT_UNIQUE", "stage_raised"),
        ("SQLITE_MISUSE", "stage_raised"),
    ],
)
def test_the_result_codes_of_sqlite_are_known_by_their_numbers(name: str, becomes: str) -> None:
    """The numbers are those that the sqlite3 module itself gives to the names."""
    raised = sqlite3.OperationalError("trouble")
    raised.sqlite_errorcode = getattr(sqlite3, name)
    assert code_of(classify(raised)) == becomes


def _raising(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{sqlstate}'; END $$"


_TROUBLE = [
    ("SET lock_timeout = 1; SELECT pg_advisory_lock(4711)", "database_busy"),
    ("SET statement_timeout = 1; SELECT pg_sleep(9)", "operation_timeout"),
    ("SET default_transaction_read_only = on; CREATE TABLE t ()", "service_unavailable"),
    ("SET ROLE pg_monitor; CREATE TABLE t ()", "credentials_rejected"),
    ("SELECT pg_terminate_backend(pg_backend_pid())", "service_unavailable"),
    ("SELECT nothing FROM nowhere", "stage_raised"),
    ("SELECT 1/0", "stage_raised"),
    (_raising("40001"), "database_busy"),  # serialization_failure
    (_raising("40P01"), "database_busy"),  # deadlock_detected
    (_raising("08006"), "connection_failed"),  # connection_failure
    (_raising("28000"), "credentials_rejected"),  # invalid_authorization
    (_raising("53100"), "storage_failed"),  # disk_full
    (_raising("53300"), "database_busy"),  # too_many_connections
    (_raising("57P03"), "service_unavailable"),  # cannot_connect_now
    (_raising("58030"), "storage_failed"),  # io_error
]


@pytest.mark.parametrize(("sql", "becomes"), _TROUBLE, ids=[sql for sql, _ in _TROUBLE])
@pytest.mark.parametrize("wrapped", [False, True], ids=["psycopg", "SQLAlchemy"])
async def test_what_a_real_postgresql_says_is_understood(
    postgres: PostgresServer, sql: str, becomes: str, wrapped: bool
) -> None:
    """The same trouble means the same, whether the driver or SQLAlchemy around it tells of it."""
    expected: type[Exception] = DBAPIError if wrapped else psycopg.Error
    holder = await psycopg.AsyncConnection.connect(postgres.url, autocommit=True)
    await holder.execute("SELECT pg_advisory_lock(4711)")
    engine = create_async_engine(
        postgres.url.replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection

            async def execute(statement: str) -> None:
                if wrapped:
                    await connection.execute(text(statement))
                else:
                    await driver.execute(statement)

            *before, last = sql.split("; ") if sql.startswith("SET") else [sql]
            for statement in before:
                await driver.execute(statement)
            with pytest.raises(expected) as raised:
                await execute(last)
    finally:
        await engine.dispose()
        await holder.close()
    failure = classify(raised.value)
    assert code_of(failure) == becomes
    assert failure.__cause__ is raised.value


async def test_a_database_that_does_not_exist_is_a_permanent_failure(
    postgres: PostgresServer,
) -> None:
    """A wrong URL is not retried."""
    with pytest.raises(psycopg.OperationalError) as raised:
        await psycopg.AsyncConnection.connect(postgres.url, dbname="no_such_database")
    assert not classify(raised.value).retryable


async def test_a_role_that_does_not_exist_is_rejected(postgres: PostgresServer) -> None:
    """Libpq hands on the server's refusal as text, without an SQLSTATE."""
    with pytest.raises(psycopg.OperationalError) as raised:
        await psycopg.AsyncConnection.connect(postgres.url, user="nobody_here")
    assert classify(raised.value).code == "credentials_rejected"
