"""Removes old telemetry, a little at a time, so that nobody who writes waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from stageflow.postgres_url import is_postgres
from stageflow.sqlite_file import transaction
from stageflow.telemetry.schema import guarded, open_file
from stageflow.telemetry.sqlite import HOUR_S, MINUTE_S, Connection

#: Begins a transaction.
Begin: TypeAlias = Callable[[], AbstractContextManager[None]]

#: Runs that are removed in one transaction.
_RUNS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows were removed, by table."""

    runs: int
    events: int
    rollups: int
    breaker_changes: int
    dead_letters: int


def prune(
    where: str | Path,
    older_than_s: float,
    *,
    rollups_older_than_s: float | None = None,
    wall_clock: Callable[[], float] = time.time,
    busy_timeout_s: float = 5.0,
) -> Pruned:
    """Remove what is old. Others may write and read meanwhile.

    Dead letters that wait stay, and so does the latest change of each circuit breaker, which tells
    its state. A file does not shrink: what is free is used again.

    Args:
        where: The file, or the URL of a PostgreSQL database.
        older_than_s: Remove runs with their events, breaker changes, and replayed dead letters
            from before so many seconds ago.
        rollups_older_than_s: The same for sums by minute and hour; as `older_than_s` if left out.
        wall_clock: Seconds since the epoch.
        busy_timeout_s: How long to wait for a process that writes, in seconds.

    Returns:
        What was removed.

    Raises:
        InvalidTelemetryFileError: It holds something else, or is of a newer version.
        TelemetryFileError: It cannot be opened or written.
    """
    now_s = wall_clock()
    rollups_s = older_than_s if rollups_older_than_s is None else rollups_older_than_s
    before_s = now_s - older_than_s, now_s - rollups_s
    if is_postgres(str(where)):
        from stageflow.telemetry.postgres import PostgresConnection  # noqa: PLC0415 - an extra

        server = PostgresConnection(str(where), create=False, busy_timeout_s=busy_timeout_s)
        with closing(server):
            return server.guarded("prune", lambda: _pruned(server, server.transaction, *before_s))
    path = Path(where)
    with closing(open_file(path, create=False, busy_timeout_s=busy_timeout_s)) as file:
        return guarded("prune", path, lambda: _pruned(file, lambda: transaction(file), *before_s))


def _pruned(
    connection: Connection, begin: Begin, before_s: float, rollups_before_s: float
) -> Pruned:
    events = runs = 0
    for removed_events, removed_runs in _runs(connection, begin, before_s):
        events += removed_events
        runs += removed_runs
    rollups = sum(_rollups(connection, begin, rollups_before_s))
    with begin():
        changes = connection.execute(
            "DELETE FROM breaker_changes WHERE at_s < ? AND id NOT IN"
            " (SELECT max(id) FROM breaker_changes GROUP BY provider, source)",
            (before_s,),
        ).rowcount
        letters = connection.execute(
            "DELETE FROM dead_letters WHERE replayed_s IS NOT NULL AND at_s < ?", (before_s,)
        ).rowcount
    return Pruned(runs, events, rollups, changes, letters)


def _runs(connection: Connection, begin: Begin, before_s: float) -> Iterator[tuple[int, int]]:
    # The latest run stays: the next one's number follows its, and shall not be a removed one's.
    chosen = (
        "SELECT id FROM runs WHERE started_s < ? AND id < (SELECT max(id) FROM runs)"
        " ORDER BY started_s LIMIT ?"
    )
    while True:
        with begin():
            ids = connection.execute(chosen, (before_s, _RUNS_AT_ONCE)).fetchall()
            events = connection.executemany("DELETE FROM events WHERE run = ?", ids).rowcount
            connection.executemany("DELETE FROM runs WHERE id = ?", ids)
        if not ids:
            break
        yield events, len(ids)
    with begin():
        # What a run that was still under way has written since.
        query = "DELETE FROM events WHERE run < (SELECT min(id) FROM runs)"
        yield connection.execute(query).rowcount, 0


def _rollups(connection: Connection, begin: Begin, before_s: float) -> Iterator[int]:
    oldest = "SELECT min(start_s) FROM rollups WHERE span_s = ?"
    for span_s in (MINUTE_S, HOUR_S):
        while True:
            with begin():
                (first,) = connection.execute(oldest, (span_s,)).fetchone()
                if first is None or first + span_s > before_s:
                    break
                query = "DELETE FROM rollups WHERE span_s = ? AND start_s = ?"
                removed = connection.execute(query, (span_s, first)).rowcount
            yield removed
