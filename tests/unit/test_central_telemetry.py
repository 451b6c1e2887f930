"""Central Pulse's panels of running pipelines: telemetry, breakers, alerts, and the live answer."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.central.alerts import firing, state_of
from stageflow.pulse.central.live import ADDRESS, REFRESH_S, SWITCH, LiveTelemetry
from stageflow.pulse.central.load import load_record
from stageflow.pulse.central.page import PAGE
from stageflow.pulse.central.record import gate_record
from stageflow.pulse.central.states import timelines
from stageflow.pulse.central.telemetry import STEPS, telemetry, window_of
from stageflow.pulse.gate.budgets import Budget, Gate
from stageflow.pulse.gate.judge import Exit
from stageflow.pulse.gate.runs import Run, record
from stageflow.pulse.serve import make_server
from stageflow.telemetry.sqlite import SQLiteSink
from stageflow.telemetry.store import BreakerTurn, TelemetryStore
from tests.utils import central
from tests.utils.browser import serving
from tests.utils.telemetry import NOON_S, batch, run_log, sink_of

RUNS = 400
BUDGET = Budget(
    "Voice", "voice.Latency.track_turn", "s", 1.0, 0.5, 1.0, Gate.NIGHTLY, "k", "voice-latency", 1
)
OF_A_STAGE = Budget(
    "llm",
    "simulation.StageLatency.track_stage('voice.llm')",
    "ms",
    1.0,
    200,
    None,
    Gate.NIGHTLY,
    "k",
    "stage-latency",
    1,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The telemetry of some turns in four hours."""
    path = tmp_path_factory.mktemp("telemetry") / "t.db"
    central.write_telemetry(path, RUNS, hours=4)
    return path


def read(path: Path, newest_s: float | None = None) -> dict[str, Any]:
    """What the page is given of a store."""
    with TelemetryStore(path) as opened:
        window = window_of(opened, newest_s)
        assert window is not None
        return telemetry(opened, window, [BUDGET, OF_A_STAGE])


def test_every_end_is_counted(store: Path) -> None:
    """Ends, failures, codes and the cells of the heat map add up to the runs that were written."""
    shown = read(store)
    failed = [n for n in range(RUNS) if n % 100 == 50 or (180 <= n < 220 and n % 20 == 10)]
    in_the_middle = sum(180 <= n < 220 for n in failed)
    stages = {stage["stage"]: stage for stage in shown["stages"]}
    assert set(stages) == {"", *central.STAGES}
    for name in ("", "llm"):
        assert stages[name]["outcomes"] == {"completed": RUNS - len(failed), "failed": len(failed)}
        codes = {code: sum(n for _, n in rows) for code, rows in stages[name]["codes"].items()}
        assert codes == {"timeout": in_the_middle, "overloaded": len(failed) - in_the_middle}
        assert sum(count for _, count in stages[name]["ended"]) == RUNS
        assert sum(stages[name]["heat"]["cells"][2::3]) == RUNS
    assert stages["tts"]["outcomes"] == {"completed": RUNS - len(failed)}


def test_percentiles_stand_within_the_cells_of_the_heat_map(store: Path) -> None:
    """A step's percentiles lie within the rows that the heat map shows for it, rising with them."""
    for stage in read(store)["stages"]:
        bounds, cells = stage["heat"]["bounds_ms"], stage["heat"]["cells"]
        rows: dict[int, list[int]] = {}
        for step, row in zip(cells[::3], cells[1::3], strict=True):
            rows.setdefault(step, []).append(row)
        assert stage["by_step"]
        for step, p50, p95, p99 in stage["by_step"]:
            assert bounds[min(rows[step])] <= p50 <= p95 <= p99 <= bounds[max(rows[step]) + 1]


def test_budgets_of_turns_and_of_stages(store: Path) -> None:
    """The budgets of the latency benchmarks are those of turns and of stages, in milliseconds."""
    budgets = {stage["stage"]: stage["budget"] for stage in read(store)["stages"]}
    assert budgets[""] == {"metric": "Voice", "p50": 500, "p99": 1000, "runbook": "voice-latency"}
    assert budgets["llm"] == {"metric": "llm", "p50": 200, "p99": None, "runbook": "stage-latency"}
    assert {budgets[name] for name in central.STAGES if name != "llm"} == {None}


