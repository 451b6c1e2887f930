"""Sinks in trouble: a locked file, a full disk. No run waits or fails for it, and losses show."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import stageflow
from stageflow import EventDispatcher, EventSink, PipelineContext, PipelineOrchestrator, RunResult
from stageflow.events import SinkStats
from stageflow.telemetry import JsonLinesSink, SQLiteSink, TelemetryStore, read_events
from tests.utils.factories import chain
from tests.utils.virtual_time import run_virtual

ROOT = Path(stageflow.__file__).parents[1]

#: Of a run of a chain of 50.
EVENTS = 102


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's transaction, as far as SQLite can tell."""
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    yield
    blocker.execute("COMMIT")
    blocker.close()


def run_of(dispatcher: EventDispatcher) -> RunResult:
    bound = PipelineOrchestrator(chain(50).build(), dispatcher=dispatcher)
    return run_virtual(lambda: bound.run(PipelineContext()))


def test_a_locked_file_is_waited_for_by_the_sink_alone(path: Path) -> None:
    """The run ends while the file is locked; once it is free, closing loses nothing."""
    sink = SQLiteSink(path, busy_timeout_s=60.0)
    dispatcher = EventDispatcher([sink], interval_s=0.001)
    with locked(path):
        result = run_of(dispatcher)
        assert (result.status, len(result.events)) == ("completed", EVENTS)
        assert dispatcher.stats() == (SinkStats("SQLiteSink", 0, 0, 0),)
    dispatcher.close(timeout_s=60.0)
    assert dispatcher.stats() == (SinkStats("SQLiteSink", EVENTS, 0, 0),)
    with TelemetryStore(path) as store:
        assert len(store.run(result.pipeline_run_id).events) == EVENTS


def test_what_a_file_that_stays_locked_costs_is_counted(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sink gives up, its events are counted as failed, and the sink beside it has all."""
    lines = tmp_path / "t.jsonl"
    sinks: list[EventSink] = [SQLiteSink(path, busy_timeout_s=0.0), JsonLinesSink(lines)]
    with locked(path), EventDispatcher(sinks, interval_s=3600.0) as dispatcher:
        result = run_of(dispatcher)
    assert result.status == "completed"
    assert dispatcher.stats() == (
        SinkStats("SQLiteSink", 0, 0, EVENTS),
        SinkStats("JsonLinesSink", EVENTS, 0, 0),
    )
    assert tuple(read_events(lines)) == result.events
    assert [record.getMessage() for record in caplog.records] == [
        "event sink SQLiteSink is failing"
    ]


#: A process whose files may not grow much after its first run: it runs until events are lost.
FULL_DISK = """\
import asyncio, json, logging, resource, signal, sys
from stageflow import EventDispatcher, PipelineContext, PipelineOrchestrator
from stageflow.telemetry.sqlite import SQLiteSink
from tests.utils.factories import chain

logging.disable(logging.CRITICAL)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def run(dispatcher):
    bound = PipelineOrchestrator(chain(50).build(), dispatcher=dispatcher)
    result = await bound.run(PipelineContext())
    assert result.status == "completed", result.error

async def main():
    with EventDispatcher([SQLiteSink(sys.argv[1])]) as dispatcher:
        await run(dispatcher)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with EventDispatcher([SQLiteSink(sys.argv[1])], interval_s=0.001) as dispatcher:
        while not dispatcher.stats()[0].failed:
            await run(dispatcher)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as POSIX does")
def test_a_full_disk_costs_events_and_no_run(path: Path) -> None:
    """Every run completes; what had been written before the disk was full is there, and sound."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, check=True)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (whole,) = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM events GROUP BY run HAVING count(*) = ?)",
            (EVENTS,),
        ).fetchone()
        query = "SELECT sum(count) FROM rollups WHERE span_s = 60"
        (ends,) = connection.execute(query).fetchone()
        query = "SELECT count(*) FROM events WHERE duration_ms IS NOT NULL"
        assert connection.execute(query).fetchone() == (ends,)
    connection.close()
    assert whole >= 1
