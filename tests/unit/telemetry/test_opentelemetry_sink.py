"""The OpenTelemetry sink, judged by what the SDK's own in-memory exporters get."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stageflow import (
    EventDispatcher,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    subpipeline,
)
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.events import EventLog
from stageflow.telemetry import ObservedDeadLetterStore, OpenTelemetrySink
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.telemetry import NOON_S, batch, run_log, voice_log
from tests.utils.virtual_time import run_virtual


class Observed:
    """A sink, and what reached the exporters behind it."""

    def __init__(self, **options: int) -> None:
        self._exporter = InMemorySpanExporter()
        self._traces = TracerProvider(shutdown_on_exit=False, resource=Resource.get_empty())
        self._traces.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._metrics = MeterProvider([self._reader], shutdown_on_exit=False)
        self.sink = OpenTelemetrySink(
            self._traces.get_tracer("test"), self._metrics.get_meter("test"), **options
        )

    def spans(self) -> dict[str, ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans), "some name was given twice"
        return by_name

    def tree(self) -> dict[str, str | None]:
        """The name of each span's parent, by its own name."""
        spans = self.spans()
        names = {s.context.span_id: s.name for s in spans.values() if s.context}
        return {n: names[s.parent.span_id] if s.parent else None for n, s in spans.items()}

    def points(self) -> dict[str, list[Any]]:
        """The points of each instrument by its name."""
        data: Any = self._reader.get_metrics_data()
        if data is None:
            return {}
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    def close(self) -> None:
        self._traces.shutdown()
        self._metrics.shutdown()


@pytest.fixture
def observed() -> Iterator[Observed]:
    made = Observed()
    yield made
    made.close()


def run(pipeline: Pipeline, observed: Observed, **options: Any) -> RunResult:
    with EventDispatcher([observed.sink]) as dispatcher:
        options["dispatcher"] = dispatcher
        bound = PipelineOrchestrator(pipeline.build(), **options)
        return run_virtual(lambda: bound.run(PipelineContext(correlation_id="c-1")))


def ns(seconds: float) -> int:
    return round(seconds * 1e6) * 1000


def test_spans_have_the_times_of_the_run(observed: Observed) -> None:
    """Not those at which the sink heard of it: begin, end, and below one another."""
    observed.sink.write(batch(run_log("r-1", {"a": 250.0, "b": 500.0})))
    spans = observed.spans()
    times = {n: (s.start_time, s.end_time) for n, s in spans.items()}
    assert times == {
        "run p": (ns(NOON_S), ns(NOON_S + 0.75)),
        "stage a": (ns(NOON_S), ns(NOON_S + 0.25)),
        "stage b": (ns(NOON_S + 0.25), ns(NOON_S + 0.75)),
    }
    assert observed.tree() == {"run p": None, "stage a": "run p", "stage b": "run p"}
    assert len({s.context.trace_id for s in spans.values() if s.context}) == 1
    assert dict(spans["stage a"].attributes or {}) == {
        "stageflow.stage": "a",
        "stageflow.pipeline": "p",
        "stageflow.pipeline_run_id": "r-1",
    }


@pytest.mark.simulate(order="asyncio")
async def test_a_child_run_stands_below_the_stage_that_ran_it(observed: Observed) -> None:
    """And two runs that have nothing to do with one another are two traces."""
    with EventDispatcher([observed.sink]) as dispatcher:
        inner = PipelineOrchestrator(
            make_pipeline(make_spec("inner", pauses_s=(0.1,)), name="child").build(),
            dispatcher=dispatcher,
        )
        outer = PipelineOrchestrator(
            make_pipeline(
                make_spec("first"), subpipeline("calls", inner, dependencies=["first"]), name="top"
            ).build(),
            dispatcher=dispatcher,
        )
        await outer.run(PipelineContext(correlation_id="c-1"))
    observed.sink.write(batch(run_log("alone", {"z": 1.0})))
    assert observed.tree() == {
        "run top": None,
        "stage first": "run top",
        "stage calls": "run top",
        "run child": "stage calls",
        "stage inner": "run child",
        "run p": None,
        "stage z": "run p",
    }
    spans = observed.spans()
    traces = {name: span.context.trace_id for name, span in spans.items() if span.context}
    assert traces["stage inner"] == traces["run top"] != traces["run p"]
    said = dict(spans["run child"].attributes or {})
    assert (said["stageflow.correlation_id"], said["stageflow.parent_stage_id"]) == ("c-1", "calls")