def test_example_runs_show_their_critical_path(store: Path) -> None:
    """Of two parallel stages the longer is on the critical path, and the slow run is slower."""
    (runs,) = read(store)["runs"]
    for run in (runs["typical"], runs["slow"]):
        took = {bar["stage"]: bar["end_ms"] - bar["start_ms"] for bar in run["bars"]}
        critical = {bar["stage"] for bar in run["bars"] if bar["critical"]}
        assert critical & {"profile", "memory"} == {max("profile", "memory", key=took.__getitem__)}
        assert {"stt", "llm"} <= critical
    assert runs["slow"]["total_ms"] > runs["typical"]["total_ms"]


@pytest.mark.parametrize("hours", [0.5, 24, 24 * 400])
def test_few_steps_whatever_the_stretch(tmp_path: Path, hours: float) -> None:
    """Minutes or a year, a window is divided into no more steps than a chart can show."""
    times = (NOON_S - hours * 3600, NOON_S)
    sink_of(tmp_path / "t.db", [run_log(f"{at}", {"a": 1.0}, at_s=at) for at in times]).close()
    shown = read(tmp_path / "t.db")
    assert 2 <= shown["steps"] <= STEPS + 1
    assert [step for step, _ in shown["stages"][0]["ended"]] == [0, shown["steps"] - 1]


def test_newest_end_alone(store: Path) -> None:
    """Asked for the newest hour, the page is given what ended in it."""
    shown = read(store, newest_s=3600)
    (turns,) = (stage for stage in shown["stages"] if not stage["stage"])
    assert sum(count for _, count in turns["ended"]) == pytest.approx(RUNS / 4, abs=3)


def turn(at_s: float, before: str, after: str, source: str = "a") -> BreakerTurn:
    """A change of the language model's breaker."""
    return BreakerTurn(at_s, "llm", source, before, after, "why", "voice", "llm", "r")


def test_breakers_are_shown_in_the_worst_state_of_any_process() -> None:
    """One line a provider: open while any process has it open, and as it was before the window."""
    changes = [
        turn(-5, "closed", "open"),
        turn(10, "open", "half_open"),
        turn(20, "closed", "open", "b"),
        turn(30, "half_open", "closed"),
        turn(40, "open", "closed", "b"),
    ]
    (line,) = timelines(changes, (0, 100), 100)
    assert line["segments"] == [(0, 2), (10, 1), (20, 2), (40, 0)]
    assert line["changes"] == 4


def test_short_openings_are_not_thinned_away() -> None:
    """Where there are more changes than columns, a column shows the worst state within it."""
    changes = [
        turn(n + half / 2, "closed", "open") if not half else turn(n + 0.5, "open", "closed")
        for n in range(50, 1000)
        for half in (0, 1)
    ]
    (line,) = timelines(changes, (0, 1000), 100)
    assert line["segments"] == [(0, 0), (50, 2)]


ALERTS = (
    "CREATE TABLE alerts (source, rule, labels, since_s, firing_s, value, likely, told)",
    """INSERT INTO alerts VALUES
       ('s', 'VoiceLatencyOverBudget', '[["pipeline", "voice"]]', 1, 9, 1234.5, 'stage llm', 1),
       ('s', 'NoData', '[]', 1, NULL, 1, '', 0)""",
)
RULES = """\
[[alert]]
name = "VoiceLatencyOverBudget"
kind = "latency"
runbook = "live-latency"
"""


def test_alerts_that_fire_are_read(tmp_path: Path) -> None:
    """What the evaluator says fires is shown with figure, unit and runbook; what pends is not."""
    path = state_of(tmp_path / "t.db")
    assert firing(path, tmp_path / "alerts.toml") == (None, "")
    with sqlite3.connect(path) as connection:
        for statement in ALERTS:
            connection.execute(statement)
    connection.close()
    (tmp_path / "alerts.toml").write_text(RULES, encoding="utf-8")
    alerts, problem = firing(path, tmp_path / "alerts.toml")
    assert alerts is not None
    (alert,) = alerts
    assert problem == ""
    assert alert.what == "pipeline voice, P99 latency 1,234 ms; likely stage llm"
    assert (alert.rule, alert.since_s, alert.runbook) == (
        "VoiceLatencyOverBudget",
        9,
        "live-latency",
    )


def test_unreadable_alerts_are_said(tmp_path: Path) -> None:
    """A state that cannot be read is not taken for silence."""
    path = state_of(tmp_path / "t.db")
    path.write_text("no database", encoding="utf-8")
    alerts, problem = firing(path, tmp_path / "alerts.toml")
    assert alerts is None
    assert "t.alerts.db cannot be read (DatabaseError" in problem


