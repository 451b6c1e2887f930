"""The answers of a telemetry store: runs, sums over a window, breakers and dead letters."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    EventDispatcher,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.dlq import InMemoryDeadLetterStore, replay
from stageflow.events import EventLog
from stageflow.interceptors import BreakerInterceptor
from stageflow.kernels import default_providers, first_audio_ms, streaming_voice
from stageflow.providers import speech_of_text
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from stageflow.telemetry import Errors, ObservedDeadLetterStore, SQLiteSink, TelemetryStore, Window
from stageflow.telemetry.database import SqliteDatabase
from tests.utils.errors import raises_code
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.telemetry import NOON_S, batch, change, run_log, sink_of, voice_log
from tests.utils.virtual_time import run_virtual

HOUR_S = 3600.0

NOON = int(NOON_S)


@pytest.mark.simulate(order="asyncio")
async def test_a_run_reads_back_as_it_was(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """Events with their data, times and numbers; and how the run ended."""
    sink = SQLiteSink(path, source="here")
    with EventDispatcher([sink]) as dispatcher:
        pipeline = make_pipeline(
            make_spec("ok", pauses_s=(0.25,)),
            make_spec("bad", "ok", pauses_s=(0.5,), ending="raise"),
            make_spec("never", "bad"),
            name="turn",
        )
        bound = PipelineOrchestrator(pipeline.build(), dispatcher=dispatcher)
        result = await bound.run(PipelineContext())
    note = opened().run(result.pipeline_run_id)
    assert [event.to_dict() for event in note.events] == [e.to_dict() for e in result.events]
    assert (note.pipeline, note.source, note.status) == ("turn", "here", "failed")
    assert (note.failed_stage, note.error_code) == ("bad", "stage_raised")
    assert note.duration_ms == pytest.approx(750.0)
    assert note.started_s == pytest.approx(result.events[0].timestamp.timestamp())


def test_events_in_any_batches_read_back_alike(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A batch may end within a run, and hold events as a dispatcher or anybody else makes them."""
    log, other = run_log("one", {"a": 5.0, "b": "boom"}), run_log("two", {"a": 7.0})
    sink = SQLiteSink(path)
    for position in range(len(log)):
        sink.write(batch(log)[position : position + 1])
    sink.write(list(other))
    sink.close()
    for expected in (log, other):
        found = opened().run(expected.pipeline_run_id).events
        assert [e.to_dict() for e in found] == [e.to_dict() for e in expected]


