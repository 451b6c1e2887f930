"""Where commands store telemetry and dead letters: a file, or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from stageflow._utils.arguments import Arguments, option
from stageflow._utils.postgres import is_postgres
from stageflow._utils.text import shown_address
from stageflow.cli.common import UsageError, complain, needing
from stageflow.dlq import DeadLetterStore, SQLiteDeadLetterStore
from stageflow.events import EventDispatcher, EventSink
from stageflow.telemetry import JsonLinesSink, SQLiteSink


def add_telemetry(parser: Arguments) -> None:
    """Add ``--telemetry``."""
    text = "append the events: FILE.db, FILE.jsonl, postgresql://user@host/db"
    option(parser, "--telemetry STORE", text)


def add_dead_letters(parser: Arguments, what: str) -> None:
    """Add ``--dlq``."""
    text = f"store {what} as a dead letter: FILE.db, postgresql://user@host/db"
    option(parser, "--dlq STORE", text)


@contextmanager
def recorded(where: str | None, *others: EventSink) -> Iterator[EventDispatcher]:
    """Yield a dispatcher to the store `where`, if given, and to `others`; report lost events."""
    sinks: list[EventSink] = [] if where is None else [_sink(where)]
    with EventDispatcher([*sinks, *others]) as dispatcher:
        yield dispatcher
    for stats in dispatcher.stats()[: len(sinks)]:
        if lost := stats.dropped + stats.failed:
            complain(f"error: {lost} of {lost + stats.written} events did not reach the telemetry")


def _sink(where: str) -> EventSink:
    if is_postgres(where):
        with needing("db"):
            from stageflow.telemetry.postgres import PostgresSink  # noqa: PLC0415 - an extra
        return PostgresSink(where)
    suffix = Path(where).suffix
    if suffix in {".db", ".jsonl"}:
        return SQLiteSink(where) if suffix == ".db" else JsonLinesSink(where)
    raise UsageError(
        f"--telemetry {shown_address(where)}: give a name that ends in .db or .jsonl,"
        " for SQLite or JSON lines"
    )


def letter_store(
    where: str, *, create: bool = True
) -> AbstractAsyncContextManager[DeadLetterStore]:
    """Return the store of dead letters in a SQLite file or at a PostgreSQL URL.

    A missing file is created unless `create` is false.
    """
    if not is_postgres(where):
        return SQLiteDeadLetterStore(where, create=create)
    with needing("db"):
        from stageflow.dlq.postgres import PostgresDeadLetterStore  # noqa: PLC0415 - an extra
    return PostgresDeadLetterStore(where)
