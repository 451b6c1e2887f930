"""Telemetry in PostgreSQL: it answers as the SQLite file does, and survives outages."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stageflow.cli import main
from stageflow.events import EventLog
from stageflow.pulse.alerts.cli import AlertExit
from stageflow.pulse.dashboard import LiveBudgets, LiveTelemetry
from stageflow.telemetry import (
    DEAD_LETTER_REPLAYED,
    DEAD_LETTER_WAITING,
    PostgresSink,
    SQLiteSink,
    TelemetryStore,
    Window,
    place,
    prune,
)
from stageflow.telemetry.database import MIGRATIONS
from stageflow.telemetry.sqlite import SqlSink
from tests.utils.errors import raises_code
from tests.utils.postgres import PostgresServer
from tests.utils.telemetry import NOON_S, batch, run_log

DAY = Window(NOON_S - 43_200, NOON_S + 43_200)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return asyncio.run(postgres.make_database())


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], TelemetryStore]]:
    """Opens the database for reading; closed after the test."""
    stores: list[TelemetryStore] = []

    def open_store() -> TelemetryStore:
        stores.append(TelemetryStore(url))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def logs() -> Iterator[EventLog]:
    """Two pipelines over some hours: fast and slow runs, failures, breakers, letters, odd data."""
    for number in range(120):
        at_s, took_ms = NOON_S + number * 97.0, 3.0 + number**1.5
        stages: dict[str, float | str] = {"a": took_ms, "Ümlaut": took_ms / 7}
        if number % 9 == 0:
            stages["b"] = "boom" if number % 2 else "bang"
        yield run_log(f"run-{number}", stages, at_s=at_s, pipeline="pq"[number % 2])
    for number, after in enumerate(("open", "half_open", "closed")):
        log = run_log(f"breaker-{number}", {"a": 1.0}, at_s=NOON_S + number * 60)
        data = {"provider": "llm", "before": "closed", "after": after, "reason": "it was so"}
        log.append((f"stage.a.breaker_{after}", 0.5, "a", data))
        yield log
    for dead_letter_id, kinds in (
        ("e1", [DEAD_LETTER_WAITING, DEAD_LETTER_REPLAYED]),
        ("e2", [DEAD_LETTER_WAITING]),
    ):
        log = EventLog(f"lost-{dead_letter_id}", 0.0, NOON_S + 50.0)
        made = {"dead_letter_id": dead_letter_id, "created_at": "2026-01-02T12:00:00+00:00"}
        where = {"pipeline": "p", "failed_stage": "a", "provider": None, "error_code": "boom"}
        for kind in kinds:
            log.append((kind, 7.0, None, {**made, **where, "replay_run_id": "run-1"}))
        yield log
    odd = run_log("same\0\ud800", {"a": 1.0})
    odd.append(("stage.a.said", 0.002, "a", {"nul": "\0", "half": "\ud800", "nan": float("nan")}))
    yield odd
    yield run_log("run-7", {"again": 2.0}, at_s=NOON_S + 10_000)


def fill(sink: SqlSink) -> None:
    """Write all of it, in batches that begin and end within runs."""
    everything = batch(*logs())
    for start in range(0, len(everything), 50):
        sink.write(everything[start : start + 50])
    sink.close()


def answers(store: TelemetryStore) -> dict[str, Any]:
    """All that a store can be asked, once."""
    steps = Window(NOON_S, NOON_S + 7_200, 600)
    shares = (0.5, 0.95, 0.99, 1.0)
    return {
        "known": store.known(),
        "covered": store.covered(),
        "sources": store.sources(),
        "latencies": store.latencies(DAY),
        "in steps": store.latencies(steps, pipeline="p"),
        "of runs": store.latencies(DAY, pipeline="q", stage=""),
        "errors": store.errors(DAY),
        "errors in steps": store.errors(steps),
        "breakers": store.breaker_changes(DAY, provider="llm"),
        "breakers later": store.breaker_changes(Window(NOON_S + 100, NOON_S + 200)),
        "letters": store.dead_letters(),
        "waiting": store.dead_letters(waiting=True),
        "runs at": [store.run_at(DAY, name, share) for name in "pq" for share in shares],
        "run": store.run("run-7"),
        "odd": store.run("same\\x00\\ud800"),
    }


def test_it_answers_as_the_file_does(
    url: str, opened: Callable[[], TelemetryStore], tmp_path: Path
) -> None:
    """For each question about the same events, the order and the types included."""
    fill(SQLiteSink(tmp_path / "t.db", source="s"))
    fill(PostgresSink(url, source="s"))
    with TelemetryStore(tmp_path / "t.db") as file:
        expected = answers(file)
    found = answers(opened())
    assert all(expected.values())
    assert found == expected
    assert repr(found) == repr(expected)


def test_processes_that_write_at_once_add_up(
    url: str, opened: Callable[[], TelemetryStore]
) -> None:
    """Each run is there once, under its own source, and sums count all of them."""

    def write(source: str) -> None:
        sink = PostgresSink(url, source=source)
        for number in range(20):
            sink.write(batch(run_log(f"{source}-{number}", {"a": 5.0})))
        sink.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, ["one", "two", "three", "four"]))
    store = opened()
    assert store.sources() == ("four", "one", "three", "two")
    assert {e.stage: dict(e.outcomes) for e in store.errors(DAY)} == {
        None: {"completed": 80},
        "a": {"completed": 80},
    }
    assert [store.run(f"two-{n}").source for n in range(20)] == ["two"] * 20


def test_an_outage_costs_its_batches_and_no_more(
    postgres: PostgresServer, url: str, opened: Callable[[], TelemetryStore]
) -> None:
    """Sink and reader say so in an error of ours, and go on once the server is back."""
    sink = PostgresSink(url, busy_timeout_s=2.0)
    sink.write(batch(run_log("before", {"a": 1.0})))
    half = run_log("during", {"a": 1.0})
    sink.write(batch(half)[:2])
    store = opened()
    assert store.run("before").status == "completed"
    postgres.stop()
    try:
        with raises_code("telemetry_file_failed", match="see that the server runs") as caught:
            sink.write(batch(half)[2:])
        with raises_code("telemetry_file_failed", match="cannot read"):
            store.run("before")
    finally:
        postgres.start()
    assert "postgres@" not in str(caught.value)
    sink.write(batch(half)[2:])
    sink.close()
    assert [event.sequence for event in store.run("during").events] == [1, 2, 3, 4]
    assert [e.outcomes["completed"] for e in store.errors(DAY)] == [2, 2]


def test_a_database_without_telemetry_is_refused_by_a_reader(url: str) -> None:
    """It makes nothing there, and says who does."""
    for _ in range(2):
        with raises_code("invalid_telemetry_file", match="a PostgresSink makes one"):
            TelemetryStore(url)


@pytest.mark.parametrize(
    ("described", "says"),
    [("stageflow telemetry, version 99", "version 99"), ("of the shop", "no schema")],
)
def test_a_schema_of_others_is_refused_and_left_alone(url: str, described: str, says: str) -> None:
    """That of a newer version, and one that somebody else has made under the name."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA stageflow_telemetry")
        connection.execute(f"COMMENT ON SCHEMA stageflow_telemetry IS '{described}'".encode())
    for make in (PostgresSink, TelemetryStore):
        with raises_code("invalid_telemetry_file", match=says):
            make(url)
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname LIKE 'stage%'")
        assert tables.fetchone() == (0,)


