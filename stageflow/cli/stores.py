"""Where the command line keeps dead letters: a SQLite file, or PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from stageflow.cli.errors import needing
from stageflow.dlq.sqlite import SQLiteDeadLetterStore
from stageflow.dlq.store import DeadLetterStore
from stageflow.postgres_url import is_postgres


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
    if not is_postgres(where):
        return SQLiteDeadLetterStore(where, create=create)
    with needing("db"):
        from stageflow.dlq.postgres import PostgresDeadLetterStore  # noqa: PLC0415 - an extra
    return PostgresDeadLetterStore(where)