def test_failed_cancelled_and_skipped(observed: Observed) -> None:
    """Errors have their code; a cancelled stage has none; the run lists stages that never began."""
    pipeline = make_pipeline(
        make_spec("boom", pauses_s=(0.1,), ending="raise"),
        make_spec("slow", pauses_s=(9.0,)),
        make_spec("idle", ending="skip"),
        make_spec("never", "boom"),
        name="p",
    )
    run(pipeline, observed)
    spans = observed.spans()
    assert sorted(spans) == ["run p", "stage boom", "stage idle", "stage slow"]
    for name in ("run p", "stage boom"):
        assert spans[name].status.status_code is trace.StatusCode.ERROR
        assert spans[name].status.description == "stage_raised"
        assert (spans[name].attributes or {})["error.type"] == "stage_raised"
    slow, idle = spans["stage slow"], spans["stage idle"]
    assert slow.status.status_code is idle.status.status_code is trace.StatusCode.UNSET
    assert (slow.attributes or {})["stageflow.cancelled"] is True
    assert (idle.attributes or {})["stageflow.reason"] == "as its script says"
    (told,) = spans["run p"].events
    assert told.name == "stage never skipped"


def test_what_happens_within_a_stage_is_an_event_of_its_span(observed: Observed) -> None:
    """With its time and what it says."""
    log = EventLog("x", 0.0, NOON_S)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "p"}))
    log.append(("stage.a.started", 0.0, "a", None))
    log.append(("stage.a.retrying", 0.5, "a", {"attempt": 1, "delay_s": 0.2, "why": None}))
    log.append(("stage.a.said", 0.6, "a", {"what": {"odd": object}}))
    log.append(("stage.a.completed", 1.0, "a", 0.0))
    observed.sink.write(batch(log))
    retrying, said = observed.spans()["stage a"].events
    assert (retrying.name, retrying.timestamp) == ("retrying", ns(NOON_S + 0.5))
    assert dict(retrying.attributes or {}) == {"stageflow.attempt": 1, "stageflow.delay_s": 0.2}
    assert dict(said.attributes or {}) == {"stageflow.what": str({"odd": repr(object)})}


def test_a_run_that_has_not_ended_is_exported_at_close(observed: Observed) -> None:
    """Its spans end when it was last heard of, and say that it was not the end."""
    observed.sink.write(batch(run_log("1", {"a": 250.0, "b": 500.0}))[:4])
    assert sorted(observed.spans()) == ["stage a"]
    observed.sink.close()
    spans = observed.spans()
    assert sorted(spans) == ["run p", "stage a", "stage b"]
    for name in ("run p", "stage b"):
        assert (spans[name].attributes or {})["stageflow.unfinished"] is True
        assert spans[name].end_time == ns(NOON_S + 0.25)


def test_a_silent_run_is_exported_when_others_need_its_place() -> None:
    """Its spans are not kept for ever, and are marked as those of a run without an end."""
    observed = Observed(max_open_runs=1)
    observed.sink.write(batch(run_log("1", {"a": 5.0}))[:2])
    observed.sink.write(batch(run_log("2", {"b": 5.0}, pipeline="q")))
    spans = observed.spans()
    unfinished = {n for n, s in spans.items() if (s.attributes or {}).get("stageflow.unfinished")}
    assert unfinished == {"run p", "stage a"}
    assert sorted(spans) == ["run p", "run q", "stage a", "stage b"]
    observed.close()


def test_events_of_a_run_whose_beginning_was_dropped_are_passed_over(observed: Observed) -> None:
    """There is no span that they could belong to."""
    observed.sink.write(batch(run_log("1", {"a": 250.0}))[1:])
    observed.sink.close()
    assert observed.spans() == {}


