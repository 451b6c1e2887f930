"""Reads what `stageflow.telemetry.sqlite` has written: what a dashboard asks for.

All but `TelemetryStore.run` reads sums by minute and hour, and stays fast however many events there
are. Times are seconds since the epoch. A window that begins or ends within a minute is widened to
the whole of it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from stageflow.closing import Closing
from stageflow.events import FAILED, Event
from stageflow.telemetry.errors import UnknownRunError
from stageflow.telemetry.histogram import Histogram
from stageflow.telemetry.outcomes import FIRST_AUDIO, FIRST_ITEM, MEASURED
from stageflow.telemetry.schema import guarded, open_file
from stageflow.telemetry.sqlite import HOUR_S, MINUTE_S, Connection

T = TypeVar("T")
#: Of how many of the newest runs the sources are told.
NEWEST_RUNS = 1000
_FIRSTS = (FIRST_ITEM, FIRST_AUDIO)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time.

    Attributes:
        start_s: Its first moment.
        end_s: The first moment after it.
        step_s: Into steps of how many seconds it is divided, a multiple of 60; they begin at
            multiples of that since the epoch. None: it is one step.
    """

    start_s: float
    end_s: float
    step_s: int | None = None

    def __post_init__(self) -> None:
        if not self.start_s < self.end_s:
            raise ValueError(f"the window ends at {self.end_s}, before {self.start_s}; swap them")
        if self.step_s is not None and (self.step_s <= 0 or self.step_s % MINUTE_S):
            raise ValueError(f"step_s is {self.step_s}; give a positive multiple of {MINUTE_S}")

    @property
    def whole(self) -> tuple[int, int]:
        """The window in whole minutes, or whole steps if it has some."""
        unit = self.step_s or MINUTE_S
        return int(self.start_s // unit * unit), -int(-self.end_s // unit * unit)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a stage, or the runs of a pipeline, took in one step of a window.

    Attributes:
        start_s: Begin of the step.
        pipeline: Name of the pipeline.
        stage: Name of the stage; None for the runs.
        histogram: The durations of those that completed or failed.
    """

    start_s: int
    pipeline: str
    stage: str | None
    histogram: Histogram

    @property
    def p50_ms(self) -> float:
        """The median in milliseconds."""
        return self.histogram.percentile_ms(0.50)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile in milliseconds."""
        return self.histogram.percentile_ms(0.95)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile in milliseconds."""
        return self.histogram.percentile_ms(0.99)


@dataclass(frozen=True, slots=True)
class First(Latency):
    """After what time the first of something was there, in one step of a window.

    Attributes:
        start_s, pipeline, stage: As those of `Latency`.
        histogram: From the start of the stage to the first item of a stream; of runs, from the
            start of the run to its first audio.
        stream: Name of the stream; None for the runs.
    """

    stream: str | None


@dataclass(frozen=True, slots=True)
class Errors:
    """How often a stage, or the runs of a pipeline, ended in which way in one step of a window.

    Attributes:
        start_s: Begin of the step.
        pipeline: Name of the pipeline.
        stage: Name of the stage; None for the runs.
        outcomes: Counts by outcome: completed, failed, skipped, cancelled.
        codes: Counts of those that failed, by the code of their error.
    """

    start_s: int
    pipeline: str
    stage: str | None
    outcomes: Mapping[str, int]
    codes: Mapping[str, int]

    @property
    def rate(self) -> float:
        """The share of those that failed among those that completed or failed; 0 if none did."""
        ended = sum(self.outcomes.get(outcome, 0) for outcome in MEASURED)
        return self.outcomes.get(FAILED, 0) / ended if ended else 0.0


@dataclass(frozen=True, slots=True)
class BreakerTurn:
    """A circuit breaker went from one state to another.

    Attributes:
        at_s: When.
        provider: The provider that it guards.
        source: The process that it is in; see `SQLiteSink`.
        before: The state that it left: closed, open, half_open.
        after: The state that it entered.
        reason: Why, in a few words.
        pipeline: The pipeline whose stage brought it about.
        stage: That stage.
        run_id: Its run.
    """

    at_s: float
    provider: str
    source: str
    before: str
    after: str
    reason: str
    pipeline: str
    stage: str
    run_id: str


@dataclass(frozen=True, slots=True)
class LetterNote:
    """What telemetry knows of a dead letter.

    Attributes:
        letter_id: Its id.
        at_s: When its run failed.
        pipeline: Name of the pipeline.
        run_id: Id of the run that failed.
        failed_stage: The stage that failed the run; None if its deadline did.
        provider: The provider that this stage calls, if it names one.
        error_code: Why.
        replayed_s: When it was replayed; None while it waits.
        replay_run_id: The run that completed it.
    """

    letter_id: str
    at_s: float
    pipeline: str
    run_id: str
    failed_stage: str | None
    provider: str | None
    error_code: str
    replayed_s: float | None
    replay_run_id: str | None


@dataclass(frozen=True, slots=True)
class RunNote:
    """What telemetry knows of a run.

    Attributes:
        run_id: Its id.
        pipeline: Name of the pipeline.
        source: The process that ran it; see `SQLiteSink`.
        started_s: When it began.
        status: running, completed, failed or cancelled.
        duration_ms: How long it took, in milliseconds; None while it runs.
        failed_stage: The stage that failed it.
        error_code: Why it failed.
        events: What happened, in order.
    """

    run_id: str
    pipeline: str
    source: str
    started_s: float
    status: str
    duration_ms: float | None
    failed_stage: str | None
    error_code: str | None
    events: tuple[Event, ...] = ()


class TelemetryStore(Closing):
    """A file of telemetry, opened for reading while others write. Close it, or use it in ``with``.

    Any thread may use it, one at a time. Every method may raise `TelemetryFileError`.
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float = 5.0) -> None:
        """Open the file; one of an older version is brought to the newest first.

        Args:
            path: The file.
            busy_timeout_s: How long to wait for a process that writes, in seconds.

        Raises:
            InvalidTelemetryFileError: It holds something else, or is of a newer version.
            TelemetryFileError: It cannot be opened.
        """
        self._path = Path(path)
        #: Tells it from other stores.
        self.where = str(self._path.resolve())
        #: What it is called.
        self.name = self._path.name
        self._connection: Connection = open_file(
            self._path, create=False, busy_timeout_s=busy_timeout_s
        )
        self._connection.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def known(self) -> tuple[tuple[str, str | None], ...]:
        """Every pipeline, and with it every stage that has ended; None for its runs, first."""
        query = (
            "SELECT DISTINCT pipeline, stage FROM series WHERE outcome NOT IN (?, ?)"
            " ORDER BY pipeline, stage"
        )
        return tuple((pipeline, stage or None) for pipeline, stage in self._rows(query, *_FIRSTS))

    def covered(self) -> Window | None:
        """From the first minute in which something ended to the end of the last; None if empty."""
        end = "(SELECT {}(start_s) FROM rollups WHERE span_s = ?)"  # either is one look-up
        query = f"SELECT {end.format('min')}, {end.format('max')}"
        ((first, last),) = self._rows(query, MINUTE_S, MINUTE_S)
        return None if first is None else Window(first, last + MINUTE_S)

    def sources(self) -> tuple[str, ...]:
        """The processes that the newest runs are of, in the order of their names."""
        query = (
            "SELECT DISTINCT source FROM (SELECT source FROM runs ORDER BY id DESC LIMIT ?)"
            " AS newest ORDER BY source"
        )
        rows = self._rows(query, NEWEST_RUNS)
        return tuple(row[0] for row in rows)

    def latencies(
        self, window: Window, *, pipeline: str | None = None, stage: str | None = None
    ) -> tuple[Latency, ...]:
        """How long stages and runs took, in order of time, pipeline, stage; runs before stages.

        Where nothing ended, there is no entry.

        Args:
            window: When they ended.
            pipeline: Only of this pipeline.
            stage: Only this stage; ``""`` for runs alone.
        """
        found = self._histograms(window, pipeline, stage, MEASURED)
        return tuple(
            Latency(step, where, stage_name or None, histogram)
            for (step, where, stage_name, _), histogram in found
        )

    def firsts(
        self, window: Window, *, pipeline: str | None = None, stage: str | None = None
    ) -> tuple[First, ...]:
        """After what time streams had their first item, and voice turns their first audio.

        Arguments and order are those of `latencies`, streams in the order of their names. A first
        counts however its stage and run ended: it had been there.
        """
        found = self._histograms(window, pipeline, stage, _FIRSTS)
        return tuple(
            First(step, where, stage_name or None, histogram, stream or None)
            for (step, where, stage_name, stream), histogram in found
        )

    def errors(
        self, window: Window, *, pipeline: str | None = None, stage: str | None = None
    ) -> tuple[Errors, ...]:
        """How stages and runs ended; arguments and order are those of `latencies`."""
        outcomes: defaultdict[tuple[int, str, str], defaultdict[str, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        codes: defaultdict[tuple[int, str, str], dict[str, int]] = defaultdict(dict)
        series = self._series(pipeline, stage)
        for step, number, _, count in self._sums(window, "0", series):
            where, stage_name, _, outcome, code = series[number]
            if outcome in _FIRSTS:
                continue
            outcomes[step, where, stage_name][outcome] += count
            if outcome == FAILED:
                codes[step, where, stage_name][code] = count
        return tuple(
            Errors(step, where, stage_name or None, dict(counts), codes[step, where, stage_name])
            for (step, where, stage_name), counts in sorted(outcomes.items())
        )

    def breaker_changes(
        self, window: Window, *, provider: str | None = None
    ) -> tuple[BreakerTurn, ...]:
        """Changes of circuit breakers in the window, in order of time.

        The latest change of each breaker before the window comes first: it tells the state in
        which the window finds it. A breaker without any has been closed.
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
        return tuple(BreakerTurn(*row) for row in rows)

    def dead_letters(
        self, window: Window | None = None, *, waiting: bool = False
    ) -> tuple[LetterNote, ...]:
        """Dead letters in order of time.

        What telemetry knows is what it has been told: see `ObservedLetterStore`. Whether a letter
        waits is decided by the store that it is in.

        Args:
            window: Only those whose run failed then.
            waiting: Only those that have not been replayed.
        """
        start_s, end_s = (0.0, 1e18) if window is None else (window.start_s, window.end_s)
        unplayed = " AND replayed_s IS NULL" if waiting else ""
        rows = self._rows(
            "SELECT * FROM dead_letters"  # noqa: S608 - one of the two above
            f" WHERE at_s >= ? AND at_s < ?{unplayed} ORDER BY at_s, letter_id",
            *(start_s, end_s),
        )
        return tuple(LetterNote(*row) for row in rows)

    def run(self, run_id: str) -> RunNote:
        """One run with its events; of several with that id the latest.

        Raises:
            UnknownRunError: There is none.
        """
        rows = self._rows("SELECT max(id) FROM runs WHERE run_id = ?", run_id)
        if rows[0][0] is None:
            raise UnknownRunError(run_id, self.where)
        return self._run(rows[0][0])

    def run_at(self, window: Window, pipeline: str, share: float) -> RunNote | None:
        """A run of the window that took about as long as a percentile of them says.

        It is one of the percentile's bucket, so off by no more than that is wide (5 %). Failed
        runs count as well.

        Args:
            window: When the run ended.
            pipeline: Of which pipeline.
            share: 0.5 for a typical run, 0.99 for a slow one, 1 for the slowest.

        Returns:
            The run; None if there was none, or all have been pruned.
        """
        found = self.latencies(Window(window.start_s, window.end_s), pipeline=pipeline, stage="")
        if not found:
            return None
        last = found[0].histogram.bucket_at(share)
        numbers = [n for n, key in self._series(pipeline, "").items() if key[3] in MEASURED]
        for bucket in sorted((b for b in found[0].histogram.counts if b <= last), reverse=True):
            number = self._example(window, numbers, bucket)
            if number is not None:
                return self._run(number)
        return None

    def typical_run(self, window: Window, pipeline: str) -> RunNote | None:
        """A run that took about as long as the median; see `run_at`."""
        return self.run_at(window, pipeline, 0.5)

    def slowest_run(self, window: Window, pipeline: str) -> RunNote | None:
        """A run of the highest bucket; see `run_at`."""
        return self.run_at(window, pipeline, 1.0)

    # ── the statements ──────────────────────────────────────────────────────────────────────

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._guarded(lambda: self._connection.execute(query, values).fetchall())

    def _guarded(self, work: Callable[[], T]) -> T:
        return guarded("read", self._path, work)

    def _series(
        self, pipeline: str | None, stage: str | None
    ) -> dict[int, tuple[str, str, str, str, str]]:
        """Pipeline, stage ("" for runs), stream, outcome and error code of series, by number."""
        rows = self._rows("SELECT id, pipeline, stage, stream, outcome, error_code FROM series")
        return {
            number: (where, stage_name, *others)
            for number, where, stage_name, *others in rows
            if pipeline in (None, where) and stage in (None, stage_name)
        }

    def _histograms(
        self, window: Window, pipeline: str | None, stage: str | None, outcomes: Collection[str]
    ) -> list[tuple[tuple[int, str, str, str], Histogram]]:
        """Durations by step, pipeline, stage and stream, in that order, of series so called."""
        found: defaultdict[tuple[int, str, str, str], Counter[int]] = defaultdict(Counter)
        series = self._series(pipeline, stage)
        for step, number, bucket, count in self._sums(window, "bucket", series):
            where, stage_name, stream, outcome, _ = series[number]
            if outcome in outcomes:
                found[step, where, stage_name, stream][bucket] += count
        return [(key, Histogram(counts)) for key, counts in sorted(found.items())]

    def _sums(
        self, window: Window, bucket: str, series: Mapping[int, object]
    ) -> Iterator[tuple[int, int, int, int]]:
        """Step, series, bucket and count, summed up over all minutes and hours of each step."""
        start_s, end_s = window.whole
        step_s = window.step_s or end_s - start_s
        wanted = ", ".join(map(str, series)) or "NULL"
        parts = " UNION ALL ".join(
            f"SELECT start_s, series, {bucket} AS bucket, count FROM rollups"  # noqa: S608 - numbers
            f" WHERE span_s = {span_s} AND start_s >= {low} AND start_s < {high}"
            f" AND series IN ({wanted})"
            for span_s, low, high in _stretches(start_s, end_s, step_s)
        )
        yield from self._rows(
            f"SELECT {start_s} + (start_s - {start_s}) / {step_s} * {step_s} AS step, series,"  # noqa: S608 - numbers
            f" bucket, CAST(sum(count) AS BIGINT) FROM ({parts}) AS parts GROUP BY 1, 2, 3"
        )

    def _example(self, window: Window, series: list[int], bucket: int) -> int | None:
        wanted = ", ".join(map(str, series))
        start_s, end_s = window.whole
        found = None
        for span_s, low, high in _stretches(start_s, end_s, end_s - start_s):
            rows = self._rows(
                "SELECT max(runs.id) FROM rollups JOIN runs ON runs.id = rollups.run"  # noqa: S608
                " WHERE span_s = ? AND start_s >= ? AND start_s < ?"
                f" AND series IN ({wanted}) AND bucket = ?",
                *(span_s, low, high, bucket),
            )
            found = max(filter(None, (found, rows[0][0])), default=None)
        return found

    def _run(self, number: int) -> RunNote:
        (facts,) = self._rows(
            "SELECT run_id, pipeline, source, started_s, status, duration_ms, failed_stage,"
            " error_code FROM runs WHERE id = ?",
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
    """What to read of a window: span of the sums, begin and end; hours wherever they fit."""
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
    run: RunNote, sequence: int, kind: str, stage: str | None, offset_ms: float, *said: Any
) -> Event:
    duration_ms, error_code, detail = said
    data = json.loads(detail) if detail is not None else {}
    if duration_ms is not None:
        data["duration_ms"] = duration_ms
    if error_code is not None:
        data["error_code"] = error_code
    moment = datetime.fromtimestamp(run.started_s + offset_ms / 1000.0, UTC)
    return Event(sequence, kind, moment, run.run_id, offset_ms, stage, data)
