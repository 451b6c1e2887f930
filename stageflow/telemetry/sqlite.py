"""Telemetry in a SQLite file: the embedded default, written by any number of processes.

One transaction a batch, and no index that a batch would have to jump about in. What a dashboard or
an alert asks for is added up while it is written: see `stageflow.telemetry.store` for reading,
and docs/telemetry.md for the tables.
"""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from stageflow.events import STARTED, STREAM_FIRST_ITEM, TERMINAL, Event, EventBatch, EventLog
from stageflow.kernels.streaming_voice import FIRST_AUDIO as SOUNDING
from stageflow.sqlite_file import transaction
from stageflow.telemetry.encoding import to_json
from stageflow.telemetry.histogram import bucket_of
from stageflow.telemetry.letters import LETTER_REPLAYED, LETTER_WAITING
from stageflow.telemetry.open_runs import OpenRun, OpenRuns
from stageflow.telemetry.outcomes import BREAKER_STATES, FIRST_AUDIO, FIRST_ITEM, UNKNOWN
from stageflow.telemetry.schema import guarded, open_file

MINUTE_S = 60
HOUR_S = 3600

#: Run id, sequence, type, stage, begin of the run in seconds since the epoch, offset in ms,
#: duration in ms, data; the last two are never both there.
_Fact: TypeAlias = tuple[
    str, int, str, str | None, float, float, float | None, Mapping[str, Any] | None
]


class Connection(Protocol):
    """What is asked of a connection to a database: statements in which ``?`` stands for values."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Any:
        """Run a statement; returns a cursor."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Run a statement for each of the rows; returns a cursor."""

    def close(self) -> None:
        """Close it."""


class _Role(IntEnum):
    """What else there is to do for an event than to keep it."""

    NONE = 0
    RUN_START = 1
    STAGE_END = 2
    RUN_END = 3
    BREAKER = 4
    LETTER = 5
    FIRST_ITEM = 6


class _Kind(NamedTuple):
    id: int
    stage: str | None
    what: str
    role: _Role
    sounds: bool


@dataclass(slots=True)
class _Run(OpenRun):
    id: int


#: Pipeline, stage ("" for runs), stream ("" for what has none), outcome, error code.
_Series: TypeAlias = tuple[str, str, str, str, str]


def _none_counted() -> list[int]:
    return [0, 0]