def test_an_older_schema_is_brought_forward_with_all_that_it_holds(
    url: str, opened: Callable[[], TelemetryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the migrations of the file, in the first process that opens it, and once."""
    sink = PostgresSink(url)
    sink.write(batch(run_log("old", {"a": 1.0})))
    sink.close()
    newer = (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN mood REAL",))
    monkeypatch.setattr("stageflow.telemetry.postgres.MIGRATIONS", newer)
    assert opened().run("old").status == "completed"
    opened()
    with psycopg.connect(url) as connection:
        query = "SELECT data_type FROM information_schema.columns WHERE column_name = 'mood'"
        assert connection.execute(query).fetchall() == [("double precision",)]


def test_the_view_is_there_as_in_the_file(url: str) -> None:
    """Stage events in plain words, for any client."""
    sink = PostgresSink(url)
    sink.write(batch(run_log("r", {"a": 5.0, "b": "boom"})))
    sink.close()
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT stage, type, duration_ms, error_code, detail"
            " FROM stageflow_telemetry.stage_events ORDER BY sequence"
        ).fetchall()
    assert [(row[0], row[1].rpartition(".")[2]) for row in rows] == [
        ("a", "started"),
        ("a", "completed"),
        ("b", "started"),
        ("b", "failed"),
    ]
    assert (rows[1][2], rows[3][3]) == (pytest.approx(5.0), "boom")
    assert json.loads(rows[3][4]) == {"error_message": "it was boom"}


def test_central_pulse_shows_it_as_the_file(url: str, tmp_path: Path) -> None:
    """All but the name of the store, which is without the password."""
    fill(SQLiteSink(tmp_path / "t.db", source="s"))
    fill(PostgresSink(url, source="s"))
    file, database = (
        json.loads(LiveTelemetry(place(where), LiveBudgets(), newest_s=1e6).answer())
        for where in (str(tmp_path / "t.db"), url)
    )
    assert file["telemetry"]["stages"]
    name = database["telemetry"].pop("store")
    assert (name.startswith("postgresql:///"), "postgres@" in name) == (True, False)
    assert file["telemetry"].pop("store") == "t.db"
    assert database["telemetry"] == file["telemetry"]


def test_alerts_are_evaluated_on_it(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The messages are remembered in the repository, so that the second evaluation is silent."""
    (tmp_path / ".asv").mkdir()
    minute_s = time.time() // 60 * 60
    sink = PostgresSink(url)
    for number in range(600):  # ten minutes, a run a second, each far over its budget
        log = run_log(f"r{number}", {"a": 30_000.0}, at_s=minute_s - 660 + number, pipeline="voice")
        sink.write(batch(log))
    sink.close()
    rules = str(Path(__file__).parents[3] / "benchmarks" / "alerts.toml")
    command = ["pulse", "alert", "--store", url, "--rules", rules, "--repository", str(tmp_path)]
    assert main(command) == AlertExit.FIRING
    assert "FIRING VoiceLatencyOverBudget" in capsys.readouterr().out
    assert main(command) == AlertExit.FIRING
    assert capsys.readouterr().out == ""
    (state,) = (tmp_path / ".asv").glob("*.alerts.db")
    assert state.name.startswith("postgresql-d")


def test_pruning_removes_what_it_would_of_the_file(
    url: str, opened: Callable[[], TelemetryStore], tmp_path: Path
) -> None:
    """As much of each table, and what is left answers alike."""
    path = tmp_path / "t.db"
    fill(SQLiteSink(path, source="s"))
    fill(PostgresSink(url, source="s"))
    counts = [
        prune(where, 3_600.0, rollups_older_than_s=7_200.0, wall_clock=lambda: NOON_S + 9_000.0)
        for where in (path, url)
    ]
    assert counts[0] == counts[1]
    assert min(counts[0].runs, counts[0].events, counts[0].rollups) > 0
    with TelemetryStore(path) as file:
        assert opened().latencies(DAY) == file.latencies(DAY)
        assert opened().run("run-119") == file.run("run-119")
    with raises_code("unknown_run"):
        opened().run("run-1")
