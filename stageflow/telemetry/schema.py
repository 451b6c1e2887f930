"""The schema of a telemetry file: its versions, and how a file comes from one to the next.

docs/telemetry.md explains the tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from stageflow.sqlite_file import connect, patiently, transaction
from stageflow.telemetry.errors import InvalidTelemetryFileError, TelemetryFileError

T = TypeVar("T")

#: Marks the file as ours in SQLite's header ("SfTL").
APPLICATION_ID = 0x5366544C

_VERSION_1 = (
    """\
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  pipeline TEXT NOT NULL,
  source TEXT NOT NULL,
  started_s REAL NOT NULL,
  status TEXT NOT NULL,
  duration_ms REAL,
  failed_stage TEXT,
  error_code TEXT
)""",
    "CREATE INDEX runs_by_run_id ON runs (run_id)",
    "CREATE INDEX runs_by_start ON runs (started_s)",
    """\
CREATE TABLE kinds (
  id INTEGER PRIMARY KEY,
  type TEXT NOT NULL UNIQUE,
  stage TEXT
)""",
    """\
CREATE TABLE events (
  run INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  offset_ms REAL NOT NULL,
  duration_ms REAL,
  error_code TEXT,
  detail TEXT,
  PRIMARY KEY (run, sequence)
) WITHOUT ROWID""",
    """\
CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  stage TEXT NOT NULL,
  outcome TEXT NOT NULL,
  error_code TEXT NOT NULL,
  UNIQUE (pipeline, stage, outcome, error_code)
)""",
    """\
CREATE TABLE rollups (
  span_s INTEGER NOT NULL,
  start_s INTEGER NOT NULL,
  series INTEGER NOT NULL,
  bucket INTEGER NOT NULL,
  count INTEGER NOT NULL,
  run INTEGER NOT NULL,
  PRIMARY KEY (span_s, start_s, series, bucket)
) WITHOUT ROWID""",
    """\
CREATE TABLE breaker_changes (
  id INTEGER PRIMARY KEY,
  at_s REAL NOT NULL,
  provider TEXT NOT NULL,
  source TEXT NOT NULL,
  before TEXT NOT NULL,
  after TEXT NOT NULL,
  reason TEXT NOT NULL,
  pipeline TEXT NOT NULL,
  stage TEXT NOT NULL,
  run_id TEXT NOT NULL
)""",
    "CREATE INDEX breaker_changes_by_time ON breaker_changes (at_s)",
    "CREATE INDEX breaker_changes_by_breaker ON breaker_changes (provider, source, at_s)",
    """\
CREATE TABLE dead_letters (
  letter_id TEXT PRIMARY KEY,
  at_s REAL NOT NULL,
  pipeline TEXT NOT NULL,
  run_id TEXT NOT NULL,
  failed_stage TEXT,
  provider TEXT,
  error_code TEXT NOT NULL,
  replayed_s REAL,
  replay_run_id TEXT
)""",
    "CREATE INDEX dead_letters_by_time ON dead_letters (at_s)",
    "CREATE INDEX dead_letters_waiting ON dead_letters (at_s) WHERE replayed_s IS NULL",
    """\
CREATE VIEW stage_events AS
  SELECT runs.run_id, runs.pipeline, kinds.stage, kinds.type, events.sequence,
    runs.started_s + events.offset_ms / 1000.0 AS at_s,
    events.duration_ms, events.error_code, events.detail
  FROM events JOIN runs ON runs.id = events.run JOIN kinds ON kinds.id = events.kind
  WHERE kinds.stage IS NOT NULL""",
)

#: Series of streams. SQLite changes what is unique by a new table alone; a process that still
#: writes version 1 goes on, thanks to the default.
_VERSION_2 = (
    """\
CREATE TABLE new_series (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  stage TEXT NOT NULL,
  stream TEXT NOT NULL DEFAULT '',
  outcome TEXT NOT NULL,
  error_code TEXT NOT NULL,
  UNIQUE (pipeline, stage, stream, outcome, error_code)
)""",
    """\
INSERT INTO new_series
  SELECT id, pipeline, stage, '', outcome, error_code FROM series ORDER BY id""",
    "DROP TABLE series",
    "ALTER TABLE new_series RENAME TO series",
)

#: What makes version n + 1 of a file of version n, at place n. A released one is never changed:
#: write the next.
MIGRATIONS: tuple[Sequence[str], ...] = (_VERSION_1, _VERSION_2)


def open_file(
    path: Path,
    *,
    create: bool,
    busy_timeout_s: float,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> sqlite3.Connection:
    """Open a file of telemetry, brought to the newest version; any one thread may use it.

    Args:
        path: The file.
        create: Whether to make it if there is none.
        busy_timeout_s: How long to wait for another process that writes, in seconds.
        migrations: What makes each version from the one before.

    Raises:
        InvalidTelemetryFileError: It holds something else, or is of a newer version.
        TelemetryFileError: It cannot be opened.
    """
    return guarded("open", path, lambda: _opened(path, create, busy_timeout_s, migrations))


def guarded(action: str, path: Path, work: Callable[[], T]) -> T:
    """Do what touches the file; what SQLite raises becomes an error of ours.

    Raises:
        InvalidTelemetryFileError: It is no database.
        TelemetryFileError: Something else is wrong with it.
    """
    try:
        return work()
    except (sqlite3.Error, OSError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise InvalidTelemetryFileError(
                str(path), "is no SQLite database; give another file"
            ) from error
        raise TelemetryFileError(action, str(path), error) from error


def _opened(
    path: Path, create: bool, busy_timeout_s: float, migrations: Sequence[Sequence[str]]
) -> sqlite3.Connection:
    connection = connect(path, create=create, busy_timeout_s=busy_timeout_s, any_thread=True)
    try:
        version = patiently(lambda: _version(connection, path, len(migrations)), busy_timeout_s)
        if version == 0:
            patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), busy_timeout_s)
        if version < len(migrations):
            _migrate(connection, path, migrations)
        # A process that is killed loses nothing that was committed; a computer that loses its
        # power may lose the last seconds, and the file stays whole all the same.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]
) -> None:
    with transaction(connection):
        # Looked up again: another process may have been faster.
        for statements in migrations[_version(connection, path, len(migrations)) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """The version of the file; 0 if it is empty."""
    application_id, version, schema_version = connection.execute(
        "SELECT application_id, user_version, schema_version"
        " FROM pragma_application_id, pragma_user_version, pragma_schema_version"
    ).fetchone()
    if application_id != APPLICATION_ID and (application_id or version or schema_version):
        raise InvalidTelemetryFileError(
            str(path), "is a database of another program; give another file"
        )
    if version > newest:
        raise InvalidTelemetryFileError(
            str(path),
            f"holds telemetry in the form of version {version}, and this stageflow knows versions"
            f" up to {newest}; use a stageflow at least as new as the one that wrote it",
        )
    return int(version)