def test_first_items_and_first_audio(observed: Observed) -> None:
    """From the start of the stage and of the run, once a run, with the names of both."""
    whole = run_log("3", {"stt": 200.0, "tts": 300.0}, pipeline="voice", sounds="tts")
    observed.sink.write(batch(voice_log("1", 400.0), voice_log("2", 800.0, ends=False), whole))
    points = observed.points()
    audio = {p.attributes["stageflow.pipeline"]: p for p in points["stageflow.run.first_audio"]}
    assert {name: p.count for name, p in audio.items()} == {"streaming_voice": 2, "voice": 1}
    assert audio["streaming_voice"].sum == pytest.approx(1.2)
    assert audio["voice"].sum == pytest.approx(0.5)
    (item,) = points["stageflow.stage.first_item"]
    assert (item.count, item.sum) == (2, pytest.approx(0.9))
    assert dict(item.attributes) == {
        "stageflow.pipeline": "streaming_voice",
        "stageflow.stage": "tts",
        "stageflow.stream": "sound",
    }


@pytest.mark.simulate(order="asyncio")
async def test_instruments(observed: Observed) -> None:
    """Durations of stages and runs in seconds; letters; the state of breakers."""
    pipeline = make_pipeline(make_spec("a", pauses_s=(0.3,), ending="fail"), name="p")
    with EventDispatcher([observed.sink]) as dispatcher:
        store = ObservedDeadLetterStore(InMemoryDeadLetterStore(), dispatcher)
        bound = PipelineOrchestrator(
            pipeline.build(),
            dead_letters=store,
            dispatcher=dispatcher,
        )
        await bound.run(PipelineContext())
    log = run_log("2", {})
    log.append(("pipeline.started", 0.0, None, {"pipeline": "p"}))
    for state in ("open", "half_open"):
        log.append((f"stage.a.breaker_{state}", 0.0, "a", {"provider": "llm"}))
    observed.sink.write(batch(log)[2:])
    points = observed.points()
    (stage,) = points["stageflow.stage.duration"]
    assert dict(stage.attributes) == {
        "stageflow.pipeline": "p",
        "stageflow.stage": "a",
        "stageflow.outcome": "failed",
        "error.type": "stage_failed",
    }
    assert stage.sum == pytest.approx(0.3)
    assert 0.3 in stage.explicit_bounds
    (ended,) = points["stageflow.run.duration"]
    assert (ended.count, round(ended.sum, 6)) == (1, 0.3)
    assert dict(ended.attributes)["stageflow.outcome"] == "failed"
    (letters,) = points["stageflow.dead_letters"]
    assert (letters.value, dict(letters.attributes)) == (1, {"stageflow.pipeline": "p"})
    (state_of,) = points["stageflow.breaker.state"]
    assert (state_of.value, dict(state_of.attributes)) == (1, {"stageflow.provider": "llm"})


def test_the_duration_of_each_execution_is_recorded_once_with_its_outcome(
    observed: Observed,
) -> None:
    """From the stage's own start, in seconds; a failure has the code of its error."""
    pipeline = make_pipeline(
        make_spec("ok", pauses_s=(0.25,)),
        make_spec("later", "ok", pauses_s=(0.5,)),
        make_spec("skips", ending="skip", pauses_s=(0.5,)),
        make_spec("bad", pauses_s=(2.0,), ending="fail"),
        make_spec("slow", pauses_s=(9.0,)),
        make_spec("never", "slow"),
        name="p",
    )
    for _ in range(2):
        run(pipeline, observed)
    points = {
        p.attributes["stageflow.stage"]: p for p in observed.points()["stageflow.stage.duration"]
    }
    assert {
        name: (p.attributes["stageflow.outcome"], p.attributes.get("error.type"), p.count, p.sum)
        for name, p in points.items()
    } == {
        "ok": ("completed", None, 2, 0.5),
        "later": ("completed", None, 2, 1.0),
        "skips": ("skipped", None, 2, 1.0),
        "bad": ("failed", "stage_failed", 2, 4.0),
        "slow": ("cancelled", None, 2, 4.0),
    }
    # 0.25 s is in the bucket that ends there: buckets fit seconds, not milliseconds.
    bucket = list(points["ok"].bucket_counts).index(2)
    assert points["ok"].explicit_bounds[bucket] == 0.25


def test_global_providers_by_default() -> None:
    """Without arguments the sink takes these, and does nothing if none is set."""
    sink = OpenTelemetrySink()
    sink.write(batch(run_log("1", {"a": 5.0})))
    sink.close()
