"""What exceptions of real libraries, files and sockets mean."""

from __future__ import annotations

import asyncio
import email.message
import errno
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from stageflow import errors as err
from stageflow.classification import classify
from stageflow.errors import ErrorCategory, StageflowError
from tests.utils.postgres import PostgresServer

_URL = "http://127.0.0.1/v1"


def http_error(status: int, **headers: str) -> httpx.HTTPStatusError:
    """What httpx raises for such a reply."""
    response = httpx.Response(
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        request=httpx.Request("POST", _URL),
    )
    with pytest.raises(httpx.HTTPStatusError) as raised:
        response.raise_for_status()
    return raised.value


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "becomes", "retryable"),
    [
        (400, err.RequestRejectedError, False),
        (401, err.CredentialsRejectedError, False),
        (403, err.CredentialsRejectedError, False),
        (404, err.RequestRejectedError, False),
        (407, err.CredentialsRejectedError, False),
        (408, err.OperationTimeoutError, True),
        (413, err.RequestRejectedError, False),
        (422, err.RequestRejectedError, False),
        (425, err.ServiceUnavailableError, True),
        (429, err.RateLimitedError, True),
        (500, err.ServiceUnavailableError, True),
        (501, err.RequestRejectedError, False),
        (502, err.ServiceUnavailableError, True),
        (503, err.ServiceUnavailableError, True),
        (504, err.OperationTimeoutError, True),
        (505, err.RequestRejectedError, False),
        (529, err.ServiceUnavailableError, True),
    ],
)
def test_the_status_of_a_reply_says_what_it_means(
    status: int, becomes: type[StageflowError], retryable: bool
) -> None:
    """Each status that a provider answers with has a class, and only what may pass is retried."""
    raised = http_error(status)
    failure = classify(raised)
    assert type(failure) is becomes
    assert failure.retryable is retryable
    assert failure.__cause__ is raised


class StatusError(Exception):
    """As the clients of the large model providers raise it: status, reply, body."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__("error from the API")
        self.response = response
        self.status_code = response.status_code
        self.code = None


class AttributeStatusError(Exception):
    """As aiohttp raises it: the status and the headers on the exception itself."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"{status}")
        self.status = status
        self.headers = headers


def test_each_client_keeps_the_status_elsewhere() -> None:
    """Status and headers are found on the exception and on its reply, in any spelling."""
    reply = httpx.Response(429, headers={"retry-after": "7"})
    headers = email.message.Message()
    headers["Retry-After"] = "7"
    failures = [
        classify(StatusError(reply)),
        classify(AttributeStatusError(429, {"RETRY-AFTER": "7"})),
        classify(urllib.error.HTTPError(_URL, 429, "slow down", headers, None)),
    ]
    assert [(type(f), f.retry_after_s) for f in failures] == [(err.RateLimitedError, 7.0)] * 3