def test_runs_of_the_gate_are_on_record(tmp_path: Path) -> None:
    """Runs are read as they were recorded, and a line that was cut off is counted, not hidden."""
    assert gate_record(tmp_path)["runs"] == []
    for number, code in enumerate((Exit.FINE, Exit.REGRESSION)):
        record(tmp_path, Run.now("b" * 40, "a" * 40, code, 10.5 + number))
    with (tmp_path / ".asv/gate/runs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"at": "2026-')
    shown = gate_record(tmp_path)
    assert [run[1:] for run in shown["runs"]] == [
        ["b" * 40, "a" * 40, 0, 10.5],
        ["b" * 40, "a" * 40, 1, 11.5],
    ]
    assert shown["exits"] == {"0": 1, "1": 1}
    assert shown["notes"] == ["1 lines of the record of runs cannot be read and were left out."]


def test_loads_are_on_record(tmp_path: Path) -> None:
    """Loads are read as they were recorded; what was cut off, or is of another version, counts."""
    assert load_record(tmp_path) == {"loads": [], "notes": []}
    worse = {"ended": 29_700, "failed": 300, "faults": ["300 turns failed"]}
    lines = [central.a_load(**worse), central.a_load(version=2), "[]\n", '{"version": 1, "at": "2']
    (tmp_path / "load.jsonl").write_text("".join(lines), encoding="utf-8")
    shown = load_record(tmp_path)
    (load,) = shown["loads"]
    assert (load["rate_hz"], load["carried_hz"], load["failed"]) == (500.0, 495.0, 300)
    assert load["latency_ms"] == [0.6, 0.9, 1.4, 9.5]
    assert load["at_s"] == 1767323045
    assert load["faults"] == ["300 turns failed"]
    assert shown["notes"] == ["3 lines of load.jsonl cannot be read and were left out."]


def test_the_writers_are_named(tmp_path: Path) -> None:
    """The page is told by which file and by which processes the telemetry was written."""
    for source in ("b", "a", "b"):
        sink = SQLiteSink(tmp_path / "t.db", source=source)
        sink.write(batch(run_log("1", {"a": 10.0})))
        sink.close()
    shown = read(tmp_path / "t.db")
    assert (shown["store"], shown["sources"]) == ("t.db", ("a", "b"))


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_many_pages_cost_one_reading(tmp_path: Path) -> None:
    """Within half a refresh the same answer is given; after it, what has been written since."""
    path, clock = tmp_path / "t.db", Clock()
    sink = sink_of(path, [run_log("1", {"a": 1.0})])
    live = LiveTelemetry(path, [], tmp_path / "alerts.toml", newest_s=3600, clock=clock)
    first = live.answer()
    sink_of(path, [run_log("2", {"a": 1.0})]).close()
    assert live.answer() == first
    clock.now += REFRESH_S / 2
    stage = json.loads(live.answer())["telemetry"]["stages"][0]
    assert stage["outcomes"] == {"completed": 2}
    sink.close()


def test_store_that_goes_bad_is_said(tmp_path: Path) -> None:
    """When the file can no longer be read, the answer is why, and the page goes on."""
    path = tmp_path / "t.db"
    path.write_text("no database at all, but long enough to be looked at", encoding="utf-8")
    live = LiveTelemetry(path, [], tmp_path / "alerts.toml", newest_s=3600)
    answer = json.loads(live.answer())
    assert answer["telemetry"] is None
    assert "is no SQLite database" in answer["problem"]


def test_live_server_answers_beside_the_site(tmp_path: Path, store: Path) -> None:
    """The page's two questions are answered from the store, all else from the site."""
    (tmp_path / PAGE).write_text("the page", encoding="utf-8")
    live = LiveTelemetry(store, [], tmp_path / "alerts.toml", newest_s=1e6)

    def get(address: str) -> str:
        with urllib.request.urlopen(f"{home}{address.lstrip('/')}", timeout=20) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            text: str = answer.read().decode()
            return text

    with serving(make_server(tmp_path, 0, live)) as home:
        assert get(PAGE) == "the page"
        assert get(SWITCH) == f"centralLive({REFRESH_S});\n"
        assert len(json.loads(get(f"{ADDRESS}?again"))["telemetry"]["stages"]) == 7
