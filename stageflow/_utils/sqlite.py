"""Open SQLite files of stageflow, run transactions, and wait for other processes."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote

T = TypeVar("T")

#: Longest pause between attempts where SQLite does not wait by itself, in seconds.
_PAUSE_S = 0.01


def retry_while_locked(attempt: Callable[[], T], busy_timeout_s: float) -> T:
    """Retry where SQLite does not wait for a lock by itself."""
    give_up_at = time.monotonic() + busy_timeout_s
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= give_up_at:
                raise
            time.sleep(_PAUSE_S * random.random())


class Schema(NamedTuple):
    """The tables of one kind of file; migration n turns version n into version n + 1."""

    what: str
    application_id: int
    migrations: Sequence[Sequence[str]]


def migrations(folder: Path) -> tuple[Sequence[str], ...]:
    """Return the statements of ``1.sql``, ``2.sql`` and so on, in this order."""
    files = sorted(folder.glob("*.sql"), key=lambda file: int(file.stem))
    return tuple(file.read_text("utf-8").strip().rstrip(";").split(";\n") for file in files)


class ForeignFileError(Exception):
    """A file is a database of another program or of a newer version."""


def open_file(
    path: Path,
    schema: Schema,
    pragmas: Sequence[str],
    *,
    create: bool,
    busy_timeout_s: float,
    any_thread: bool = False,
) -> sqlite3.Connection:
    """Open a file and migrate it to the newest version of its schema.

    Transactions begin and end by statements alone. With `any_thread`, several threads may use the
    connection, one after another. Raises `ForeignFileError` and changes nothing for another file.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=not any_thread,
    )
    try:
        version = retry_while_locked(lambda: _version(connection, schema), busy_timeout_s)
        if version == 0:
            retry_while_locked(
                lambda: connection.execute("PRAGMA journal_mode = WAL"), busy_timeout_s
            )
        if version < len(schema.migrations):
            with transaction(connection):
                # Looked up again: another process may have been faster.
                for statements in schema.migrations[_version(connection, schema) :]:
                    for statement in statements:
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {schema.application_id}")
                connection.execute(f"PRAGMA user_version = {len(schema.migrations)}")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection, schema: Schema) -> int:
    """Return the version of a file; 0 if it is empty."""
    application_id, version, schema_version = connection.execute(
        "SELECT application_id, user_version, schema_version"
        " FROM pragma_application_id, pragma_user_version, pragma_schema_version"
    ).fetchone()
    if application_id != schema.application_id:
        if application_id or version or schema_version:
            raise ForeignFileError("is a database of another program; give another file")
        return 0
    newest = len(schema.migrations)
    if not 0 < version <= newest:
        raise ForeignFileError(
            f"holds {schema.what} in the form of version {version}, and this stageflow knows"
            f" versions up to {newest}; use a stageflow at least as new as the one that wrote it"
        )
    return int(version)


def guarded(
    work: Callable[[], T],
    *,
    invalid: Callable[[str], Exception],
    failed: Callable[[Exception], Exception],
) -> T:
    """Run `work` on a file; replace errors by `invalid` for another kind of file, or `failed`."""
    try:
        return work()
    except ForeignFileError as error:
        raise invalid(str(error)) from error
    # An error message of SQLite quotes a damaged schema, which need not be valid UTF-8.
    except (sqlite3.Error, OSError, UnicodeError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise invalid("is not an SQLite database; give another file") from error
        raise failed(error) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a BEGIN IMMEDIATE transaction, so that it never acts on stale reads."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself if, say, the disk was full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
