"""Connections to databases of telemetry, with the versions of their schema and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from stageflow._utils import sqlite
from stageflow._utils.files import is_at
from stageflow._utils.fork import leave
from stageflow.errors import LOGIC, SYSTEMIC, StageflowError

T = TypeVar("T")
MINUTE_S = 60
HOUR_S = 3600
#: Marks the file as ours in SQLite's header ("SfTL").
APPLICATION_ID = 0x5366544C
#: The statements that make version n + 1 out of version n, at place n. Never change a released
#: file: add the next.
MIGRATIONS = sqlite.migrations(Path(__file__).with_name("schema"))


class TelemetryError(StageflowError, code="telemetry_error"):
    """Telemetry could not be written to or read from `where`, a file or database."""

    codes: ClassVar = {
        "invalid_telemetry_file": LOGIC,
        "telemetry_file_failed": SYSTEMIC,
        "unknown_run": LOGIC,
    }

    def __init__(self, message: str, where: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.where = where

    @staticmethod
    def invalid_file(where: str, problem: str) -> TelemetryError:
        """Return the error of a file or database without telemetry, or of a newer version."""
        return TelemetryError(f"{where} {problem}", where, code="invalid_telemetry_file")

    @staticmethod
    def file_failed(
        action: str,
        where: str,
        cause: BaseException,
        fix: str = "the file is there, that the disk has room, and that no other process holds it"
        " locked",
    ) -> TelemetryError:
        """Return the error of a file or database that cannot be opened, read or written."""
        reason = f"{type(cause).__name__}: {cause}"
        message = f"cannot {action} the telemetry in {where} ({reason}); see that {fix}"
        error = TelemetryError(message, where, code="telemetry_file_failed")
        error.__cause__ = cause
        return error


class Database(Protocol):
    """A connection to a database of telemetry; ``?`` stands for a value in its statements.

    `where` is the full path and `name` the file's name; or both are the URL without the password.
    """

    where: str
    name: str

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Any: ...
    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Any: ...
    def close(self) -> None: ...

    def transaction(self) -> AbstractContextManager[None]:
        """Run the block in a transaction; other writers wait from its start."""

    def guarded(self, action: str, work: Callable[[], T]) -> T:
        """Call `work` and raise errors of the database as `TelemetryError`."""

    def renewed(self) -> bool:
        """Open the database again if its file was moved or deleted; return whether it was."""

    def after_fork(self) -> None:
        """Leave the connection to the parent process and use another one."""


class SqliteDatabase:
    """A `Database` in a SQLite file; any one thread at a time may use it."""

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        read_only: bool = False,
        busy_timeout_s: float,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        """Open the file and bring it to the newest version, or raise `TelemetryError`."""
        self._path = path
        self.where = str(path.resolve())
        self.name = path.name
        schema = sqlite.Schema("telemetry", APPLICATION_ID, migrations)
        # A killed process loses nothing that was committed. A loss of power may cost the last
        # seconds, but does not damage the file.
        pragmas = ["synchronous = NORMAL", *(["query_only = ON"] if read_only else [])]
        self._open = lambda: sqlite.open_file(
            *(path, schema, pragmas), create=create, busy_timeout_s=busy_timeout_s, any_thread=True
        )
        self._connect()

    def _connect(self) -> None:
        self.connection = self.guarded("open", self._open)
        self.execute, self.executemany = self.connection.execute, self.connection.executemany
        self._opened = self._path.stat()

    def renewed(self) -> bool:
        if is_at(self._opened, self._path):
            return False
        old = self.connection
        self._connect()
        old.close()
        return True

    def transaction(self) -> AbstractContextManager[None]:
        return sqlite.transaction(self.connection)

    def guarded(self, action: str, work: Callable[[], T]) -> T:
        return sqlite.guarded(
            work,
            invalid=lambda problem: TelemetryError.invalid_file(str(self._path), problem),
            failed=lambda error: TelemetryError.file_failed(action, str(self._path), error),
        )

    def after_fork(self) -> None:
        leave(self.connection)
        self._connect()

    def close(self) -> None:
        self.connection.close()
