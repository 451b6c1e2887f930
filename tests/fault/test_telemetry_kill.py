"""Telemetry in SQLite under ``kill -9``, and written by several processes at once."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import stageflow
from stageflow.telemetry import TelemetryStore, Window

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

ROOT = Path(stageflow.__file__).parents[1]

#: How many writers are killed; each is a process of its own, so a nightly run kills more.
KILLS = min(int(os.environ.get("STAGEFLOW_KILLS", "5")), 100)

#: Runs in a batch, and events of a run.
EACH = 20
EVENTS = 6


@contextmanager
def writer(path: Path, source: str, batches: int | None) -> Iterator[subprocess.Popen[str]]:
    """A process that writes batches of runs; see `tests.utils.telemetry.write`."""
    arguments = [str(path), source, json.dumps(batches), str(EACH)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.utils.telemetry", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield process


def said(process: subprocess.Popen[str]) -> int:
    """How many batches the process has said to be in the file, by its next line."""
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline()))


def check_whole(path: Path) -> None:
    """The file is sound to SQLite itself, and sums and rows tell the same."""
    with sqlite3.connect(path) as connection:
        ask = connection.execute
        assert ask("PRAGMA integrity_check").fetchall() == [("ok",)]
        for query in (
            "SELECT count(*) FROM runs WHERE status <> 'completed'",
            "SELECT count(*) FROM (SELECT 1 FROM events GROUP BY run HAVING count(*) <> 6)",
            "SELECT count(*) FROM events WHERE run NOT IN (SELECT id FROM runs)",
        ):
            assert ask(query).fetchone() == (0,), query
        (runs,) = ask("SELECT count(*) FROM runs").fetchone()
        assert ask("SELECT count(*) FROM events").fetchone() == (runs * EVENTS,)
        for span_s in (60, 3600):
            ended = "SELECT sum(count) FROM rollups WHERE span_s = ?"
            assert ask(ended, (span_s,)).fetchone() == (runs * 3,)
    connection.close()


def runs_by_source(path: Path) -> dict[str, int]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT source, count(*) FROM runs GROUP BY source").fetchall()
    connection.close()
    return dict(found)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_killed_writer_loses_at_most_its_last_batch(tmp_path: Path) -> None:
    """Each batch that was acknowledged is there, whole, and the file is sound after each kill.

    One batch more may be there: the one whose acknowledgement the kill has swallowed.
    """
    path, written = tmp_path / "t.db", {}
    for number in range(KILLS):
        source = f"w{number}"
        with writer(path, source, None) as process:
            while said(process) <= number:
                pass
            process.kill()
            assert process.stdout is not None
            rest = [line for line in process.stdout.read().splitlines() if line]
            written[source] = max([number + 1, *map(int, rest)])
        check_whole(path)
        assert runs_by_source(path)[source] // EACH - written[source] in (0, 1)
    assert len(runs_by_source(path)) == KILLS


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Three write while a reader reads: sums are those of all three, and no run is mixed up."""
    path, batches = tmp_path / "t.db", 30
    with (
        writer(path, "one", batches) as one,
        writer(path, "two", batches) as two,
        writer(path, "three", batches) as three,
    ):
        assert said(one) == 1
        with TelemetryStore(path) as store:
            while one.poll() is None:
                window = store.covered()
                assert window is not None
                counts = [e.histogram.count for e in store.latencies(window)]
                assert len(set(counts)) == 1
                assert counts[0] % EACH == 0
        for process in (one, two, three):
            process.communicate()
            assert process.returncode == 0
    check_whole(path)
    assert runs_by_source(path) == dict.fromkeys(("one", "two", "three"), batches * EACH)
    with TelemetryStore(path) as store:
        (entry,) = store.latencies(Window(0.0, 4e9), stage="b")
        assert entry.histogram.count == 3 * batches * EACH
        assert [event.sequence for event in store.run("two/7/5").events] == [1, 2, 3, 4, 5, 6]
