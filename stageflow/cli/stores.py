"""Where the command line keeps dead letters: a SQLite file, or PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from stageflow.cli.errors import needing
from stageflow.dlq.sqlite import SQLiteDeadLetterStore
from stageflow.dlq.store import DeadLetterStore

_POSTGRES = ("postgresql://", "postgres://")


def is_file(where: str) -> bool:
    """Whether `where` names a file, and not a database's URL."""
    return not where.startswith(_POSTGRES)


def letter_store(
    where: str, *, create: bool = True
) -> AbstractAsyncContextManager[DeadLetterStore]:
    """The store of dead letters in a SQLite file, or at a URL of PostgreSQL.

    Args:
        where: The file or the URL.
        create: Whether a file is made if there is none.

    Raises:
        UsageError: The client of PostgreSQL is not installed.
    """
    if is_file(where):
        return SQLiteDeadLetterStore(where, create=create)
    with needing("db"):
        from stageflow.dlq.postgres import PostgresDeadLetterStore  # noqa: PLC0415 - an extra
    return PostgresDeadLetterStore(where)
