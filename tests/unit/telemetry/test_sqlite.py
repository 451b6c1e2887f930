"""Files of telemetry: failed batches, versions and migrations, and retention."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from stageflow import Event
from stageflow.events import EventLog
from stageflow.telemetry import Pruned, SQLiteSink, TelemetryStore, Window, prune
from stageflow.telemetry.database import APPLICATION_ID, MIGRATIONS, SqliteDatabase
from stageflow.timeline import timeline_text
from tests.utils.errors import raises_code
from tests.utils.telemetry import NOON_S, batch, change, run_log, sink_of, voice_log

HOUR_S = 3600.0


def test_a_failed_batch_leaves_nothing_and_the_next_one_is_whole(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """While another process holds the file, a batch fails; what was known before goes on."""
    log = run_log("one", {"a": 5.0, "b": 6.0, "c": 7.0})
    sink = SQLiteSink(path, busy_timeout_s=0.0)
    sink.write(batch(log)[:3])
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with raises_code("telemetry_file_failed", match="database is locked") as caught:
        sink.write(batch(log)[3:5])
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    blocker.execute("COMMIT")
    blocker.close()
    sink.write(batch(log)[5:])
    sink.close()
    store = opened()
    assert [event.sequence for event in store.run("one").events] == [1, 2, 3, 6, 7, 8]
    assert store.run("one").status == "completed"
    assert store.known() == (("p", None), ("p", "a"), ("p", "c"))


def test_ids_of_a_failed_batch_are_forgotten(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A file that is full in the middle of a batch: what comes later is filed under sound ids."""
    sink, log = SQLiteSink(path), EventLog("one", 0.0, NOON_S)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "p"}))
    log.append(("stage.a.started", 0.0, "a", None))
    log.append(("stage.a.completed", 1.0, "a", 0.0))
    log.append(("stage.b.said", 1.0, "b", {"long": "x" * 100_000}))
    sink.write(batch(run_log("zero", {"z": 1.0})))
    execute = sink._database.execute
    (pages,) = execute("PRAGMA page_count").fetchone()
    execute(f"PRAGMA max_page_count = {pages}")
    with raises_code("telemetry_file_failed", match="full"):
        sink.write(batch(log))
    execute("PRAGMA max_page_count = 1000000")
    sink.write(batch(log)[1:])
    sink.write(batch(run_log("two", {"c": 1.0, "b": 2.0, "a": 3.0})))
    sink.close()
    store = opened()
    assert [event.type for event in store.run("one").events] == [e.type for e in log][1:]
    assert [e.stage for e in store.run("two").events if e.stage] == ["c", "c", "b", "b", "a", "a"]
    counts = {(e.pipeline, e.stage): e.histogram.count for e in store.latencies(Window(0.0, 4e9))}
    own = dict.fromkeys([("p", None)], 2) | {("p", stage): 1 for stage in "abcz"}
    assert counts == own | {("unknown", "a"): 1}


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    """By the sink, the reader and the pruning; the error says which versions are known."""
    sink_of(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    opening: list[Callable[[Path], object]] = [SQLiteSink, TelemetryStore, lambda p: prune(p, 1.0)]
    for opens in opening:
        with raises_code("invalid_telemetry_file") as caught:
            opens(path)
        assert str(path) in str(caught.value)
        assert f"version {len(MIGRATIONS) + 1}" in str(caught.value)
        assert f"up to {len(MIGRATIONS)}" in str(caught.value)


def test_other_files_are_refused_and_left_alone(path: Path) -> None:
    """No database, and a database of another program."""
    path.write_bytes(b"Dear diary, " * 1_000)
    with raises_code("invalid_telemetry_file", match="not an SQLite database"):
        SQLiteSink(path)
    assert path.read_bytes() == b"Dear diary, " * 1_000
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with raises_code("invalid_telemetry_file", match="another program"):
        SQLiteSink(path)
    with raises_code("telemetry_file_failed", match="see that the file is there"):
        TelemetryStore(path.with_name("nothing.db"))
    assert not path.with_name("nothing.db").exists()


def test_an_older_file_is_brought_forward_with_all_that_it_holds(path: Path) -> None:
    """Every version between its own and the newest is gone through, once."""
    sink_of(path, [run_log("old", {"a": 5.0})]).close()
    later = (*MIGRATIONS, ["ALTER TABLE runs ADD COLUMN tag TEXT"], ["UPDATE runs SET tag = 'x'"])
    for _ in range(2):
        connection = SqliteDatabase(path, busy_timeout_s=1.0, migrations=later)
        assert connection.execute("SELECT run_id, tag FROM runs").fetchall() == [("old", "x")]
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        assert version == len(MIGRATIONS) + 2
        connection.close()


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """The file stays readable in its own version."""
    sink_of(path, [run_log("old", {"a": 5.0})]).close()
    later = (*MIGRATIONS, ["CREATE TABLE half (x)", "CREATE TABLE half (x)"])
    with raises_code("telemetry_file_failed", match="already exists"):
        SqliteDatabase(path, busy_timeout_s=1.0, migrations=later)
    with TelemetryStore(path) as store:
        assert store.run("old").status == "completed"


#: The first released version, written down once; it never changes.
VERSION_1 = Path(__file__).with_name("telemetry_version_1.sql")


def test_the_first_version_stays_what_it_was(path: Path) -> None:
    """A file as version 1 wrote it is read by every later stageflow."""
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with TelemetryStore(path) as store:
        note = store.run("kept")
        assert [event.type for event in note.events] == [
            "pipeline.started",
            "stage.a.started",
            "stage.a.failed",
            "pipeline.failed",
        ]
        (entry,) = store.errors(Window(0.0, 4e9), stage="a")
        assert entry.codes == {"boom": 1}
        assert store.firsts(Window(0.0, 4e9)) == ()
    sink_of(path, [run_log("new", {"a": "boom"}), voice_log("heard", 400.0)]).close()
    with TelemetryStore(path) as store:
        (entry,) = store.errors(Window(0.0, 4e9), pipeline="p", stage="a")
        assert entry.codes == {"boom": 2}
        assert len(store.firsts(Window(0.0, 4e9))) == 2


def test_who_still_writes_the_first_version_goes_on(path: Path) -> None:
    """A process that opened the file before another one brought it forward loses nothing."""
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        sink_of(path).close()
        row = ("p", "b", "completed", "")
        # As the sink of version 1 gives a series its number.
        connection.execute(
            "INSERT OR IGNORE INTO series (pipeline, stage, outcome, error_code)"
            " VALUES (?, ?, ?, ?)",
            row,
        )
        found = connection.execute(
            "SELECT stream FROM series"
            " WHERE pipeline = ? AND stage = ? AND outcome = ? AND error_code = ?",
            row,
        ).fetchall()
    connection.close()
    assert found == [("",)]


def test_the_view_shows_stage_events_in_plain_words(path: Path) -> None:
    """SQL is enough to read it, without this package."""
    sink_of(path, [run_log("one", {"a": 5.0, "b": "boom"})]).close()
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT run_id, pipeline, stage, type, round(at_s, 3), round(duration_ms), error_code"
            " FROM stage_events ORDER BY sequence"
        ).fetchall()
    connection.close()
    assert rows == [
        ("one", "p", "a", "stage.a.started", NOON_S, None, None),
        ("one", "p", "a", "stage.a.completed", NOON_S + 0.005, 5.0, None),
        ("one", "p", "b", "stage.b.started", NOON_S + 0.005, None, None),
        ("one", "p", "b", "stage.b.failed", NOON_S + 0.005, 0.0, "boom"),
    ]