def test_what_a_stage_emits_may_hold_anything(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Odd values, names of ours with values of another kind, half characters: all is kept."""
    log = run_log("odd", {"a": 1.0})
    circle: list[Any] = []
    circle.append(circle)
    said: list[Any] = [
        {"duration_ms": "long", "error_code": 5, "when": object},
        {"nan": float("nan"), (1, 2): {3}},
        {"circle": circle},
        {"half": "\ud800"},
        {},
    ]
    for data in said:
        log.append(("stage.a.said", 0.002, "a", data))
    sink_of(path, [log]).close()
    read = [event.data for event in opened().run("odd").events if event.what == "said"]
    assert read[0] == {"duration_ms": "long", "error_code": 5, "when": repr(object)}
    assert read[1] == {"nan": "nan", "(1, 2)": [3]}
    assert "recursion" in read[2]["not_encodable"]
    assert read[3:] == [{"half": "\ud800"}, {}]


def test_of_runs_with_one_id_the_latest_is_read(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Seeded runs repeat their ids: each is a run of its own."""
    sink_of(path, [run_log("same", {"a": 1.0}), run_log("same", {"b": 2.0})]).close()
    store = opened()
    assert [e.stage for e in store.run("same").events if e.stage] == ["b", "b"]
    assert store.known() == (("p", None), ("p", "a"), ("p", "b"))


def test_a_run_whose_beginning_was_dropped_is_kept_all_the_same(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Under an unknown pipeline, and with the begin that its events' offsets tell."""
    log = run_log("late", {"a": 5.0})
    sink = SQLiteSink(path)
    sink.write(batch(log)[2:])
    sink.close()
    note = opened().run("late")
    assert (note.pipeline, note.status, note.started_s) == ("unknown", "completed", NOON_S)
    assert [event.sequence for event in note.events] == [3, 4]


def test_an_unknown_run_is_refused(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """By a name that tells where it was looked for."""
    sink_of(path).close()
    with raises_code("unknown_run", match=r"telemetry.db holds no run 'nobody'"):
        opened().run("nobody")


def test_latencies_of_a_window(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """Percentiles by stage and for the runs, each within its bucket of what they are by hand."""
    sink_of(path, (run_log(f"{n}", {"a": 10.0, "b": float(n)}) for n in range(1, 101))).close()
    found = {e.stage: e for e in opened().latencies(Window(NOON_S, NOON_S + 60))}
    assert [found[s].histogram.count for s in (None, "a", "b")] == [100, 100, 100]
    assert found["a"].p50_ms == pytest.approx(10.0, rel=0.025)
    assert found["b"].p50_ms == pytest.approx(50.0, rel=0.025)
    assert found["b"].p95_ms == pytest.approx(95.0, rel=0.025)
    assert found["b"].p99_ms == pytest.approx(99.0, rel=0.025)
    assert found[None].p99_ms == pytest.approx(109.0, rel=0.025)


def test_what_failed_counts_as_latency_and_what_was_cut_short_does_not(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A stage that runs into its timeout is a slow stage; a cancelled or skipped one is not."""
    log = run_log("x", {"a": 1.0})
    for what, ms in (("failed", 900.0), ("cancelled", 800.0), ("skipped", 700.0)):
        log.append((f"stage.{what}.{what}", 1.0, what, {"duration_ms": ms, "error_code": "c"}))
    sink_of(path, [log]).close()
    stages = [entry.stage for entry in opened().latencies(Window(NOON_S, NOON_S + 60))]
    assert stages == [None, "a", "failed"]


def test_steps_and_the_edges_of_a_window(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """An end belongs to its minute; a window takes whole minutes; steps lie on their multiples."""
    times = (-1.0, 0.0, 59.0, 60.0, 299.0, 300.0)
    sink_of(path, (run_log(f"{at}", {"a": 0.5}, at_s=NOON_S + at) for at in times)).close()
    store = opened()

    def counts(start: float, end: float, step: int | None) -> dict[int, int]:
        window = Window(NOON_S + start, NOON_S + end, step)
        found = store.latencies(window, stage="a")
        return {entry.start_s - NOON: entry.histogram.count for entry in found}

    assert counts(0, 60, None) == {0: 2}
    assert counts(30, 61, None) == {0: 3}
    assert counts(-60, 301, None) == {-60: 6}
    assert counts(-60, 301, 60) == {-60: 1, 0: 2, 60: 1, 240: 1, 300: 1}
    assert counts(10, 290, 300) == {0: 4}
    assert counts(-10, 310, 300) == {-300: 1, 0: 4, 300: 1}
    assert counts(400, 500, 60) == {}


@pytest.mark.parametrize(("start_min", "length_min"), [(0, 60), (-30, 300), (17, 180), (5, 50)])
@pytest.mark.parametrize("step_s", [None, 60, 300, 3600, 7200])
def test_hours_and_minutes_give_the_same_sums(
    path: Path,
    opened: Callable[[], TelemetryStore],
    start_min: int,
    length_min: int,
    step_s: int | None,
) -> None:
    """However a window lies, its sums are those of the runs themselves, counted one by one."""
    ends = [NOON_S + 13.0 * 60 * n for n in range(-10, 40)]
    sink_of(path, (run_log(f"{at}", {"a": 1.0}, at_s=at) for at in ends)).close()
    start_s, end_s = NOON_S + 60.0 * start_min, NOON_S + 60.0 * (start_min + length_min)
    unit = step_s or (end_s - start_s)
    first = start_s // step_s * step_s if step_s else start_s
    last = -(-end_s // step_s) * step_s if step_s else end_s
    expected: dict[float, int] = {}
    for at in ends:
        if first <= at < last:
            step = first + (at - first) // unit * unit
            expected[step] = expected.get(step, 0) + 1
    found = opened().latencies(Window(start_s, end_s, step_s), stage="a")
    assert {entry.start_s: entry.histogram.count for entry in found} == expected


def test_whole_hours_are_read_as_hours(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """Without the minutes in between, a window over hours tells the same."""
    ends = [NOON_S + 1_200.0 * n for n in range(12)]
    sink_of(path, (run_log(f"{at}", {"a": 1.0}, at_s=at) for at in ends)).close()
    store, window = opened(), Window(NOON_S + 1_200, NOON_S + 3.5 * HOUR_S)
    before = store.latencies(window), store.errors(window)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "DELETE FROM rollups WHERE span_s = 60 AND start_s BETWEEN ? AND ?",
            (NOON_S + HOUR_S, NOON_S + 3 * HOUR_S - 60),
        )
    connection.close()
    assert (store.latencies(window), store.errors(window)) == before
    assert before[0][0].histogram.count == 10


def test_errors_by_stage_and_code(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """Counts of each outcome, of each code, and the rate of those that failed."""
    codes: list[str | float] = ["boom", "boom", "slow", 1.0, 1.0, 1.0, 1.0, 1.0]
    sink_of(path, (run_log(f"{n}", {"a": end}) for n, end in enumerate(codes))).close()
    store, window = opened(), Window(NOON_S, NOON_S + 60)
    expected = ({"completed": 5, "failed": 3}, {"boom": 2, "slow": 1})
    assert store.errors(window) == (
        Errors(NOON, "p", None, *expected),
        Errors(NOON, "p", "a", *expected),
    )
    assert store.errors(window)[0].rate == 3 / 8
    assert Errors(0, "p", "a", {"skipped": 3}, {}).rate == 0.0


def firsts(store: TelemetryStore, window: Window) -> dict[tuple[str, str | None, str | None], int]:
    """For each pipeline, stage and stream how many firsts were counted."""
    return {(f.pipeline, f.stage, f.stream): f.histogram.count for f in store.firsts(window)}


def test_first_items_and_first_audio(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """From the start of the stage and of the run, however they ended, and beside all else."""
    turns = [voice_log(f"{n}", 10.0 * n, ends=n % 2 == 0) for n in range(1, 101)]
    sink_of(path, turns).close()
    store, window = opened(), Window(NOON_S, NOON_S + 60)
    audio, item = store.firsts(window)
    assert (audio.pipeline, audio.stage, audio.stream) == ("streaming_voice", None, None)
    assert (item.pipeline, item.stage, item.stream) == ("streaming_voice", "tts", "sound")
    for found, p50, p99 in ((audio, 500.0, 990.0), (item, 375.0, 742.5)):
        assert found.histogram.count == 100
        assert found.p50_ms == pytest.approx(p50, rel=0.025)
        assert found.p99_ms == pytest.approx(p99, rel=0.025)
    assert store.firsts(window, stage="tts") == (item,)
    assert store.firsts(window, pipeline="voice") == ()
    # Of what ended nothing has changed.
    (ended,) = store.errors(window, stage="")
    assert ended.outcomes == {"completed": 50, "failed": 50}
    names = [None, "stt", "tts"]
    assert [entry.stage for entry in store.latencies(window)] == names
    assert store.known() == tuple(("streaming_voice", name) for name in names)


def test_usage(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """Sums by step, pipeline, provider and unit, beside all else; other values do not count."""
    log = EventLog("run", 0.0, NOON_S)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "chat"}))
    for used in (
        {"provider": "llm", "prompt_tokens": 5, "cost": 0.000005},
        {"provider": "llm", "prompt_tokens": 7, "completion_tokens": 1e9},
        {"provider": 7, "audio_s": 0.5, "characters": "9", "cost": float("nan")},
        {"audio_s": -1, "characters": 1e300},
    ):
        log.append(("stage.llm.usage", 0.0, "llm", used))
    log.append(("stage.llm.completed", 1.0, "llm", 0.0))
    log.append(("pipeline.completed", 1.0, None, {"duration_ms": 1000.0}))
    sink_of(path, [log]).close()
    store, window = opened(), Window(NOON_S, NOON_S + 60)
    assert store.usage(window) == {
        (NOON, "chat", "7", "audio_s"): 0.5,
        (NOON, "chat", "llm", "completion_tokens"): 1e9,
        (NOON, "chat", "llm", "cost"): 0.000005,
        (NOON, "chat", "llm", "prompt_tokens"): 12,
    }
    assert store.known() == (("chat", None), ("chat", "llm"))
    assert [sum(errors.outcomes.values()) for errors in store.errors(window)] == [1, 1]


def test_a_turn_that_does_not_stream_is_heard_when_its_sound_is_made(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A turn without sound, or whose synthesis failed, has no first audio."""
    whole = {"stt": 40.0, "tts": 60.0, "persist": 30.0}
    logs = [
        run_log("whole", whole, pipeline="voice", sounds="tts"),
        run_log("unspeakable", {"stt": 40.0, "tts": 10.0}, pipeline="voice"),
        run_log("failed", {"stt": 40.0, "tts": "boom"}, pipeline="voice"),
        run_log("typed", {"llm": 40.0}, pipeline="chat"),
    ]
    sink_of(path, logs).close()
    (audio,) = opened().firsts(Window(NOON_S, NOON_S + 60))
    assert (audio.pipeline, audio.stage, audio.histogram.count) == ("voice", None, 1)
    assert audio.p50_ms == pytest.approx(100.0, rel=0.025)


@pytest.mark.simulate(order="asyncio")
async def test_what_a_real_turn_tells(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """The figures in the file are those that the run's own events tell."""
    providers = default_providers(scale=1.0, seed=1)
    with EventDispatcher([SQLiteSink(path)]) as dispatcher:
        bound = PipelineOrchestrator(streaming_voice().build(), dispatcher=dispatcher)
        inputs = {"audio": speech_of_text("Will it rain? I walk."), "user_id": "ada"}
        result = await bound.run(PipelineContext(inputs, providers=providers))
    told = {
        (e.stage, e.data["stream"]): e.data["elapsed_ms"]
        for e in result.events
        if e.what == "stream_first_item"
    }
    told[None, None] = first_audio_ms(result.events)
    found = {(f.stage, f.stream): f.p50_ms for f in opened().firsts(Window(0.0, 4e9))}
    assert set(found) == {(None, None), ("llm", "sentences"), ("tts", "sound")}
    assert found == {key: pytest.approx(ms, rel=0.025) for key, ms in told.items()}


def test_a_pipeline_of_ones_own_reports_its_first_audio(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """By the event of a stage of any name; a stage called `tts` that emits none reports nothing."""

    async def silent(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(0.2)
        return StageOutput.ok()

    async def ring(ctx: StageContext) -> StageOutput:
        for _ in range(3):
            await asyncio.sleep(0.1)
            ctx.emit("first_audio")
        return StageOutput.ok()

    specs = [StageSpec("tts", silent), StageSpec("bell", ring, ("tts",))]
    with EventDispatcher([SQLiteSink(path)]) as dispatcher:
        bound = PipelineOrchestrator(Pipeline("door", specs).build(), dispatcher=dispatcher)
        result = run_virtual(lambda: bound.run(PipelineContext()))
    assert first_audio_ms(result.events) == pytest.approx(300.0)
    (audio,) = opened().firsts(Window(0.0, 4e9))
    assert (audio.pipeline, audio.stage, audio.histogram.count) == ("door", None, 1)
    assert audio.p50_ms == pytest.approx(300.0, rel=0.025)


def test_of_a_run_that_was_forgotten_no_first_audio_is_reported(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Its first sound may be what was lost: a later one is not counted in its place."""
    log, sink = voice_log("lost", 400.0), SQLiteSink(path)
    sink.write(batch(log)[:4])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("ALTER TABLE rollups RENAME TO away")
    with raises_code("telemetry_file_failed"):
        sink.write(batch(log)[4:7])
    other.execute("ALTER TABLE away RENAME TO rollups")
    other.close()
    sink.write(batch(log)[7:])
    sink.write(batch(voice_log("dropped", 400.0))[7:])
    sink.close()
    store, window = opened(), Window(NOON_S, NOON_S + 60)
    assert store.run("lost").status == "completed"
    assert firsts(store, window) == {}


def test_pipelines_and_stages_stay_distinct(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A question about one is not answered with another's data."""
    sink_of(
        path,
        [run_log("1", {"a": 1.0, "b": 2.0}), run_log("2", {"a": 30.0}, pipeline="q")],
    ).close()
    store, window = opened(), Window(NOON_S, NOON_S + 60)
    of = [(e.pipeline, e.stage) for e in store.latencies(window, pipeline="q")]
    assert of == [("q", None), ("q", "a")]
    assert [e.pipeline for e in store.errors(window, stage="a")] == ["p", "q"]
    assert [e.stage for e in store.latencies(window, pipeline="p", stage="")] == [None]
    assert store.latencies(window, pipeline="nobody") == ()
    assert store.covered() == Window(NOON, NOON + 60)


def test_typical_and_slowest_run(path: Path, opened: Callable[[], TelemetryStore]) -> None:
    """A run of the median's bucket, and one of the highest; of the window and pipeline alone."""
    runs = [run_log(f"{n}", {"a": 10.0 * 2**n}) for n in range(7)]
    elsewhere = [
        run_log("tomorrow", {"a": 9e6}, at_s=NOON_S + 24 * HOUR_S),
        run_log("other", {"a": 9e5}, pipeline="q"),
    ]
    sink_of(path, [*runs, *elsewhere]).close()
    store, window = opened(), Window(NOON_S, NOON_S + HOUR_S)
    typical, slowest = store.run_at(window, "p", 0.5), store.run_at(window, "p", 1.0)
    assert typical is not None
    assert slowest is not None
    assert (typical.run_id, slowest.run_id) == ("3", "6")
    assert [event.what for event in slowest.events][-1] == "completed"
    assert store.run_at(Window(NOON_S - HOUR_S, NOON_S), "p", 0.5) is None


def test_windows_that_are_none() -> None:
    """They say what is wrong with them."""
    with pytest.raises(ValueError, match="swap them"):
        Window(2.0, 1.0)
    with pytest.raises(ValueError, match="multiple of 60"):
        Window(1.0, 2.0, 90)


def test_questions_cost_the_same_however_many_events_there_are(path: Path) -> None:
    """Steps of SQLite's machine: as many for 2,000 runs as for 60 in the same buckets."""
    asked: list[Callable[[TelemetryStore, Window], object]] = [
        lambda store, window: store.latencies(window),
        lambda store, window: store.errors(window),
        lambda store, window: store.run_at(window, "p", 1.0),
        lambda store, window: store.run_at(window, "p", 0.5),
        lambda store, window: store.dead_letters(window),
        lambda store, window: store.breaker_changes(window),
        lambda store, _: store.covered(),
        lambda store, _: store.known(),
    ]

    def steps() -> list[int]:
        """How many steps each question takes."""
        with TelemetryStore(path) as store:
            taken = itertools.count()
            assert isinstance(store._database, SqliteDatabase)
            store._database.connection.set_progress_handler(lambda: next(taken) * 0, 1)
            marks = [next(taken)]
            for ask in asked:
                ask(store, Window(NOON_S, NOON_S + HOUR_S))
                marks.append(next(taken))
        return [after - before for before, after in itertools.pairwise(marks)]

    def runs(count: int) -> list[EventLog]:
        return [
            run_log(f"{n}", {"a": 1.2 ** (n % 20)}, at_s=NOON_S + 60 * (n % 60))
            for n in range(count)
        ]

    sink = sink_of(path, runs(60))
    few = steps()
    sink.write(batch(*runs(1_980)))
    sink.close()
    assert min(few) > 1
    assert steps() == few


async def cut_off(_ctx: StageContext) -> StageOutput:
    raise ConnectionResetError("gone")


@pytest.mark.simulate(order="asyncio")
async def test_breaker_changes_of_real_breakers(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """Opened by failures, half-open and closed by a probe, with the stage that brought it about."""
    sink = SQLiteSink(path, source="one")
    policy = BreakerPolicy(failures=1, cooldown_s=10.0)
    breaker = BreakerInterceptor(BreakerRegistry(policy))
    fails = make_pipeline(make_spec("a", runner=cut_off, provider="llm"))
    works = make_pipeline(make_spec("a", provider="llm"))
    raised: list[str] = []

    async def main(dispatcher: EventDispatcher) -> None:
        for pipeline in (fails, works):
            bound = PipelineOrchestrator(
                pipeline.build(), interceptors=[breaker], dispatcher=dispatcher
            )
            result = await bound.run(PipelineContext())
            raised.append(result.pipeline_run_id)
            await asyncio.sleep(11.0)

    with EventDispatcher([sink]) as dispatcher:
        await main(dispatcher)
    changes = opened().breaker_changes(Window(0.0, 4e9))
    assert [(c.before, c.after) for c in changes] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert {(c.provider, c.source, c.pipeline, c.stage) for c in changes} == {
        ("llm", "one", "test", "a")
    }
    assert [c.run_id for c in changes] == [raised[0], raised[1], raised[1]]


def test_a_window_begins_with_the_state_that_it_finds(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """The latest change before it, of each provider in each process."""
    changes = [
        change(0, "llm", "closed", "open"),
        change(10, "llm", "open", "half_open"),
        change(50, "llm", "half_open", "open"),
        change(5, "tts", "closed", "open"),
        change(90, "tts", "open", "half_open"),
    ]
    sink_of(path, changes, source="one").close()
    sink_of(path, [change(1, "llm", "closed", "open")], source="two").close()
    store = opened()

    def seen(provider: str | None = None) -> list[tuple[str, str, float, str]]:
        found = store.breaker_changes(Window(NOON_S + 20, NOON_S + 90), provider=provider)
        return [(c.provider, c.source, c.at_s - NOON_S, c.after) for c in found]

    assert seen() == [
        ("llm", "two", 1.0, "open"),
        ("tts", "one", 5.0, "open"),
        ("llm", "one", 10.0, "half_open"),
        ("llm", "one", 50.0, "open"),
    ]
    assert {row[0] for row in seen("tts")} == {"tts"}
    assert len(seen("tts")) == 1


@pytest.mark.simulate(order="asyncio")
async def test_dead_letters_wait_until_they_are_replayed(
    path: Path, opened: Callable[[], TelemetryStore]
) -> None:
    """A letter is reported when it is stored, and as replayed when a replay completed."""
    pipeline = make_pipeline(make_spec("a", ending="fail", provider="llm"), name="shop")
    fixed = make_pipeline(make_spec("a", provider="llm"), name="shop")
    ids: list[str] = []

    async def main(dispatcher: EventDispatcher) -> None:
        store = ObservedDeadLetterStore(InMemoryDeadLetterStore(), dispatcher)
        bound = PipelineOrchestrator(pipeline.build(), dead_letters=store, dispatcher=dispatcher)
        for _ in range(2):
            ids.append((await bound.run(PipelineContext())).pipeline_run_id)
            await asyncio.sleep(
                1
            )  # letters of one moment are ordered by their ids, which are drawn
        first, second = await store.letters()
        ids.append((await replay(first, fixed.orchestrator, store)).pipeline_run_id)
        await replay(second, pipeline.orchestrator, store)  # fails again, and waits on

    with EventDispatcher([SQLiteSink(path)]) as dispatcher:
        await main(dispatcher)
    store = opened()
    replayed, waiting = store.dead_letters()
    assert (replayed.run_id, waiting.run_id) == (ids[0], ids[1])
    assert (replayed.replay_run_id, waiting.replay_run_id) == (ids[2], None)
    assert (waiting.pipeline, waiting.failed_stage) == ("shop", "a")
    assert (waiting.provider, waiting.error_code) == ("llm", "stage_failed")
    assert store.dead_letters(waiting=True) == (waiting,)
    assert store.dead_letters(Window(0.0, waiting.at_s)) == (replayed,) * (
        replayed.at_s < waiting.at_s
    )
    assert store.dead_letters(Window(replayed.at_s, 4e9))[0] == replayed
