"""Where telemetry is read: a SQLite file or a PostgreSQL database, opened alike."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from stageflow.postgres_url import is_postgres
from stageflow.telemetry.errors import InvalidTelemetryFileError
from stageflow.telemetry.store import TelemetryStore

#: A file, or the URL of a database.
Place: TypeAlias = Path | str


def place(where: str) -> Place:
    """What a command line names: ``postgresql://…``, or a file."""
    return where if is_postgres(where) else Path(where)


def open_store(where: Place) -> TelemetryStore:
    """Open what is there for reading.

    Raises:
        InvalidTelemetryFileError: It holds something else, is of a newer version, or the client of
            PostgreSQL is not installed.
        TelemetryFileError: It cannot be opened.
    """
    if isinstance(where, Path):
        return TelemetryStore(where)
    try:
        from stageflow.telemetry.postgres import PostgresTelemetryStore  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise InvalidTelemetryFileError(
            "PostgreSQL", f"needs {error.name}: pip install 'stageflow[db]'"
        ) from error
    return PostgresTelemetryStore(where)
