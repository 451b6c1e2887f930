"""Central Pulse's panels of running pipelines: telemetry, breakers, alerts, and the live answer."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.alerts import AlertState, state_of
from stageflow.pulse.alerts.conditions import Alert
from stageflow.pulse.dashboard import PAGE, LiveBudgets, LiveTelemetry, load_settings
from stageflow.pulse.dashboard.now import firing
from stageflow.pulse.dashboard.page import ADDRESS, REFRESH_S, SWITCH
from stageflow.pulse.dashboard.records import figures_record, gate_record, load_record
from stageflow.pulse.dashboard.telemetry import STEPS, telemetry, timelines, window_of
from stageflow.pulse.gate import Budget, Exit, Gate, GateRun, record_run
from stageflow.pulse.history import make_server
from stageflow.telemetry import BreakerNote, SQLiteSink, TelemetryStore
from stageflow.telemetry.readings import bucket_of
from tests.utils import central
from tests.utils.asv_repo import ROOT
from tests.utils.browser import serving
from tests.utils.telemetry import NOON_S, batch, run_log, sink_of, voice_log

RUNS = 400
#: What the page shows of this repository.
SHOWN = load_settings(ROOT / "benchmarks")
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
    """Return the page's data of a store."""
    with TelemetryStore(path) as opened:
        window = window_of(opened, newest_s)
        assert window is not None
        return telemetry(opened, window, LiveBudgets([BUDGET, OF_A_STAGE], SHOWN.live_budgets))


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
    used = [row for row in shown["usage"] if row[:3] == ["voice", "llm", "prompt_tokens"]]
    assert sum(amount for *_, amount in used) == 150 * RUNS
    assert {step for *_, step, _ in used} <= set(range(shown["steps"]))


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


def test_firsts_beside_their_budgets(tmp_path: Path) -> None:
    """First audio and first items have figures, steps, cells, and each the budget of its own."""
    turns = [voice_log(f"{n}", 400.0, at_s=NOON_S + 6 * n) for n in range(100)]
    whole = run_log("w", {"tts": 700.0}, pipeline="voice", sounds="tts")
    sink_of(tmp_path / "t.db", [*turns, whole]).close()
    series = {
        "audio": "simulation.TimeToFirstAudio.track_kernel('streaming_voice')",
        "item": "simulation.TimeToFirstItem.track_stream('streaming_voice.tts.sound')",
    }
    budgets = [
        replace(OF_A_STAGE, metric=metric, series=name, p99=300.0)
        for metric, name in series.items()
    ]
    with TelemetryStore(tmp_path / "t.db") as opened:
        window = window_of(opened)
        assert window is not None
        shown = telemetry(opened, window, LiveBudgets(budgets, SHOWN.live_budgets))
    firsts = {(f["pipeline"], f["stage"], f["stream"]): f for f in shown["firsts"]}
    audio = firsts["streaming_voice", "", ""]
    item = firsts["streaming_voice", "tts", "sound"]
    other = firsts.pop(("voice", "", ""))
    assert [f["count"] for f in (audio, item, other)] == [100, 100, 1]
    assert audio["percentiles"] == [pytest.approx(400.0, rel=0.025)] * 3
    assert item["percentiles"] == [pytest.approx(300.0, rel=0.025)] * 3
    assert [step for step, *_ in audio["by_step"]] == list(range(10))
    assert sum(audio["heat"]["cells"][2::3]) == 100
    assert [f["budget"] and f["budget"]["metric"] for f in (audio, item, other)] == [
        *series,
        None,
    ]
    over = [(row["series"], row["figure"]) for row in shown["over"]]
    # 300 ms are not over a budget of 300 ms at P99.
    assert over == [
        ("streaming_voice", "p50"),
        ("streaming_voice", "p99"),
        ("streaming_voice.tts.sound", "p50"),
    ]


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


def test_a_simulation_exceeds_no_budget(tmp_path: Path) -> None:
    """Its latencies are shown beside the budgets, but are not over them now."""
    budgets = LiveBudgets([BUDGET], {"turn": "{pipeline}.Latency.track_turn"})
    for source, over in (("here", 2), ("simulation of an outage", 0)):
        path = tmp_path / f"{source}.db"
        logs = [run_log(f"{n}", {"a": 9000.0}, pipeline="voice") for n in range(100)]
        sink_of(path, logs, source).close()
        with TelemetryStore(path) as opened:
            window = window_of(opened)
            assert window is not None
            shown = telemetry(opened, window, budgets)
        assert (len(shown["over"]), shown["simulated"]) == (over, not over)


