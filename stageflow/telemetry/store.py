"""Read and prune what the sinks for SQLite and PostgreSQL have written.

All methods but `TelemetryStore.run` read counts by minute and hour, so their cost does not grow
with the number of events. Times are seconds since the epoch. A window is widened to whole minutes.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from stageflow._utils.closing import Closing
from stageflow._utils.extras import install_command
from stageflow._utils.postgres import is_postgres
from stageflow.events.log import FAILED, FIRST_AUDIO, USAGE, Event
from stageflow.telemetry import readings
from stageflow.telemetry.database import HOUR_S, MINUTE_S, Database, SqliteDatabase, TelemetryError
from stageflow.telemetry.readings import Histogram, RunNote, Window
from stageflow.telemetry.runs import FIRST_ITEM, MEASURED, USAGE_PARTS

#: `TelemetryStore.sources` looks at this many of the newest runs.
NEWEST_RUNS = 1000
#: `prune` removes this many runs in one transaction.
_RUNS_AT_ONCE = 200
_FACTS = "run_id, pipeline, source, started_s, status, duration_ms, failed_stage, error_code"
_FIRSTS = (FIRST_ITEM, FIRST_AUDIO)
_NO_ENDS = (*_FIRSTS, USAGE)
_COUNT = "CAST(sum(count) AS BIGINT)"


class TelemetryStore(Closing):
    """Telemetry, opened for reading while others write. Close it, or use it in ``with``.

    Any thread may use it, one at a time. Every method may raise `TelemetryError`. `where` is the
    full path and `name` the file's name; or both are the URL without the password.
    """

    def __init__(self, where: str | Path, *, busy_timeout_s: float = 5.0) -> None:
        """Open a file or database, and bring an older one to the newest version.

        Args:
            where: The file, or ``postgresql://user:password@host:port/database``.
            busy_timeout_s: How long to wait for the server or another process, in seconds.

        Raises:
            TelemetryError: It holds no telemetry, is of a newer version, or cannot be opened.
        """
        self._database = _opened(where, busy_timeout_s, read_only=True)
        self.where, self.name = self._database.where, self._database.name

    def close(self) -> None:
        """Close the file or connection."""
        self._database.close()

    def known(self) -> tuple[tuple[str, str | None], ...]:
        """Return every pipeline with None, for its runs, then with each stage that has ended."""
        query = (
            "SELECT DISTINCT pipeline, stage FROM series WHERE outcome NOT IN (?, ?, ?)"
            " ORDER BY pipeline, stage"
        )
        return tuple((pipeline, stage or None) for pipeline, stage in self._rows(query, *_NO_ENDS))

    def covered(self) -> Window | None:
        """Return the window of all minutes in which something ended; None if there is none."""
        end = "(SELECT {}(start_s) FROM rollups WHERE span_s = ?)"  # each uses the index
        query = f"SELECT {end.format('min')}, {end.format('max')}"
        ((first, last),) = self._rows(query, MINUTE_S, MINUTE_S)
        return None if first is None else Window(first, last + MINUTE_S)

    def sources(self) -> tuple[str, ...]:
        """Return the names of the processes of the newest runs, sorted."""
        query = (
            "SELECT DISTINCT source FROM (SELECT source FROM runs ORDER BY id DESC LIMIT ?)"
            " AS newest ORDER BY source"
        )
        return tuple(row[0] for row in self._rows(query, NEWEST_RUNS))

    def latencies(
        self, window: Window, *, pipeline: str | None = None, stage: str | None = None
    ) -> tuple[readings.Latency, ...]:
        """Return how long the stages and runs that ended in a window took.

        They are ordered by time, pipeline and stage; runs come before stages. Steps in which
        nothing ended have no entry. `pipeline` and `stage` select; the stage ``""`` is the runs.
        """
        found = self._histograms(window, pipeline, stage, MEASURED)
        return tuple(
            readings.Latency(step, where, stage_name or None, histogram)
            for (step, where, stage_name, _), histogram in found
        )

    def firsts(
        self, window: Window, *, pipeline: str | None = None, stage: str | None = None
    ) -> tuple[readings.First, ...]:
        """Return the times to first items of streams and to the first audio of runs.

        Arguments and order are those of `latencies`; streams are ordered by name. A first counts
        however its stage and run ended.
        """
        found = self._histograms(window, pipeline, stage, _FIRSTS)
        return tuple(
            readings.First(step, where, stage_name or None, histogram, stream or None)
            for (step, where, stage_name, stream), histogram in found
        )

    def usage(self, window: Window) -> Mapping[tuple[int, str, str, str], float]:
        """Return what a `UsageInterceptor` reported, by step, pipeline, provider and unit."""
        found = self._histograms(window, None, None, (USAGE,))
        return {key: histogram.count / USAGE_PARTS for key, histogram in found}

    def errors(
        self, window: Window, *, pipeline: str | None = None, stage: str | None = None
    ) -> tuple[readings.Errors, ...]:
        """Return how stages and runs ended; arguments and order are those of `latencies`."""
        found: defaultdict[tuple[int, str, str], tuple[Counter[str], Counter[str]]]
        found = defaultdict(lambda: (Counter(), Counter()))
        series = self._series(pipeline, stage)
        for step, number, _, count in self._sums(window, "0", series):
            where, stage_name, _, outcome, code = series[number]
            if outcome not in _NO_ENDS:
                outcomes, codes = found[step, where, stage_name]
                outcomes[outcome] += count
                codes.update({code: count} if outcome == FAILED else {})
        return tuple(
            readings.Errors(step, where, stage_name or None, dict(outcomes), dict(codes))
            for (step, where, stage_name), (outcomes, codes) in sorted(found.items())
        )

    def breaker_changes(
        self, window: Window, *, provider: str | None = None
    ) -> tuple[readings.BreakerNote, ...]:
        """Return changes of circuit breakers in order of time.

        The latest change of each breaker before the window is included: it is the breaker's state
        when the window begins. A breaker without any change is closed.
        """
        columns = "at_s, provider, source, before, after, reason, pipeline, stage, run_id"
        rows = self._rows(
            f"SELECT {columns} FROM breaker_changes WHERE id IN ("  # noqa: S608 - columns
            " SELECT (SELECT id FROM breaker_changes AS last WHERE last.provider = one.provider"
            "  AND last.source = one.source AND last.at_s < ? ORDER BY at_s DESC, id DESC LIMIT 1)"
            " FROM (SELECT DISTINCT provider, source FROM breaker_changes) AS one"
            " UNION ALL SELECT id FROM breaker_changes WHERE at_s >= ? AND at_s < ?)"
            " AND ? IN (provider, '') ORDER BY at_s, id",
            *(window.start_s, window.start_s, window.end_s, provider or ""),
        )
        return tuple(readings.BreakerNote(*row) for row in rows)

    def dead_letters(
        self, window: Window | None = None, *, waiting: bool = False
    ) -> tuple[readings.LetterNote, ...]:
        """Return the dead letters that an `ObservedDeadLetterStore` has reported, by time.

        With `window`, only those whose run failed then; if `waiting`, only those not yet replayed.
        """
        start_s, end_s = (0.0, 1e18) if window is None else (window.start_s, window.end_s)
        unplayed = " AND replayed_s IS NULL" if waiting else ""
        rows = self._rows(
            "SELECT * FROM dead_letters"  # noqa: S608 - one of the two above
            f" WHERE at_s >= ? AND at_s < ?{unplayed} ORDER BY at_s, letter_id",
            *(start_s, end_s),
        )
        return tuple(readings.LetterNote(*row) for row in rows)

    def run(self, run_id: str) -> RunNote:
        """Return a run with its events, the latest of that id; raise `TelemetryError` if none."""
        rows = self._rows("SELECT max(id) FROM runs WHERE run_id = ?", run_id)
        if rows[0][0] is None:
            problem = f"{self.where} holds no run {run_id!r}: it was pruned, or written elsewhere"
            message = f"{problem}; look in another file"
            raise TelemetryError(message, self.where, code="unknown_run")
        return self._run(rows[0][0])

    def run_at(self, window: Window, pipeline: str, share: float) -> RunNote | None:
        """Return a run of the percentile's bucket, so within 5 % of it; None if none is stored.

        `share` is 0.5 for a typical run that completed or failed in the window, 0.99 for a slow
        one, 1 for the slowest.
        """
        whole = Window(window.start_s, window.end_s)
        found = self.latencies(whole, pipeline=pipeline, stage="")
        if not found:
            return None
        last = found[0].histogram.bucket_at(share)
        rows = [row for row in self._examples(whole, pipeline) if row[2] <= last]
        stored = (row[3] for row in rows if self._rows("SELECT 1 FROM runs WHERE id = ?", row[3]))
        number = next(stored, None)
        return None if number is None else self._run(number)

    def examples(
        self, window: Window, pipeline: str, limit: int = 1000
    ) -> tuple[tuple[RunNote, str | None], ...]:
        """Return runs of a pipeline without their events, each with its slowest stage.

        There is at most one for each step and bucket of `Histogram`, `limit` in all; the slowest
        ones come first.
        """
        found = self._examples(window, pipeline)
        wanted = list(dict.fromkeys(row[3] for row in found))[:limit]
        notes: dict[int, RunNote] = {}
        slowest: dict[int, str] = {}
        for first in range(0, len(wanted), _RUNS_AT_ONCE):
            some = ", ".join(map(str, wanted[first : first + _RUNS_AT_ONCE]))
            rows = self._rows(f"SELECT id, {_FACTS} FROM runs WHERE id IN ({some})")  # noqa: S608
            notes |= {number: RunNote(*facts) for number, *facts in rows}
            rows = self._rows(
                "SELECT run, stage FROM events JOIN kinds ON kinds.id = events.kind"  # noqa: S608
                f" WHERE run IN ({some}) AND stage IS NOT NULL AND duration_ms IS NOT NULL"
                " ORDER BY duration_ms"
            )
            slowest |= dict(rows)
        return tuple((notes[n], slowest.get(n)) for n in wanted if n in notes)

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[Any, ...]]:
            self._database.renewed()
            return list(self._database.execute(query, values).fetchall())

        return self._database.guarded("read", read)

    def _series(
        self, pipeline: str | None, stage: str | None
    ) -> dict[int, tuple[str, str, str, str, str]]:
        """Return pipeline, stage ("" for runs), stream, outcome and error code by number."""
        rows = self._rows("SELECT id, pipeline, stage, stream, outcome, error_code FROM series")
        return {
            number: (where, stage_name, *others)
            for number, where, stage_name, *others in rows
            if pipeline in (None, where) and stage in (None, stage_name)
        }

    def _histograms(
        self, window: Window, pipeline: str | None, stage: str | None, outcomes: Collection[str]
    ) -> list[tuple[tuple[int, str, str, str], Histogram]]:
        found: defaultdict[tuple[int, str, str, str], Counter[int]] = defaultdict(Counter)
        series = self._series(pipeline, stage)
        for step, number, bucket, count in self._sums(window, "bucket", series):
            where, stage_name, stream, outcome, _ = series[number]
            if outcome in outcomes:
                found[step, where, stage_name, stream][bucket] += count
        return [(key, Histogram(counts)) for key, counts in sorted(found.items())]

    def _sums(
        self, window: Window, bucket: str, series: Mapping[int, object], value: str = _COUNT
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yield step, series, bucket, and the count of all minutes and hours of the step."""
        start_s, end_s = window.whole
        step_s = window.step_s or end_s - start_s
        wanted = ", ".join(map(str, series)) or "NULL"
        parts = " UNION ALL ".join(
            f"SELECT start_s, series, {bucket} AS bucket, count, run FROM rollups"  # noqa: S608 - numbers
            f" WHERE span_s = {span_s} AND start_s >= {low} AND start_s < {high}"
            f" AND series IN ({wanted})"
            for span_s, low, high in _stretches(start_s, end_s, step_s)
        )
        yield from self._rows(
            f"SELECT {start_s} + (start_s - {start_s}) / {step_s} * {step_s} AS step, series,"  # noqa: S608 - numbers
            f" bucket, {value} FROM ({parts}) AS parts GROUP BY 1, 2, 3"
        )

    def _examples(self, window: Window, pipeline: str) -> list[tuple[int, int, int, int]]:
        """Return step, series, bucket and a run of each, slowest and newest first."""
        numbers = {n: 0 for n, key in self._series(pipeline, "").items() if key[3] in MEASURED}
        found = self._sums(window, "bucket", numbers, "max(run)")
        return sorted(found, key=lambda row: (-row[2], -row[0], -row[3]))

    def _run(self, number: int) -> RunNote:
        (facts,) = self._rows(
            f"SELECT {_FACTS} FROM runs WHERE id = ?",  # noqa: S608 - columns
            number,
        )
        rows = self._rows(
            "SELECT sequence, type, stage, offset_ms, duration_ms, error_code, detail"
            " FROM events JOIN kinds ON kinds.id = events.kind WHERE run = ? ORDER BY sequence",
            number,
        )
        note = RunNote(*facts)
        return replace(note, events=tuple(_event(note, *row) for row in rows))