def test_pruning_removes_what_is_old_and_nothing_else(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Runs with their events, sums, changes; the state of breakers and the latest run stay."""
    old, new = NOON_S - 10 * HOUR_S, NOON_S
    sink_of(
        path,
        [
            run_log("old", {"a": 5.0}, at_s=old),
            change(-10 * HOUR_S, "llm", "closed", "open"),
            change(-9 * HOUR_S, "llm", "open", "half_open"),
            run_log("new", {"a": 7.0}, at_s=new),
        ],
    ).close()
    gone = prune(path, 5 * HOUR_S, wall_clock=lambda: NOON_S + 60)
    assert asdict(gone) == asdict(
        Pruned(runs=3, events=8, rollups=4, breaker_changes=1, dead_letters=0)
    )
    store = opened()
    assert store.run("new").status == "completed"
    with raises_code("unknown_run"):
        store.run("old")
    everything = Window(0.0, 4e9)
    assert [entry.histogram.count for entry in store.latencies(everything)] == [1, 1]
    assert [c.after for c in store.breaker_changes(everything)] == ["half_open"]
    again = prune(path, 5 * HOUR_S, wall_clock=lambda: NOON_S + 60)
    assert asdict(again) == asdict(Pruned(0, 0, 0, 0, 0))


def test_sums_may_be_kept_longer_than_runs(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Latencies are there, though the runs that they count are not; no run stands for them."""
    sink_of(
        path,
        [run_log("old", {"a": 5.0}), run_log("new", {"a": 1.0}, at_s=NOON_S + HOUR_S)],
    ).close()
    prune(path, 60.0, rollups_older_than_s=10 * HOUR_S, wall_clock=lambda: NOON_S + HOUR_S + 30)
    store, window = opened(), Window(NOON_S, NOON_S + HOUR_S)
    assert store.latencies(window, stage="a")[0].histogram.count == 1
    assert store.run_at(window, "p", 1.0) is None


def test_runs_after_pruning_are_not_removed_ones(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A run that is under way while all is pruned, and the next, keep their events apart."""
    slow, sink = run_log("slow", {"a": 5.0, "b": 6.0}), SQLiteSink(path)
    sink.write(batch(run_log("first", {"a": 1.0})))
    sink.write(batch(slow)[:3])
    sink.write(batch(run_log("last", {"a": 2.0})))
    prune(path, 0.0, wall_clock=lambda: NOON_S + 10 * HOUR_S)
    sink.write(batch(slow)[3:])
    sink.write(batch(run_log("next", {"c": 3.0})))
    sink.close()
    assert [e.stage for e in opened().run("next").events if e.stage] == ["c", "c"]
    prune(path, 0.0, wall_clock=lambda: NOON_S + 10 * HOUR_S)
    with sqlite3.connect(path) as connection:
        (orphans,) = connection.execute(
            "SELECT count(*) FROM events WHERE run NOT IN (SELECT id FROM runs)"
        ).fetchone()
    connection.close()
    assert orphans == 0


def test_events_are_of_the_type_that_everybody_knows(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A run that is read can be drawn like any other."""
    sink_of(path, [run_log("one", {"a": 5.0})]).close()
    events = opened().run("one").events
    assert all(isinstance(event, Event) for event in events)
    assert timeline_text(events).startswith("p: completed in 5")


@pytest.mark.parametrize("change", ["moved", "deleted", "replaced"])
def test_events_go_to_the_file_at_the_path(path: Path, change: str) -> None:
    """After another program has moved, deleted or replaced the file; no run is lost."""
    sink = sink_of(path, [run_log("before", {"a": 1.0})])
    if change == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("old.db"))
    if change == "replaced":
        sink_of(path, [run_log("theirs", {"b": 1.0})]).close()
    sink.write(batch(run_log("after", {"a": 1.0})))
    sink.close()
    with TelemetryStore(path) as store:
        assert store.run("after").status == "completed"
        assert [e.type for e in store.run("after").events][1] == "stage.a.started"
        assert ("p", "a") in store.known()