def turn(at_s: float, before: str, after: str, source: str = "a") -> BreakerNote:
    """A change of the language model's breaker."""
    return BreakerNote(at_s, "llm", source, before, after, "why", "voice", "llm", "r")


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


def test_alerts_that_fire_are_read(tmp_path: Path) -> None:
    """Firing alerts are shown with figure, unit and runbook; pending ones are not."""
    path = state_of(tmp_path / "t.db")
    assert firing(path) == ({"alerts": None, "evaluated_s": None}, "")
    fires = Alert(
        "VoiceLatencyOverBudget",
        (("pipeline", "voice"),),
        *(1, 9, None, 1234.5, "stage llm", True),
        what="P99 latency of voice is 1,230 ms, limit 1,000 ms",
        runbook="live-latency",
        owner="engine",
        kind="latency",
    )
    pends = Alert("NoData", (), 1, None, None, 1, "", False)
    with AlertState(path) as state:
        state.keep("s", 9, [fires, pends])
    found, problem = firing(path)
    (alert,) = found["alerts"]
    assert problem == ""
    assert alert == {
        "rule": "VoiceLatencyOverBudget",
        "kind": "latency",
        "labels": {"pipeline": "voice"},
        "owner": "engine",
        "what": "P99 latency of voice is 1,230 ms, limit 1,000 ms; likely stage llm",
        "since_s": 9,
        "runbook": "live-latency",
    }


def test_unreadable_alerts_are_said(tmp_path: Path) -> None:
    """A state that cannot be read is not shown as silence."""
    path = state_of(tmp_path / "t.db")
    path.write_text("no database", encoding="utf-8")
    found, problem = firing(path)
    assert found["alerts"] is None
    assert "The alerts in t.alerts.db cannot be read: " in problem
    assert "is not an SQLite database" in problem


def test_runs_of_the_gate_are_on_record(tmp_path: Path) -> None:
    """Runs are read as they were recorded, and a line that was cut off is counted, not hidden."""
    assert gate_record(tmp_path)["runs"] == []
    for number, code in enumerate((Exit.OK, Exit.REGRESSION)):
        record_run(tmp_path, GateRun.now("b" * 40, "a" * 40, code, 10.5 + number))
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
    assert SHOWN.load is not None
    command = SHOWN.load.command
    assert load_record(SHOWN.load, tmp_path) == {"command": command, "loads": [], "notes": []}
    worse = {"ended": 29_700, "failed": 300, "faults": ["300 turns failed"]}
    lines = [central.a_load(**worse), central.a_load(version=2), "[]\n", '{"version": 1, "at": "2']
    (tmp_path / "load.jsonl").write_text("".join(lines), encoding="utf-8")
    shown = load_record(SHOWN.load, tmp_path)
    (load,) = shown["loads"]
    assert (load["rate_hz"], load["carried_hz"], load["failed"]) == (500.0, 495.0, 300)
    assert load["latency_ms"] == [0.6, 0.9, 1.4, 9.5]
    assert load["at_s"] == 1767323045
    assert load["faults"] == ["300 turns failed"]
    assert shown["notes"] == ["3 lines of load.jsonl cannot be read and were left out."]


