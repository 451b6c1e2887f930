"""The Prometheus sink, judged by what its own server serves."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from stageflow import EventDispatcher, PipelineContext, PipelineOrchestrator
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.events import EventLog
from stageflow.telemetry import ObservedDeadLetterStore, PrometheusSink, serve_metrics
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.mocks import BrokenSink
from tests.utils.telemetry import batch, run_log, voice_log

_SAMPLE = re.compile(r"^(stageflow_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def scraped(sink: PrometheusSink) -> dict[str, float]:
    """Every sample but the times of creation, as Prometheus would get it."""
    with (
        serve_metrics(sink, port=0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply,
    ):
        text = reply.read().decode()
    return {
        f"{name}{{{labels}}}" if labels else name: float(value)
        for name, labels, value in _SAMPLE.findall(text)
        if not name.endswith("_created")
    }


def named(samples: dict[str, float], *names: str) -> dict[str, float]:
    return {k: v for k, v in samples.items() if k.partition("{")[0] in names}


def filled(*logs: EventLog) -> PrometheusSink:
    sink = PrometheusSink()
    sink.write(batch(*logs))
    sink.close()
    return sink


def test_ends_are_counted_by_outcome_and_code() -> None:
    """Of stages and of runs, by the names in their definitions."""
    sink = filled(
        run_log("1", {"a": 5.0, "b": "boom"}),
        run_log("2", {"a": 5.0, "b": 6.0}),
        run_log("3", {"a": 5.0}, pipeline="q"),
    )
    found = named(scraped(sink), "stageflow_stage_total", "stageflow_run_total")
    assert found == {
        'stageflow_stage_total{error_code="",outcome="completed",pipeline="p",stage="a"}': 2,
        'stageflow_stage_total{error_code="",outcome="completed",pipeline="p",stage="b"}': 1,
        'stageflow_stage_total{error_code="boom",outcome="failed",pipeline="p",stage="b"}': 1,
        'stageflow_stage_total{error_code="",outcome="completed",pipeline="q",stage="a"}': 1,
        'stageflow_run_total{outcome="completed",pipeline="p"}': 1,
        'stageflow_run_total{outcome="failed",pipeline="p"}': 1,
        'stageflow_run_total{outcome="completed",pipeline="q"}': 1,
        # A rate needs to have seen what was before the first one.
        'stageflow_run_total{outcome="cancelled",pipeline="p"}': 0,
        'stageflow_run_total{outcome="cancelled",pipeline="q"}': 0,
        'stageflow_run_total{outcome="failed",pipeline="q"}': 0,
    }


def test_pipelines_that_are_named_begin_at_zero() -> None:
    """Before any run, so that Prometheus sees the increase of a first failure."""
    found = scraped(PrometheusSink(pipelines=["p", "q"]))
    for pipeline in ("p", "q"):
        assert found[f'stageflow_run_total{{outcome="failed",pipeline="{pipeline}"}}'] == 0
        assert found[f'stageflow_run_duration_seconds_count{{pipeline="{pipeline}"}}'] == 0


@pytest.mark.parametrize("budget_s", [0.3, 0.5, 0.8, 1.0])
def test_a_duration_at_its_budget_is_within_it(budget_s: float) -> None:
    """Each budget is a bound: what takes just as long counts as within, what is over as over."""
    budget_ms = budget_s * 1000
    runs = [run_log(f"{ms}", {"a": ms}) for ms in (budget_ms - 1, budget_ms, budget_ms + 1e-6)]
    samples = scraped(filled(*runs))
    within = f'stageflow_stage_duration_seconds_bucket{{le="{budget_s}",pipeline="p",stage="a"}}'
    assert samples[within] == 2
    assert samples['stageflow_stage_duration_seconds_count{pipeline="p",stage="a"}'] == 3
    assert samples[f'stageflow_run_duration_seconds_bucket{{le="{budget_s}",pipeline="p"}}'] == 2


def test_first_items_and_first_audio() -> None:
    """From the start of the stage and of the run, once; also of a turn that does not stream."""
    whole = run_log("3", {"stt": 200.0, "tts": 300.0}, pipeline="voice", sounds="tts")
    dropped = batch(voice_log("4", 400.0))[4:]
    sink = filled(voice_log("1", 400.0), voice_log("2", 800.0, ends=False), whole)
    sink.write(dropped)
    samples = scraped(sink)
    audio, item = "stageflow_run_first_audio_seconds", "stageflow_stage_first_item_seconds"
    assert named(samples, f"{audio}_count", f"{audio}_sum") == {
        f'{audio}_count{{pipeline="streaming_voice"}}': 2,
        f'{audio}_sum{{pipeline="streaming_voice"}}': pytest.approx(1.2),
        f'{audio}_count{{pipeline="voice"}}': 1,
        f'{audio}_sum{{pipeline="voice"}}': pytest.approx(0.5),
    }
    of = 'pipeline="{}",stage="tts",stream="sound"'
    assert named(samples, f"{item}_count", f"{item}_sum") == {
        f"{item}_count{{{of.format('streaming_voice')}}}": 2,
        f"{item}_sum{{{of.format('streaming_voice')}}}": pytest.approx(0.9),
        f"{item}_count{{{of.format('unknown')}}}": 1,
        f"{item}_sum{{{of.format('unknown')}}}": pytest.approx(0.3),
    }
    assert samples[f'{audio}_bucket{{le="0.5",pipeline="streaming_voice"}}'] == 1


def test_only_what_took_its_own_time_is_measured() -> None:
    """Completed and failed stages; the skipped and cancelled are counted, not measured."""
    log = EventLog("x", 0.0, 0.0)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "p"}))
    for what in ("completed", "failed", "skipped", "cancelled"):
        data = {"duration_ms": 250.0, "error_code": "c"}
        log.append((f"stage.{what}.{what}", 1.0, what, data))
    log.append(("stage.never.skipped", 1.0, "never", {"reason": "so"}))
    log.append(("pipeline.cancelled", 1.0, None, {"duration_ms": 1000.0}))
    samples = scraped(filled(log))
    counts = named(samples, "stageflow_stage_duration_seconds_count")
    assert sorted(re.findall(r'stage="(\w+)"', " ".join(counts))) == ["completed", "failed"]
    assert samples['stageflow_stage_duration_seconds_sum{pipeline="p",stage="failed"}'] == 0.25
    assert len(named(samples, "stageflow_stage_total")) == 5
    assert named(samples, "stageflow_run_duration_seconds_count") == {}
    assert samples['stageflow_run_total{outcome="cancelled",pipeline="p"}'] == 1


@pytest.mark.parametrize(
    ("states", "shown"), [(["open"], 2), (["open", "half_open"], 1), (["open", "closed"], 0)]
)
def test_the_state_of_a_breaker(states: Sequence[str], shown: float) -> None:
    """The latest change counts."""
    log = run_log("1", {})
    for state in states:
        log.append((f"stage.a.breaker_{state}", 0.0, "a", {"provider": "llm"}))
    assert scraped(filled(log))['stageflow_breaker_state{provider="llm"}'] == shown


async def test_dead_letters_and_losses() -> None:
    """Letters are counted when they are kept; what other sinks lose shows at each scrape."""
    sink = PrometheusSink()
    pipeline = make_pipeline(make_spec("a", ending="fail"), name="p")
    with EventDispatcher([BrokenSink(), sink]) as dispatcher:
        sink.watch(dispatcher)
        store = ObservedDeadLetterStore(InMemoryDeadLetterStore(), dispatcher)
        bound = PipelineOrchestrator(pipeline.build(), dead_letters=store, dispatcher=dispatcher)
        assert scraped(sink)["stageflow_dead_letters_total"] == 0
        await bound.run(PipelineContext())
    samples = scraped(sink)
    assert samples["stageflow_dead_letters_total"] == 1
    # Four of the run, and the letter's.
    assert named(samples, "stageflow_sink_dropped_events_total") == {
        'stageflow_sink_dropped_events_total{sink="BrokenSink"}': 5,
        'stageflow_sink_dropped_events_total{sink="PrometheusSink"}': 0,
    }


def test_letters_that_wait_are_counted_at_each_scrape() -> None:
    """The gauge is what its count says now, whichever process has put or replayed a letter."""
    sink, waiting = PrometheusSink(), ["a", "b"]
    sink.watch_letters(lambda: len(waiting))
    assert scraped(sink)["stageflow_dead_letters_waiting"] == 2
    waiting.clear()
    assert scraped(sink)["stageflow_dead_letters_waiting"] == 0


def test_labels_do_not_grow_with_runs() -> None:
    """A thousand runs with ids, inputs and messages of their own have the series of one."""
    one = len(scraped(filled(run_log("0", {"a": 5.0}), run_log("x", {"a": "boom"}))))
    runs = (run_log(f"{n}", {"a": 5.0 + n if n % 2 else "boom"}) for n in range(1_000))
    assert len(scraped(filled(*runs))) == one


def test_error_codes_do_not_make_labels_without_end() -> None:
    """Beyond the first 200, failures are counted under one code."""
    runs = [run_log(f"{n}", {"a": f"code-{n}"}) for n in range(1_000)]
    found = named(scraped(filled(*runs)), "stageflow_stage_total")
    assert len(found) == 201
    other = 'stageflow_stage_total{error_code="other",outcome="failed",pipeline="p",stage="a"}'
    assert found[other] == 800


def test_a_run_whose_beginning_was_dropped_is_counted_all_the_same() -> None:
    """Under an unknown pipeline."""
    sink = PrometheusSink()
    sink.write(batch(run_log("1", {"a": 5.0}))[1:])
    assert scraped(sink)['stageflow_run_total{outcome="completed",pipeline="unknown"}'] == 1


def test_a_registry_of_ones_own() -> None:
    """Two sinks do not meet unless they are given one registry, which refuses the second."""
    shared = CollectorRegistry()
    first = PrometheusSink(shared)
    assert first.registry is shared
    assert PrometheusSink().registry is not PrometheusSink().registry
    with pytest.raises(ValueError, match="Duplicated"):
        PrometheusSink(shared)


def test_the_server_ends_with_its_block() -> None:
    """Its port is free again, without a thread or a socket left."""
    sink = PrometheusSink()
    with serve_metrics(sink, port=0) as port:
        pass
    with serve_metrics(sink, port=port) as again:
        assert again == port