def _stretches(start_s: int, end_s: int, step_s: int) -> Iterator[tuple[int, int, int]]:
    """Yield the rollups to read of a window: their span, begin and end; hours where they fit."""
    first_hour, last_hour = -(-start_s // HOUR_S) * HOUR_S, end_s // HOUR_S * HOUR_S
    stepping = step_s < end_s - start_s
    if first_hour >= last_hour or (stepping and step_s % HOUR_S):
        yield MINUTE_S, start_s, end_s
        return
    yield HOUR_S, first_hour, last_hour
    if start_s < first_hour:
        yield MINUTE_S, start_s, first_hour
    if last_hour < end_s:
        yield MINUTE_S, last_hour, end_s


def _event(
    run: RunNote, sequence: int, kind: str, stage: str | None, offset_ms: float, *rest: Any
) -> Event:
    duration_ms, error_code, detail = rest
    data = json.loads(detail) if detail is not None else {}
    if duration_ms is not None:
        data["duration_ms"] = duration_ms
    if error_code is not None:
        data["error_code"] = error_code
    moment = datetime.fromtimestamp(run.started_s + offset_ms / 1000.0, UTC)
    return Event(sequence, kind, moment, run.run_id, offset_ms, stage, data)


#: A file, or the URL of a database.
Place: TypeAlias = Path | str


def place(where: str) -> Place:
    """Return the place that a command line names: ``postgresql://…`` or a file."""
    return where if is_postgres(where) else Path(where)


def _opened(where: str | Path, busy_timeout_s: float, *, read_only: bool = False) -> Database:
    if not is_postgres(str(where)):
        return SqliteDatabase(Path(where), read_only=read_only, busy_timeout_s=busy_timeout_s)
    try:
        from stageflow.telemetry.postgres import PostgresDatabase  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise TelemetryError.invalid_file(
            "PostgreSQL", f"needs {error.name}: {install_command('db')}"
        ) from error
    return PostgresDatabase(str(where), busy_timeout_s=busy_timeout_s)


@dataclass(frozen=True, slots=True)
class Pruned:
    """The numbers of removed rows, by table."""

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
    """Remove old telemetry in small steps, so that writers and readers need not wait.

    Waiting dead letters and the latest change of each circuit breaker stay. A file does not
    shrink; its free space is used again.

    Args:
        where: As of `TelemetryStore`.
        older_than_s: Age in seconds of runs, breaker changes and replayed dead letters to remove.
        rollups_older_than_s: The same for counts by minute and hour; `older_than_s` by default.
        wall_clock: Returns seconds since the epoch.
        busy_timeout_s: As of `TelemetryStore`.

    Raises:
        TelemetryError: As of `TelemetryStore`, or it cannot be written.
    """
    now_s = wall_clock()
    rollups_s = older_than_s if rollups_older_than_s is None else rollups_older_than_s
    before_s = now_s - older_than_s, now_s - rollups_s
    database = _opened(where, busy_timeout_s)
    with closing(database):
        return database.guarded("prune", lambda: _pruned(database, *before_s))


def _pruned(database: Database, before_s: float, rollups_before_s: float) -> Pruned:
    def removed(query: str, *values: float) -> int:
        with database.transaction():
            return int(database.execute(query, values).rowcount)

    runs, events = _prune_runs(database, before_s)
    rollups, oldest = 0, "SELECT min(start_s) FROM rollups WHERE span_s = ?"
    query = f"DELETE FROM rollups WHERE span_s = ? AND start_s = ({oldest}) AND start_s <= ?"  # noqa: S608
    for span_s in (MINUTE_S, HOUR_S):
        while count := removed(query, span_s, span_s, rollups_before_s - span_s):
            rollups += count
    changes = removed(
        "DELETE FROM breaker_changes WHERE at_s < ? AND id NOT IN"
        " (SELECT max(id) FROM breaker_changes GROUP BY provider, source)",
        before_s,
    )
    query = "DELETE FROM dead_letters WHERE replayed_s IS NOT NULL AND at_s < ?"
    return Pruned(runs, events, rollups, changes, removed(query, before_s))


def _prune_runs(database: Database, before_s: float) -> tuple[int, int]:
    # The latest run stays: the number of the next one must not be that of a removed one.
    chosen = (
        "SELECT id FROM runs WHERE started_s < ? AND id < (SELECT max(id) FROM runs)"
        " ORDER BY started_s LIMIT ?"
    )
    runs = events = 0
    while True:
        with database.transaction():
            ids = database.execute(chosen, (before_s, _RUNS_AT_ONCE)).fetchall()
            if not ids:
                # Events that runs under way have written since they were removed.
                query = "DELETE FROM events WHERE run < (SELECT min(id) FROM runs)"
                return runs, events + database.execute(query).rowcount
            events += database.executemany("DELETE FROM events WHERE run = ?", ids).rowcount
            database.executemany("DELETE FROM runs WHERE id = ?", ids)
            runs += len(ids)