def test_voice_figures_are_on_record(tmp_path: Path) -> None:
    """Each figure has a value for each run of the newest's machine; of samples the P95, too."""
    assert SHOWN.figures is not None
    empty: dict[str, Any] = {
        "title": "Voice figures of real providers",
        "link": "Voice",
        "command": SHOWN.figures.command,
        "runs": [],
        "machine": None,
        "python": None,
        "figures": [],
        "notes": [],
    }
    assert figures_record(SHOWN.figures, tmp_path) == empty
    machine = json.loads(central.voice_figures())["machine"]
    lines = [
        central.voice_figures(0.3),
        central.voice_figures(machine={**machine, "machine": "another"}),
        central.voice_figures(version=2),
        central.voice_figures(commit_at="yesterday"),
        '{"version": 1, "at": "2\n',
        central.voice_figures(figures={"llm.tokens": {"value": 5, "unit": "x", "samples": None}}),
        central.voice_figures(0.36),
    ]
    (tmp_path / "voice.jsonl").write_text("".join(lines), encoding="utf-8")
    shown = figures_record(SHOWN.figures, tmp_path)
    assert [run["commit"] for run in shown["runs"]] == ["a" * 40] * 3
    assert (shown["machine"]["machine"], shown["python"]) == ("box", "3.11.7")
    figures = {figure["name"]: figure for figure in shown["figures"]}
    # As they are listed, and what is not behind them.
    assert [*figures][::6] == ["turn.streaming.first_audio", "yet.unknown"]
    assert figures["stt.any_words.word_error_rate"]["values"] == [0.3, None, 0.36]
    assert figures["stt.any_words.word_error_rate"]["p95"] == [None] * 3
    assert figures["llm.tokens"]["values"] == [None, 5.0, None]
    # At nine tenths of the way from 600 to 1,000 ms.
    audio = figures["turn.streaming.first_audio"]
    assert (audio["values"], audio["p95"]) == ([600.0, None, 600.0], [960.0, None, 960.0])
    assert audio["title"] == "Time to first audio, streaming"
    assert shown["notes"] == [
        "3 lines of voice.jsonl cannot be read and were left out.",
        "1 runs of other machines are not shown.",
    ]


def test_the_writers_are_named(tmp_path: Path) -> None:
    """The page names the file and the processes that wrote the telemetry."""
    for source in ("b", "a", "b"):
        sink = SQLiteSink(tmp_path / "t.db", source=source)
        sink.write(batch(run_log("1", {"a": 10.0})))
        sink.close()
    shown = read(tmp_path / "t.db")
    assert (shown["store"], shown["sources"]) == ("t.db", ("a", "b"))


class Clock:
    """A clock that moves by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_many_pages_cost_one_reading(tmp_path: Path) -> None:
    """Within half a refresh the same answer is given; after it, what has been written since."""
    path, clock = tmp_path / "t.db", Clock()
    sink = sink_of(path, [run_log("1", {"a": 1.0})])
    live = LiveTelemetry(path, LiveBudgets(), newest_s=3600, clock=clock)
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
    live = LiveTelemetry(path, LiveBudgets(), newest_s=3600)
    answer = json.loads(live.answer())
    assert answer["telemetry"] is None
    assert "is not an SQLite database" in answer["problem"]


def test_live_server_answers_beside_the_site(tmp_path: Path, store: Path) -> None:
    """The page's two questions are answered from the store, all else from the site."""
    (tmp_path / PAGE).write_text("the page", encoding="utf-8")
    live = LiveTelemetry(store, LiveBudgets(), newest_s=1e6)

    def get(address: str) -> str:
        with urllib.request.urlopen(f"{home}{address.lstrip('/')}", timeout=20) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            text: str = answer.read().decode()
            return text

    with serving(make_server(tmp_path, 0, live)) as home:
        assert get(PAGE) == "the page"
        assert get(SWITCH) == f"centralLive({REFRESH_S});\n"
        assert len(json.loads(get(f"{ADDRESS}?again"))["telemetry"]["stages"]) == 7


def test_examples_lead_from_a_cell_to_its_runs(store: Path) -> None:
    """The slowest runs come first, one for each step and bucket, with their slowest stage."""
    (runs,) = read(store)["runs"]
    took = [duration_ms for _, _, duration_ms, *_ in runs["examples"]]
    buckets = [bucket_of(duration_ms) for duration_ms in took]
    assert buckets == sorted(buckets, reverse=True)
    assert {stage for *_, stage in runs["examples"]} <= set(central.STAGES)
    failed = [one for one in runs["examples"] if one[3] == "failed"]
    assert failed
    assert {(stage, code in ("timeout", "overloaded")) for *_, stage, code, _, _ in failed} == {
        ("llm", True)
    }
    with TelemetryStore(store) as opened:
        window = window_of(opened)
        assert window is not None
        assert len(opened.examples(window, "voice", limit=3)) == 3
        assert opened.examples(window, "another") == ()


def test_the_last_evaluation_of_alerts_has_its_time(tmp_path: Path) -> None:
    """Of several sources, the latest counts; a state without any has none."""
    path = state_of(tmp_path / "t.db")
    with AlertState(path) as state:
        assert firing(path)[0]["evaluated_s"] is None
        state.keep("a", 9, [])
        state.keep("b", 7, [])
    assert firing(path)[0]["evaluated_s"] == 9