@dataclass(slots=True)
class _Batch:
    """Rows to be written, by table."""

    #: Events of which there is nothing to say but when, one after another, five values each.
    plain: list[Any] = field(default_factory=list)
    told: list[tuple[Any, ...]] = field(default_factory=list)
    runs: list[tuple[Any, ...]] = field(default_factory=list)
    ends: list[tuple[Any, ...]] = field(default_factory=list)
    changes: list[tuple[Any, ...]] = field(default_factory=list)
    letters: list[tuple[Any, ...]] = field(default_factory=list)
    #: By minute, series and bucket: how many, and one run that was among them.
    counts: defaultdict[tuple[int, int, int], list[int]] = field(
        default_factory=lambda: defaultdict(_none_counted)
    )

    def count(self, at_s: float, series: int, duration_ms: float | None, run: int) -> None:
        """Count an end of a stage or a run."""
        minute = int(at_s) // MINUTE_S * MINUTE_S
        counted = self.counts[minute, series, bucket_of(duration_ms or 0.0)]
        counted[0] += 1
        counted[1] = run

    def rollups(self) -> list[int]:
        """Rows of minutes and of hours, one after another, six values each."""
        hours: defaultdict[tuple[int, int, int], list[int]] = defaultdict(_none_counted)
        rows: list[int] = []
        for (minute, series, bucket), (count, run) in self.counts.items():
            rows += (MINUTE_S, minute, series, bucket, count, run)
            counted = hours[minute // HOUR_S * HOUR_S, series, bucket]
            counted[0] += count
            counted[1] = run
        for (hour, series, bucket), (count, run) in hours.items():
            rows += (HOUR_S, hour, series, bucket, count, run)
        return rows

    def store(self, connection: Connection) -> None:
        """Write all of it."""
        write = connection.executemany
        write("INSERT INTO runs VALUES (?, ?, ?, ?, ?, 'running', NULL, NULL, NULL)", self.runs)
        _insert_flat(
            connection,
            "INSERT INTO events (run, sequence, kind, offset_ms, duration_ms)",
            self.plain,
            width=5,
            conflict="ON CONFLICT DO NOTHING",
        )
        write("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", self.told)
        write(
            "UPDATE runs SET status = ?, duration_ms = ?, failed_stage = ?, error_code = ?"
            " WHERE id = ?",
            self.ends,
        )
        _insert_flat(
            connection,
            "INSERT INTO rollups (span_s, start_s, series, bucket, count, run)",
            self.rollups(),
            width=6,
            conflict="ON CONFLICT (span_s, start_s, series, bucket) DO UPDATE"
            " SET count = rollups.count + excluded.count, run = excluded.run",
        )
        write(
            "INSERT INTO breaker_changes (at_s, provider, source, before, after, reason, pipeline,"
            " stage, run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self.changes,
        )
        write(
            "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (letter_id) DO UPDATE SET"
            " replayed_s = coalesce(excluded.replayed_s, dead_letters.replayed_s),"
            " replay_run_id = coalesce(excluded.replay_run_id, dead_letters.replay_run_id)",
            self.letters,
        )


def _insert_flat(
    connection: Connection, head: str, values: list[Any], *, width: int, conflict: str = ""
) -> None:
    """Insert rows of `width` values, twenty a statement: half of what one a statement costs."""
    row = f"({', '.join('?' * width)})"
    at_once = 20 * width
    whole = len(values) // at_once * at_once
    for size, start, end in ((at_once, 0, whole), (width, whole, len(values))):
        rows = ", ".join([row] * (size // width))
        connection.executemany(
            f"{head} VALUES {rows} {conflict}",
            (values[n : n + size] for n in range(start, end, size)),
        )


class SqlSink(ABC):
    """An `EventSink` that keeps events in a database, and adds them up by minute and hour.

    A batch is one transaction: it is there as a whole or not at all, also when the process is
    killed.
    """

    def __init__(self, connection: Connection, source: str | None) -> None:
        self.source = source if source is not None else f"{platform.node()}:{os.getpid()}"
        self._connection = connection
        self._kinds: dict[str, _Kind] = {}
        self._series: dict[tuple[str, int, str | None], int] = {}
        self._firsts: dict[_Series, int] = {}
        self._runs: OpenRuns[_Run] = OpenRuns()
        self._last_run = 0

    def write(self, events: Sequence[Event]) -> None:
        """Write a batch.

        Raises:
            TelemetryFileError: It could not be written; nothing of it is there.
        """
        if events:
            self._write(events)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[None]:
        """All or nothing; other writers wait from its start."""

    def _write(self, events: Sequence[Event]) -> None:
        try:
            with self._transaction():
                query = "SELECT coalesce(max(id), 0) FROM runs"
                (self._last_run,) = self._connection.execute(query).fetchone()
                batch = _Batch()
                self._gather(events, batch)
                batch.store(self._connection)
        except BaseException:
            # Ids that were given within the transaction are not in the database.
            self._kinds.clear()
            self._series.clear()
            self._firsts.clear()
            self._runs.clear()
            raise

    def _gather(self, events: Sequence[Event], batch: _Batch) -> None:
        """Turn events into rows; once for each event, so it is written for speed."""
        kinds, runs, add, count = self._kinds, self._runs, batch.plain.extend, batch.count
        ends, start, letter = (_Role.STAGE_END, _Role.RUN_END), _Role.RUN_START, _Role.LETTER
        for run_id, sequence, name, stage, began_s, offset_ms, took_ms, data in _facts(events):
            kind = kinds.get(name) or self._kind(name, stage)
            role = kind.role
            if role is letter:
                batch.letters.append(_letter_row(kind, began_s + offset_ms / 1000.0, run_id, data))
                continue
            run = runs.get(run_id) if role is not start else None
            if run is None:
                run = self._run(batch, run_id, role is start, began_s, data)
            duration_ms, code = took_ms, None
            if data is None:
                add((run.id, sequence, kind.id, offset_ms, took_ms))
            else:
                duration_ms, code, detail = _described(data, role in ends)
                row = (run.id, sequence, kind.id, offset_ms, duration_ms, code, detail)
                batch.told.append(row)
            if not role:
                continue
            at_s = began_s + offset_ms / 1000.0
            if role in ends:
                known = self._series.get((run.pipeline, kind.id, code))
                series = known or self._new_series(run.pipeline, kind, code)
                count(at_s, series, duration_ms, run.id)
                if role is _Role.RUN_END:
                    failed_stage = data.get("failed_stage") if data else None
                    batch.ends.append((kind.what, duration_ms, failed_stage, code, run.id))
                    runs.pop(run_id, None)
            elif data is not None:
                self._note(batch, kind, run_id, at_s, data)
            if kind.sounds and run.begins_to_sound(name):
                count(at_s, self._first((run.pipeline, "", "", FIRST_AUDIO, "")), offset_ms, run.id)

    def _note(
        self, batch: _Batch, kind: _Kind, run_id: str, at_s: float, data: Mapping[str, Any]
    ) -> None:
        """Turn what happened within a stage into rows: a breaker's change, a first item."""
        run, stage = self._runs[run_id], str(kind.stage)
        if kind.role is _Role.BREAKER:
            change = (data.get(k, "") for k in ("provider", "before", "after", "reason"))
            provider, *states = map(text, change)
            where = (run.pipeline, stage, text(run_id))
            batch.changes.append((at_s, provider, self.source, *states, *where))
        elif kind.role is _Role.FIRST_ITEM:
            first = self._first((run.pipeline, stage, text(data["stream"]), FIRST_ITEM, ""))
            batch.count(at_s, first, data["elapsed_ms"], run.id)

    def _kind(self, name: str, stage: str | None) -> _Kind:
        """The kind of an event of that type, which this batch is the first to have."""
        execute = self._connection.execute
        known = "INSERT INTO kinds (type, stage) VALUES (?, ?) ON CONFLICT DO NOTHING"
        execute(known, (name, stage))
        (number,) = execute("SELECT id FROM kinds WHERE type = ?", (name,)).fetchone()
        what = name.rpartition(".")[2]
        role = _Role.NONE
        if name in (LETTER_WAITING, LETTER_REPLAYED):
            role = _Role.LETTER
        elif stage is None and what == STARTED:
            role = _Role.RUN_START
        elif what in TERMINAL:
            role = _Role.RUN_END if stage is None else _Role.STAGE_END
        elif what in BREAKER_STATES:
            role = _Role.BREAKER
        elif what == STREAM_FIRST_ITEM:
            role = _Role.FIRST_ITEM
        kind = self._kinds[name] = _Kind(number, stage, what, role, name in SOUNDING)
        return kind

    def _new_series(self, pipeline: str, kind: _Kind, code: str | None) -> int:
        """The number of the series that an end belongs to, which this process has not counted."""
        number = self._number((pipeline, kind.stage or "", "", kind.what, code or ""))
        self._series[pipeline, kind.id, code] = number
        return number

    def _first(self, key: _Series) -> int:
        """The number of a series of first items or first audio."""
        if key not in self._firsts:
            self._firsts[key] = self._number(key)
        return self._firsts[key]

    def _number(self, key: _Series) -> int:
        """The number of a series in the file, given to it now if it has none."""
        execute = self._connection.execute
        execute(
            "INSERT INTO series (pipeline, stage, stream, outcome, error_code)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            key,
        )
        (number,) = execute(
            "SELECT id FROM series WHERE pipeline = ? AND stage = ? AND stream = ?"
            " AND outcome = ? AND error_code = ?",
            key,
        ).fetchone()
        return int(number)

    def _run(
        self,
        batch: _Batch,
        run_id: str,
        starts: bool,
        began_s: float,
        data: Mapping[str, Any] | None,
    ) -> _Run:
        """The run of an event that this process does not remember."""
        if not starts:
            # A batch failed, so that all was forgotten; or the run's beginning was dropped. Its
            # first sound may have been among that: whatever sounds next is not the first.
            row = self._connection.execute(
                "SELECT pipeline, id FROM runs WHERE run_id = ? AND source = ?"
                " AND status = 'running' ORDER BY id DESC LIMIT 1",
                (text(run_id), self.source),
            ).fetchone()
            if row is not None:
                run = _Run(*row, heard=True)
                self._runs.begin(run_id, run)
                return run
        self._last_run += 1
        pipeline = text((data or {}).get("pipeline", UNKNOWN))
        run = _Run(pipeline, self._last_run, heard=not starts)
        batch.runs.append((run.id, text(run_id), run.pipeline, self.source, began_s))
        self._runs.begin(run_id, run)
        return run


class SQLiteSink(SqlSink):
    """The sink into a SQLite file.

    The file is opened, made, or brought to the newest version at once, so that what is wrong with
    it shows where the sink is made.
    """

    def __init__(
        self, path: str | Path, *, source: str | None = None, busy_timeout_s: float = 5.0
    ) -> None:
        """Open the file.

        Args:
            path: The file; made if there is none.
            source: What this process is called where several write one file, as circuit breakers
                of two processes are two; host and process id if left out.
            busy_timeout_s: How long a batch waits for another process that writes, in seconds;
                after that it is lost, and counted as failed.

        Raises:
            InvalidTelemetryFileError: The file holds something else, or is of a newer version.
            TelemetryFileError: It cannot be opened.
        """
        self.path = Path(path)
        self._file = open_file(self.path, create=True, busy_timeout_s=busy_timeout_s)
        super().__init__(self._file, source)

    def _write(self, events: Sequence[Event]) -> None:
        guarded("write", self.path, lambda: super(SQLiteSink, self)._write(events))

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._file)


def text(value: object) -> str:
    """A value as text that databases take: what is no character becomes a description."""
    return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _facts(events: Sequence[Event]) -> Iterator[_Fact]:
    """What events say, without making objects of them where a dispatcher has not."""
    if isinstance(events, EventBatch):
        known: EventLog | None = None
        for log, position in events.entries:
            if log is not known:
                known, run_id, raw = log, log.pipeline_run_id, log.raw_at
                began_s, started_at = log.wall_started_at, log.started_at
            kind, at, stage, payload = raw(position)
            duration_ms = data = None
            if isinstance(payload, float):
                duration_ms = (at - payload) * 1000.0
            else:
                data = payload
            offset_ms = (at - started_at) * 1000.0
            yield run_id, position + 1, kind, stage, began_s, offset_ms, duration_ms, data
        return
    for event in events:
        began_s = event.timestamp.timestamp() - event.offset_ms / 1000.0
        rest = (event.stage, began_s, event.offset_ms, None, event.data or None)
        yield (event.pipeline_run_id, event.sequence, event.type, *rest)


def _described(data: Mapping[str, Any], ends: bool) -> tuple[float | None, str | None, str | None]:
    """Duration, error code, and the rest as JSON, of an event's data."""
    if not ends:
        # What a stage emits of its own may hold anything under these names.
        return None, None, to_json(data) if data else None
    rest = {key: data[key] for key in data if key not in ("duration_ms", "error_code")}
    return data.get("duration_ms"), data.get("error_code"), to_json(rest) if rest else None


def _letter_row(
    kind: _Kind, at_s: float, run_id: str, data: Mapping[str, Any] | None
) -> tuple[Any, ...]:
    said = data or {}
    replayed = kind.what == "replayed"
    put_s = datetime.fromisoformat(said["created_at"]).timestamp()
    return (
        said["letter_id"],
        put_s,
        said["pipeline"],
        text(run_id),
        said["failed_stage"],
        said["provider"],
        said["error_code"],
        at_s if replayed else None,
        said["replay_run_id"] if replayed else None,
    )
