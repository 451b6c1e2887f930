"""Write telemetry into a SQLite file, from any number of processes.

A batch is one transaction: even if the process is killed, it is stored as a whole or not at all.
Counts by minute and hour are added up while events are written: dashboards read no events.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from stageflow.events import log as ev
from stageflow.events.log import FIRST_AUDIO, TERMINAL, Event, EventBatch
from stageflow.telemetry.database import HOUR_S, MINUTE_S, Database, SqliteDatabase
from stageflow.telemetry.dead_letters import DEAD_LETTER_REPLAYED, DEAD_LETTER_WAITING
from stageflow.telemetry.jsonl import to_json
from stageflow.telemetry.readings import bucket_of
from stageflow.telemetry.runs import (
    BREAKER_STATES,
    FIRST_ITEM,
    UNKNOWN,
    USAGE_PARTS,
    OpenRun,
    OpenRuns,
)

_Data: TypeAlias = Mapping[str, Any]
#: Run id, sequence, type, stage, start of the run in seconds since the epoch, offset in ms, and
#: either the duration in ms or data.
_Fact: TypeAlias = tuple[str, int, str, str | None, float, float, float | None, _Data | None]


class _Role(IntEnum):
    NONE = 0
    RUN_START = 1
    STAGE_END = 2
    RUN_END = 3
    BREAKER = 4
    LETTER = 5
    FIRST_ITEM = 6
    FIRST_AUDIO = 7
    USAGE = 8


_ROLES = {
    **dict.fromkeys(TERMINAL, _Role.STAGE_END),
    **dict.fromkeys(BREAKER_STATES, _Role.BREAKER),
    ev.STREAM_FIRST_ITEM: _Role.FIRST_ITEM,
    FIRST_AUDIO: _Role.FIRST_AUDIO,
    ev.USAGE: _Role.USAGE,
}


class _Kind(NamedTuple):
    id: int
    stage: str | None
    what: str
    role: _Role


@dataclass(slots=True)
class _Run(OpenRun):
    id: int


#: Pipeline, stage ("" for runs), stream ("" for what has none), outcome, error code.
_Series: TypeAlias = tuple[str, str, str, str, str]


@dataclass(slots=True)
class _Batch:
    #: Events without data: five values each, in one flat list.
    plain: list[Any] = field(default_factory=list)
    detailed: list[tuple[Any, ...]] = field(default_factory=list)
    runs: list[tuple[Any, ...]] = field(default_factory=list)
    ends: list[tuple[Any, ...]] = field(default_factory=list)
    changes: list[tuple[Any, ...]] = field(default_factory=list)
    letters: list[tuple[Any, ...]] = field(default_factory=list)
    #: By minute, series and bucket: the count, and one of the runs counted.
    counts: defaultdict[tuple[int, int, int], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )

    def count(self, at_s: float, series: int, took_ms: float | None, run: int, n: int = 1) -> None:
        minute = int(at_s) // MINUTE_S * MINUTE_S
        counted = self.counts[minute, series, bucket_of(took_ms or 0.0)]
        counted[0] += n
        counted[1] = run

    def rollups(self) -> list[int]:
        """Return the rows of minutes and of hours, six values each, in one flat list."""
        hours: defaultdict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0])
        rows: list[int] = []
        for (minute, series, bucket), (count, run) in self.counts.items():
            rows += (MINUTE_S, minute, series, bucket, count, run)
            counted = hours[minute // HOUR_S * HOUR_S, series, bucket]
            counted[0] += count
            counted[1] = run
        for (hour, series, bucket), (count, run) in hours.items():
            rows += (HOUR_S, hour, series, bucket, count, run)
        return rows

    def store(self, database: Database) -> None:
        write = database.executemany
        write("INSERT INTO runs VALUES (?, ?, ?, ?, ?, 'running', NULL, NULL, NULL)", self.runs)
        into = "events (run, sequence, kind, offset_ms, duration_ms)"
        _insert_flat(database, into, self.plain, "DO NOTHING")
        write(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", self.detailed
        )
        write(
            "UPDATE runs SET status = ?, duration_ms = ?, failed_stage = ?, error_code = ?"
            " WHERE id = ?",
            self.ends,
        )
        add = "count = rollups.count + excluded.count, run = excluded.run"
        conflict = f"(span_s, start_s, series, bucket) DO UPDATE SET {add}"
        into = "rollups (span_s, start_s, series, bucket, count, run)"
        _insert_flat(database, into, self.rollups(), conflict)
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


def _insert_flat(database: Database, into: str, values: list[Any], conflict: str) -> None:
    """Insert rows, twenty per statement, which halves the cost."""
    width = into.count(",") + 1
    row = f"({', '.join('?' * width)})"
    at_once = 20 * width
    whole = len(values) // at_once * at_once
    for size, start, end in ((at_once, 0, whole), (width, whole, len(values))):
        rows = ", ".join([row] * (size // width))
        database.executemany(
            f"INSERT INTO {into} VALUES {rows} ON CONFLICT {conflict}",  # noqa: S608 - names of ours
            (values[n : n + size] for n in range(start, end, size)),
        )


class SqlSink:
    """An `EventSink` that stores events in a database and counts them by minute and hour."""

    def __init__(self, database: Database, source: str | None) -> None:
        self._database = database
        self._source = source
        self._begin()

    def _begin(self) -> None:
        own = f"{platform.node()}:{os.getpid()}"
        self.source = self._source if self._source is not None else own
        self._kinds: dict[str, _Kind] = {}
        self._series: dict[tuple[str, int, str | None], int] = {}
        self._numbers: dict[_Series, int] = {}
        self._runs: OpenRuns[_Run] = OpenRuns()
        self._last_run = 0

    def after_fork(self) -> None:
        """Open a connection of its own in a child process."""
        self._database.after_fork()
        self._begin()

    def write(self, events: Sequence[Event]) -> None:
        """Write a batch, or raise `TelemetryError`; then nothing of it is stored."""
        if events:
            self._database.guarded("write", lambda: self._write(events))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _write(self, events: Sequence[Event]) -> None:
        if self._database.renewed():
            self._begin()
        try:
            with self._database.transaction():
                query = "SELECT coalesce(max(id), 0) FROM runs"
                (self._last_run,) = self._database.execute(query).fetchone()
                batch = _Batch()
                self._gather(events, batch)
                batch.store(self._database)
        except BaseException:
            # The ids given in this transaction are not in the database.
            self._begin()
            raise

    def _gather(self, events: Sequence[Event], batch: _Batch) -> None:
        """Turn events into rows; runs for each event, so it is written for speed."""
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
                batch.detailed.append(row)
            if not role:
                continue
            at_s = began_s + offset_ms / 1000.0
            if role in ends:
                key = run.pipeline, kind.id, code
                series = self._series.get(key)
                if series is None:
                    named = (run.pipeline, kind.stage or "", "", kind.what, code or "")
                    series = self._series[key] = self._number(named)
                count(at_s, series, duration_ms, run.id)
                if role is _Role.RUN_END:
                    failed_stage = data.get("failed_stage") if data else None
                    batch.ends.append((kind.what, duration_ms, failed_stage, code, run.id))
                    runs.pop(run_id, None)
            elif data is not None:
                self._note(batch, kind, run_id, (at_s, offset_ms), data)

    def _note(
        self, batch: _Batch, kind: _Kind, run_id: str, when: tuple[float, float], data: _Data
    ) -> None:
        run, stage, (at_s, offset_ms) = self._runs[run_id], str(kind.stage), when
        if kind.role is _Role.BREAKER:
            change = (data.get(k, "") for k in ("provider", "before", "after", "reason"))
            provider, *states = map(text, change)
            where = (run.pipeline, stage, text(run_id))
            batch.changes.append((at_s, provider, self.source, *states, *where))
        elif kind.role is _Role.FIRST_ITEM:
            first = self._number((run.pipeline, stage, text(data["stream"]), FIRST_ITEM, ""))
            batch.count(at_s, first, data["elapsed_ms"], run.id)
        elif kind.role is _Role.USAGE:
            for unit in ev.USAGE_UNITS:
                used, key = data.get(unit), (run.pipeline, text(data.get("provider", "")), unit)
                if isinstance(used, int | float) and 0 < used < 1e12:
                    n, series = round(used * USAGE_PARTS), self._number((*key, ev.USAGE, ""))
                    batch.count(at_s, series, None, run.id, n)
        elif run.begins_to_sound(kind.what):
            first = self._number((run.pipeline, "", "", FIRST_AUDIO, ""))
            batch.count(at_s, first, offset_ms, run.id)

    def _kind(self, name: str, stage: str | None) -> _Kind:
        execute = self._database.execute
        known = "INSERT INTO kinds (type, stage) VALUES (?, ?) ON CONFLICT DO NOTHING"
        execute(known, (name, stage))
        (number,) = execute("SELECT id FROM kinds WHERE type = ?", (name,)).fetchone()
        what = name.rpartition(".")[2]
        if name in (DEAD_LETTER_WAITING, DEAD_LETTER_REPLAYED):
            role = _Role.LETTER
        elif stage is None and what == ev.STARTED:
            role = _Role.RUN_START
        elif stage is None and what in TERMINAL:
            role = _Role.RUN_END
        else:
            role = _ROLES.get(what, _Role.NONE)
        kind = self._kinds[name] = _Kind(number, stage, what, role)
        return kind

    def _number(self, key: _Series) -> int:
        if key in self._numbers:
            return self._numbers[key]
        execute = self._database.execute
        execute(
            "INSERT INTO series (pipeline, stage, stream, outcome, error_code)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            key,
        )
        (self._numbers[key],) = execute(
            "SELECT id FROM series WHERE pipeline = ? AND stage = ? AND stream = ?"
            " AND outcome = ? AND error_code = ?",
            key,
        ).fetchone()
        return self._numbers[key]

    def _run(
        self, batch: _Batch, run_id: str, starts: bool, began_s: float, data: _Data | None
    ) -> _Run:
        if not starts:
            # An earlier batch failed, or the start of the run was dropped. Its first audio may
            # have been lost with it, so no later audio counts as the first.
            row = self._database.execute(
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
    """The sink into a SQLite file, which the constructor opens, creates or migrates."""

    def __init__(
        self, path: str | Path, *, source: str | None = None, busy_timeout_s: float = 5.0
    ) -> None:
        """Open the file.

        Args:
            path: The file; created if missing.
            source: The name of this process, which has circuit breakers of its own; host and
                process id by default.
            busy_timeout_s: How long a batch waits for another process that writes, in seconds;
                after that it is lost and counted as failed.

        Raises:
            TelemetryError: It holds other data, is of a newer version, or cannot be opened.
        """
        self.path = Path(path)
        super().__init__(
            SqliteDatabase(self.path, create=True, busy_timeout_s=busy_timeout_s), source
        )


def text(value: object) -> str:
    """Return a value as text that databases accept; surrogates and NUL are escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _facts(events: Sequence[Event]) -> Iterator[_Fact]:
    """Yield the facts of events, without making `Event` objects of a dispatcher's batch."""
    if isinstance(events, EventBatch):
        known: ev.EventLog | None = None
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


def _described(data: _Data, ends: bool) -> tuple[float | None, str | None, str | None]:
    """Return duration, error code, and the rest as JSON, of an event's data."""
    if not ends:
        # Events that a stage emits itself may hold anything under these names.
        return None, None, to_json(data) if data else None
    rest = {key: data[key] for key in data if key not in ("duration_ms", "error_code")}
    return data.get("duration_ms"), data.get("error_code"), to_json(rest) if rest else None


def _letter_row(kind: _Kind, at_s: float, run_id: str, data: _Data | None) -> tuple[Any, ...]:
    letter = data or {}
    put_s = datetime.fromisoformat(letter["created_at"]).timestamp()
    replay = (at_s, letter["replay_run_id"]) if kind.what == "replayed" else (None, None)
    failure = (letter[key] for key in ("failed_stage", "provider", "error_code"))
    return letter["dead_letter_id"], put_s, letter["pipeline"], text(run_id), *failure, *replay
