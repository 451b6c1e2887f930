"""``--telemetry STORE``: where a command records what it runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stageflow.cli.errors import UsageError, needing
from stageflow.cli.options import complain
from stageflow.dispatch import EventDispatcher
from stageflow.events import EventSink
from stageflow.postgres_url import is_postgres
from stageflow.telemetry.jsonl import JsonLinesSink
from stageflow.telemetry.sqlite import SQLiteSink

_SINKS: dict[str, type[JsonLinesSink] | type[SQLiteSink]] = {
    ".db": SQLiteSink,
    ".jsonl": JsonLinesSink,
}


def add_telemetry(parser: argparse.ArgumentParser) -> None:
    """Let the command take ``--telemetry``."""
    parser.add_argument(
        "--telemetry",
        metavar="STORE",
        help="record the run: in SQLite for FILE.db, as JSON lines for FILE.jsonl, or in PostgreSQL"
        " (postgresql://user@host/database); what is there already stays",
    )


@contextmanager
def recorded(where: str | None, *others: EventSink) -> Iterator[EventDispatcher]:
    """A dispatcher into `where` (None: into none) and `others`, flushed at the end.

    What it has lost is told.

    Raises:
        UsageError: The name of the file does not tell what it is to be.
        TelemetryError: It cannot be opened, or holds something else.
    """
    sinks: list[EventSink] = [] if where is None else [_sink(where)]
    with EventDispatcher([*sinks, *others]) as dispatcher:
        yield dispatcher
    for stats in dispatcher.stats()[: len(sinks)]:
        if lost := stats.dropped + stats.failed:
            complain(f"error: {lost} of {lost + stats.written} events did not reach the telemetry")


def _sink(file: str) -> EventSink:
    if is_postgres(file):
        with needing("db"):
            from stageflow.telemetry.postgres import PostgresSink  # noqa: PLC0415 - an extra
        return PostgresSink(file)
    make = _SINKS.get(Path(file).suffix)
    if make is None:
        raise UsageError(
            f"--telemetry {file}: give a name that ends in {' or '.join(_SINKS)}, for SQLite or"
            " JSON lines"
        )
    return make(file)
