"""``--telemetry FILE``: where a command records what it runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stageflow.cli.errors import UsageError
from stageflow.cli.options import complain
from stageflow.dispatch import EventDispatcher
from stageflow.events import EventSink
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
        metavar="FILE",
        help="record the run: in SQLite for FILE.db, as JSON lines for FILE.jsonl; what the file"
        " holds already stays",
    )


@contextmanager
def recorded(file: str | None, *others: EventSink) -> Iterator[EventDispatcher]:
    """A dispatcher into `file` (None: into none) and `others`, flushed at the end.

    What the file has lost is told.

    Raises:
        UsageError: The name of the file does not tell what it is to be.
        TelemetryError: The file cannot be opened, or holds something else.
    """
    sinks: list[EventSink] = [] if file is None else [_sink(file)]
    with EventDispatcher([*sinks, *others]) as dispatcher:
        yield dispatcher
    for stats in dispatcher.stats()[: len(sinks)]:
        if lost := stats.dropped + stats.failed:
            complain(f"error: {lost} of {lost + stats.written} events did not reach {file}")


def _sink(file: str) -> EventSink:
    make = _SINKS.get(Path(file).suffix)
    if make is None:
        raise UsageError(
            f"--telemetry {file}: give a name that ends in {' or '.join(_SINKS)}, for SQLite or"
            " JSON lines"
        )
    return make(file)