@pytest.mark.parametrize(
    ("headers", "retry_after_s"),
    [
        ({"Retry_After": "12"}, 12.0),
        ({"Retry_After": "0.25"}, 0.25),
        ({"Retry_After": "0"}, 0.0),
        (
            {
                "Retry_After": "Wed, 21 Oct 2015 07:30:00 GMT",
                "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            120.0,
        ),
        (
            {
                "Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT",
                "Date": "Wed, 21 Oct 2015 07:30:00 GMT",
            },
            None,
        ),
        ({"Retry_After": "Wed, 21 Oct 2015 07:30:00 GMT"}, None),
        ({"Retry_After": "Wed, 21 Oct 2015 07:30:00 GMT", "Date": "yesterday"}, None),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "-5"}, None),
        ({"Retry_After": "inf"}, None),
        ({"Retry_After": "nan"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_seconds_or_a_date_on_the_servers_clock(
    status: int, headers: dict[str, str], retry_after_s: float | None
) -> None:
    """The time to wait is the one that RFC 9110 gives to the header, or unknown."""
    assert classify(http_error(status, **headers)).retry_after_s == retry_after_s


def test_what_no_retry_can_mend_names_no_time_to_wait() -> None:
    """A Retry-After on a refusal does not make it retryable."""
    failure = classify(http_error(403, Retry_After="3"))
    assert (failure.retryable, failure.retry_after_s) == (False, None)


def test_an_error_that_wraps_a_reply_keeps_its_time_to_wait() -> None:
    """A client's own exception around a 429 means the same, down to the seconds."""
    raised = RuntimeError("the model could not be asked")
    raised.__cause__ = http_error(429, Retry_After="9")
    failure = classify(raised)
    assert type(failure) is err.RateLimitedError
    assert failure.retry_after_s == 9.0
    assert failure.__cause__ is raised


@pytest.mark.parametrize("headers", [None, 5, [("Retry-After", "5")], Mock(), {5: b"5"}, "text"])
def test_headers_of_no_known_kind_name_no_time_to_wait(headers: object) -> None:
    """Whatever stands in the place of the headers, the status is understood."""
    raised = AttributeStatusError(429, headers)  # type: ignore[arg-type]
    failure = classify(raised)
    assert (type(failure), failure.retry_after_s) == (err.RateLimitedError, None)


@pytest.mark.parametrize("status", [200, 302, 399, 600, None, "500", 404.0])
def test_what_is_no_status_of_an_error_says_nothing(status: object) -> None:
    """Only an integer from 400 to 599 is taken for the status of a reply."""
    raised = AttributeStatusError(0, {})
    raised.status = status  # type: ignore[assignment]
    assert type(classify(raised)) is err.StageRaisedError


# ── sockets ─────────────────────────────────────────────────────────────────────────────────


async def _httpx_error(url: str, **options: Any) -> httpx.HTTPError:
    async with httpx.AsyncClient(trust_env=False, **options) as client:
        with pytest.raises(httpx.HTTPError) as raised:
            await client.get(url)
    return raised.value


async def test_httpx_that_finds_nobody_listening_has_no_connection() -> None:
    """A refused connection is one that failed, and may succeed later."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        raised = await _httpx_error(f"http://127.0.0.1:{bound.getsockname()[1]}")
    failure = classify(raised)
    assert type(failure) is err.ConnectionFailedError
    assert failure.retryable


async def test_httpx_without_an_answer_has_timed_out() -> None:
    """A server that accepts and says nothing is a timeout, not a broken connection."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        raised = await _httpx_error(url, timeout=0.05)
    assert type(classify(raised)) is err.OperationTimeoutError


async def test_httpx_asked_for_an_unknown_protocol_is_not_retried() -> None:
    """A wrong URL is a wrong request."""
    failure = classify(await _httpx_error("gopher://127.0.0.1"))
    assert type(failure) is err.RequestRejectedError


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (httpx.RemoteProtocolError("peer closed connection"), err.ConnectionFailedError),
        (httpx.ReadError(""), err.ConnectionFailedError),
        (httpx.PoolTimeout(""), err.OperationTimeoutError),
        (asyncio.IncompleteReadError(b"", 4), err.ConnectionFailedError),
        (ssl.SSLError("handshake failure"), err.ConnectionFailedError),
        (BrokenPipeError(), err.ConnectionFailedError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_connection_lost_midway_has_failed_whatever_the_library_calls_it(
    raised: Exception, becomes: type[StageflowError]
) -> None:
    """Exceptions that carry nothing are known by their class."""
    assert type(classify(raised)) is becomes


def test_a_name_that_cannot_be_resolved_is_a_failed_connection() -> None:
    """The resolver's own numbers are not taken for those of the system."""
    with pytest.raises(socket.gaierror) as raised:
        socket.getaddrinfo("nobody.invalid", 80, flags=socket.AI_NUMERICHOST)
    assert type(classify(raised.value)) is err.ConnectionFailedError


@pytest.mark.parametrize(
    ("number", "becomes", "category"),
    [
        (errno.ECONNREFUSED, err.ConnectionFailedError, ErrorCategory.TRANSIENT),
        (errno.ECONNRESET, err.ConnectionFailedError, ErrorCategory.TRANSIENT),
        (errno.EPIPE, err.ConnectionFailedError, ErrorCategory.TRANSIENT),
        (errno.EHOSTUNREACH, err.ConnectionFailedError, ErrorCategory.TRANSIENT),
        (errno.ENETUNREACH, err.ConnectionFailedError, ErrorCategory.TRANSIENT),
        (errno.ETIMEDOUT, err.OperationTimeoutError, ErrorCategory.TRANSIENT),
        (errno.ENOSPC, err.StorageFailedError, ErrorCategory.SYSTEMIC),
        (errno.EDQUOT, err.StorageFailedError, ErrorCategory.SYSTEMIC),
        (errno.EROFS, err.StorageFailedError, ErrorCategory.SYSTEMIC),
        (errno.EIO, err.StorageFailedError, ErrorCategory.SYSTEMIC),
        (errno.EMFILE, err.OutOfResourcesError, ErrorCategory.SYSTEMIC),
        (errno.ENOMEM, err.OutOfResourcesError, ErrorCategory.SYSTEMIC),
        (errno.ENOENT, err.StageRaisedError, ErrorCategory.LOGIC),
        (errno.EINVAL, err.StageRaisedError, ErrorCategory.LOGIC),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else None,
)
def test_an_operating_system_error_is_known_by_its_number(
    number: int, becomes: type[StageflowError], category: ErrorCategory
) -> None:
    """Network, disk and memory are told apart; a missing file stays a bug."""
    failure = classify(OSError(number, os.strerror(number)))
    assert (type(failure), failure.category) == (becomes, category)


def test_a_full_device_fails_the_storage() -> None:
    """What the kernel itself says of a full disk is understood."""
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as raised:  # noqa: PT011
        full.write(b"x")
    assert type(classify(raised.value)) is err.StorageFailedError


def test_no_file_descriptor_left_is_out_of_resources() -> None:
    """A process that may not open anything more is told so."""
    # The limit comes last: once it holds, no module can be loaded any more.
    code = (
        "import resource, socket\n"
        "from stageflow.classification import classify\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "try:\n    socket.socket()\n"
        "except OSError as error:\n    print(type(classify(error)).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OutOfResourcesError"


# ── SQLite ──────────────────────────────────────────────────────────────────────────────────


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
        (_locked, err.DatabaseBusyError),
        (_shared_locked, err.DatabaseBusyError),
        (_full, err.StorageFailedError),
        (_read_only, err.StorageFailedError),
        (_cannot_open, err.StorageFailedError),
        (_not_a_database, err.StorageFailedError),
        (_corrupt, err.StorageFailedError),
        (_bug, err.StageRaisedError),
    ],
)
def test_a_real_sqlite_file_in_trouble_is_understood(
    break_it: Callable[[Path], None], becomes: type[StageflowError], tmp_path: Path
) -> None:
    """A lock may pass, a broken or full file does not, and bad SQL is a bug."""
    with pytest.raises(sqlite3.Error) as raised:
        break_it(tmp_path)
    failure = classify(raised.value)
    assert type(failure) is becomes
    assert failure.retryable is (becomes is err.DatabaseBusyError)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("SQLITE_BUSY", err.DatabaseBusyError),
        ("SQLITE_BUSY_SNAPSHOT", err.DatabaseBusyError),
        ("SQLITE_LOCKED_SHAREDCACHE", err.DatabaseBusyError),
        ("SQLITE_PROTOCOL", err.DatabaseBusyError),
        ("SQLITE_FULL", err.StorageFailedError),
        ("SQLITE_IOERR", err.StorageFailedError),
        ("SQLITE_IOERR_FSYNC", err.StorageFailedError),
        ("SQLITE_READONLY_DBMOVED", err.StorageFailedError),
        ("SQLITE_CANTOPEN", err.StorageFailedError),
        ("SQLITE_PERM", err.StorageFailedError),
        ("SQLITE_CORRUPT", err.StorageFailedError),
        ("SQLITE_NOTADB", err.StorageFailedError),
        ("SQLITE_NOMEM", err.OutOfResourcesError),
        ("SQLITE_ERROR", err.StageRaisedError),
        ("SQLITE_CONSTRAINT_UNIQUE", err.StageRaisedError),
        ("SQLITE_MISUSE", err.StageRaisedError),
    ],
)
def test_the_result_codes_of_sqlite_are_known_by_their_numbers(
    name: str, becomes: type[StageflowError]
) -> None:
    """The numbers are those that the sqlite3 module itself gives to the names."""
    raised = sqlite3.OperationalError("trouble")
    raised.sqlite_errorcode = getattr(sqlite3, name)
    assert type(classify(raised)) is becomes


# ── PostgreSQL ──────────────────────────────────────────────────────────────────────────────


def _raising(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{sqlstate}'; END $$"


_TROUBLE = [
    ("SET lock_timeout = 1; SELECT pg_advisory_lock(4711)", err.DatabaseBusyError),
    ("SET statement_timeout = 1; SELECT pg_sleep(9)", err.OperationTimeoutError),
    ("SET default_transaction_read_only = on; CREATE TABLE t ()", err.ServiceUnavailableError),
    ("SET ROLE pg_monitor; CREATE TABLE t ()", err.CredentialsRejectedError),
    ("SELECT pg_terminate_backend(pg_backend_pid())", err.ConnectionFailedError),
    ("SELECT nothing FROM nowhere", err.StageRaisedError),
    ("SELECT 1/0", err.StageRaisedError),
    (_raising("40001"), err.DatabaseBusyError),  # serialization_failure
    (_raising("40P01"), err.DatabaseBusyError),  # deadlock_detected
    (_raising("08006"), err.ConnectionFailedError),  # connection_failure
    (_raising("28000"), err.CredentialsRejectedError),  # invalid_authorization
    (_raising("53100"), err.StorageFailedError),  # disk_full
    (_raising("53300"), err.DatabaseBusyError),  # too_many_connections
    (_raising("57P03"), err.ServiceUnavailableError),  # cannot_connect_now
    (_raising("58030"), err.StorageFailedError),  # io_error
]


@pytest.mark.parametrize(("sql", "becomes"), _TROUBLE, ids=[sql for sql, _ in _TROUBLE])
@pytest.mark.parametrize("wrapped", [False, True], ids=["asyncpg", "SQLAlchemy"])
async def test_what_a_real_postgresql_says_is_understood(
    postgres: PostgresServer, sql: str, becomes: type[StageflowError], wrapped: bool
) -> None:
    """The same trouble means the same, whether the driver or SQLAlchemy around it tells of it."""
    expected: type[Exception] = DBAPIError if wrapped else asyncpg.PostgresError
    holder = await asyncpg.connect(postgres.url)
    await holder.execute("SELECT pg_advisory_lock(4711)")
    engine = create_async_engine(
        postgres.url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool
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
    assert type(failure) is becomes
    assert failure.__cause__ is raised.value


async def test_a_database_that_does_not_exist_is_no_passing_trouble(
    postgres: PostgresServer,
) -> None:
    """A wrong URL is not retried."""
    with pytest.raises(asyncpg.InvalidCatalogNameError) as raised:
        await asyncpg.connect(postgres.url, database="no_such_database")
    assert not classify(raised.value).retryable


# ── chains and groups ───────────────────────────────────────────────────────────────────────


def _raised_from(cause: BaseException, depth: int) -> BaseException:
    for level in range(depth):
        outer = RuntimeError(f"level {level}")
        outer.__cause__ = cause
        cause = outer
    return cause


@pytest.mark.parametrize("depth", [1, 2, 10, 5_000])
def test_the_cause_decides_however_deep_it_lies(depth: int) -> None:
    """A library's own exception means what it was raised from."""
    raised = _raised_from(ConnectionResetError("gone"), depth)
    failure = classify(raised)
    assert type(failure) is err.ConnectionFailedError
    assert failure.__cause__ is raised


def test_the_nearest_exception_that_says_something_decides() -> None:
    """A 401 that was raised from a timeout is a 401."""
    raised = http_error(401)
    raised.__cause__ = TimeoutError()
    assert type(classify(raised)) is err.CredentialsRejectedError


def test_a_circle_of_causes_ends() -> None:
    """Exceptions that name each other as their cause are classified like any other."""
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert type(classify(one)) is err.StageRaisedError
    one.__cause__ = one
    assert type(classify(one)) is err.StageRaisedError


def test_a_circle_of_wrapped_exceptions_ends() -> None:
    """The same holds along SQLAlchemy's `orig`, and what lies beside the circle is found."""

    class WrappingError(Exception):
        orig: BaseException | None = None

    one, other = WrappingError(), WrappingError()
    one.orig, other.orig = other, one
    other.__cause__ = TimeoutError()
    assert type(classify(one)) is err.OperationTimeoutError


def test_what_was_only_being_handled_decides_nothing() -> None:
    """A bug in an error handler is a bug, whatever error it was handling."""

    def handle_badly() -> None:
        try:
            raise ConnectionResetError("gone")
        except ConnectionResetError:
            int("no number")

    with pytest.raises(ValueError, match="no number") as raised:
        handle_badly()
    assert isinstance(raised.value.__context__, ConnectionResetError)
    assert type(classify(raised.value)) is err.StageRaisedError


def test_what_was_raised_from_an_error_of_ours_is_not_taken_for_it() -> None:
    """A stage that turns one of our errors into its own has decided so."""
    raised = RuntimeError("given up")
    raised.__cause__ = err.ConnectionFailedError(ConnectionResetError("gone"))
    assert type(classify(raised)) is err.StageRaisedError


async def test_a_group_stands_for_its_first_member_that_no_retry_mends() -> None:
    """What a task group raises is retried only if each of its failures may pass."""

    async def fail(error: BaseException) -> None:
        raise error

    async def group_of(*errors: BaseException) -> BaseException:
        try:
            async with asyncio.TaskGroup() as tasks:
                for error in errors:
                    tasks.create_task(fail(error))
        except BaseExceptionGroup as group:
            return group
        raise AssertionError("nothing was raised")

    reset, bug = ConnectionResetError("gone"), KeyError("bug")
    transient = classify(await group_of(TimeoutError(), reset))
    assert type(transient) is err.OperationTimeoutError
    mixed = classify(await group_of(reset, bug))
    assert (type(mixed), mixed.__cause__) == (err.StageRaisedError, bug)
    ours = err.NoProgressError("llm", 1.0)
    assert classify(await group_of(ours)) is ours


class HostileError(Exception):
    """An exception that cannot even be looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise RuntimeError(f"do not touch {name}")


def test_an_exception_whose_attributes_raise_is_classified_all_the_same() -> None:
    """Classifying never raises, or the failure that it is about would be lost."""
    raised = HostileError("boom")
    raised.__cause__ = TimeoutError()
    assert type(classify(raised)) is err.OperationTimeoutError
    # httpx is of that kind: its request raises when there is none.
    assert type(classify(httpx.ReadError("gone"))) is err.ConnectionFailedError
