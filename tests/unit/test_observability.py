"""The interceptors that tell what happened: the log, metrics, traces."""

from __future__ import annotations

import asyncio
import logging

import pytest

from stageflow import (
    Interceptor,
    LoggingInterceptor,
    MetricsInterceptor,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    StageSpec,
    TracingInterceptor,
    subpipeline,
)
from stageflow.interceptors.metrics import InMemoryMetrics
from stageflow.interceptors.tracing import InMemoryTracer, Span
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual

#: One stage of each ending, with what it takes to make a sibling be cancelled.
FINE = make_spec("a", pauses_s=(1.5,))
SKIPPED = make_spec("a", ending="skip", pauses_s=(0.5,))
RAISES = make_spec("a", ending="raise", pauses_s=(0.25,))
FAILS = make_spec("a", ending="fail")
CANCELLED = make_spec("a", pauses_s=(9.0,))


def run(spec: StageSpec, interceptor: Interceptor, ctx: PipelineContext | None = None) -> RunResult:
    """Run one stage; the one that shall be cancelled has a sibling that fails after 2 s."""
    specs = [spec]
    if spec is CANCELLED:
        specs.append(make_spec("broken", pauses_s=(2.0,), ending="raise"))

    class OnlyA(type(interceptor)):  # type: ignore[misc]
        def applies_to(self, spec: StageSpec) -> bool:
            return spec.name == "a"

    interceptor.__class__ = OnlyA
    pipeline = make_pipeline(*specs, name="p")
    return run_virtual(lambda: pipeline.run(ctx, interceptors=[interceptor]))


# ── logging ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spec", "level", "message", "duration_ms"),
    [
        (FINE, "DEBUG", "stage a completed", 1500.0),
        (SKIPPED, "DEBUG", "stage a skipped", 500.0),
        (CANCELLED, "INFO", "stage a cancelled", 2000.0),
        (RAISES, "ERROR", "stage a failed", 250.0),
        (FAILS, "ERROR", "stage a failed", 0.0),
    ],
)
def test_a_stage_leaves_one_record_at_its_start_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
    spec: StageSpec,
    level: str,
    message: str,
    duration_ms: float,
) -> None:
    """The level says how bad it is, and every record has the same structured fields."""
    ctx = PipelineContext(correlation_id="call-5")
    with caplog.at_level(logging.DEBUG, logger="stageflow.stage"):
        run(spec, LoggingInterceptor(), ctx)
    start, end = caplog.records
    assert (start.levelname, start.getMessage()) == ("DEBUG", "stage a started")
    assert (end.levelname, end.getMessage()) == (level, message)
    fields = ("stage", "pipeline", "pipeline_run_id", "correlation_id")
    for record in caplog.records:
        assert [vars(record)[field] for field in fields] == [
            "a", "p", ctx.pipeline_run_id, "call-5",
        ]  # fmt: skip
    assert vars(end)["duration_ms"] == duration_ms
    assert bool(end.exc_info) is (level == "ERROR")


def test_a_log_that_is_off_is_asked_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING a stage that went well leaves no record, and one that failed leaves one."""
    with caplog.at_level(logging.WARNING, logger="stageflow.stage"):
        run(FINE, LoggingInterceptor())
        assert caplog.records == []
        run(RAISES, LoggingInterceptor())
    assert [record.getMessage() for record in caplog.records] == ["stage a failed"]


def test_the_logger_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """Records go where the caller wants them."""
    with caplog.at_level(logging.DEBUG, logger="mine"):
        run(FINE, LoggingInterceptor(logging.getLogger("mine")))
    assert {record.name for record in caplog.records} == {"mine"}


# ── metrics ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spec", "outcome", "duration_ms"),
    [
        (FINE, "completed", 1500.0),
        (SKIPPED, "skipped", 500.0),
        (CANCELLED, "cancelled", 2000.0),
        (RAISES, "stage_raised", 250.0),
        (FAILS, "stage_failed", 0.0),
    ],
)
def test_each_execution_is_recorded_once_with_its_outcome(
    spec: StageSpec, outcome: str, duration_ms: float
) -> None:
    """The outcome of a failure is the code of its error."""
    metrics = InMemoryMetrics()
    run(spec, MetricsInterceptor(metrics))
    assert dict(metrics.durations_ms) == {("p", "a", outcome): [duration_ms]}
    assert metrics.count("p", "a", outcome) == 1


def test_counts_add_up_over_runs_and_asking_changes_nothing() -> None:
    """What never happened has count 0, and leaves no trace of the question."""
    metrics = InMemoryMetrics()
    interceptor = MetricsInterceptor(metrics)
    for _ in range(3):
        run(FINE, interceptor)
    assert (metrics.count("p", "a"), metrics.count("p", "ghost")) == (3, 0)
    assert len(metrics.durations_ms) == 1


def test_a_duration_counts_from_the_stages_own_start() -> None:
    """Not from that of the run."""
    metrics = InMemoryMetrics()
    pipeline = make_pipeline(
        make_spec("a", pauses_s=(2.0,)), make_spec("b", "a", pauses_s=(0.5,)), name="p"
    )
    run_virtual(lambda: pipeline.run(interceptors=[MetricsInterceptor(metrics)]))
    assert metrics.durations_ms["p", "b", "completed"] == [500.0]


# ── traces ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spec", "error_code"),
    [
        (FINE, None),
        (SKIPPED, None),
        (CANCELLED, "cancelled"),
        (RAISES, "stage_raised"),
        (FAILS, "stage_failed"),
    ],
)
def test_each_stage_has_one_span_that_is_closed_with_its_outcome(
    spec: StageSpec, error_code: str | None
) -> None:
    """A span carries the names and ids by which it is found again."""
    tracer = InMemoryTracer()
    ctx = PipelineContext(correlation_id="call-5")
    run(spec, TracingInterceptor(tracer), ctx)
    attributes = {
        "stage": "a",
        "pipeline": "p",
        "pipeline_run_id": ctx.pipeline_run_id,
        "correlation_id": "call-5",
    }
    assert tracer.spans == [Span("stage a", None, attributes, True, error_code)]


def test_spans_of_a_child_run_stand_below_the_stage_that_started_it() -> None:
    """Down to a grandchild, each with the correlation id of the first run."""
    tracer = InMemoryTracer()
    tracing = TracingInterceptor(tracer)

    def traced(name: str, spec: StageSpec) -> PipelineOrchestrator:
        return PipelineOrchestrator(make_pipeline(spec, name=name).build(), interceptors=[tracing])

    grandchild = traced("grandchild", make_spec("leaf"))
    child = traced("child", subpipeline("branch", grandchild))
    parent = traced("parent", subpipeline("root", child))
    run_virtual(lambda: parent.run(PipelineContext()))
    spans = {span.name: span for span in tracer.spans}
    root, branch, leaf = (spans[f"stage {name}"] for name in ("root", "branch", "leaf"))
    assert (root.parent, branch.parent, leaf.parent) == (None, root, branch)
    assert len({span.attributes["correlation_id"] for span in tracer.spans}) == 1
    assert len({span.attributes["pipeline_run_id"] for span in tracer.spans}) == 3
    assert all(span.ended for span in tracer.spans)


def test_a_child_run_without_traced_parent_begins_a_trace_of_its_own() -> None:
    """There is no span to stand below."""
    tracer = InMemoryTracer()
    child = PipelineOrchestrator(
        make_pipeline(make_spec("leaf")).build(), interceptors=[TracingInterceptor(tracer)]
    )
    run_virtual(Pipeline("parent", [subpipeline("root", child)]).run)
    assert [span.parent for span in tracer.spans] == [None]


def test_runs_at_the_same_time_do_not_mix_their_spans() -> None:
    """Two runs of one orchestrator have a span for each stage of each."""
    tracer = InMemoryTracer()
    pipeline = make_pipeline(make_spec("a", pauses_s=(1.0,)), make_spec("b", "a", pauses_s=(1.0,)))
    orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=[TracingInterceptor(tracer)])

    async def main() -> None:
        await asyncio.gather(*[orchestrator.run(PipelineContext()) for _ in range(2)])

    run_virtual(main)
    seen = {(s.attributes["pipeline_run_id"], s.name) for s in tracer.spans if s.ended}
    assert len(seen) == len(tracer.spans) == 4


def test_runs_of_one_seed_do_not_mix_their_spans() -> None:
    """Their ids are equal; each has its spans all the same, with what is known of its own run."""
    tracer = InMemoryTracer()
    tracing = TracingInterceptor(tracer)

    def traced(name: str) -> PipelineOrchestrator:
        spec = make_spec("a", pauses_s=(1.0,))
        return PipelineOrchestrator(make_pipeline(spec, name=name).build(), interceptors=[tracing])

    async def main() -> list[RunResult]:
        contexts = [PipelineContext(seed=1, correlation_id=call) for call in ("x", "y", "z")]
        pairs = zip("ppq", contexts, strict=True)
        return await asyncio.gather(*[traced(name).run(ctx) for name, ctx in pairs])

    assert [result.error for result in run_virtual(main)] == [None] * 3
    seen = [
        (s.attributes["pipeline"], s.attributes["correlation_id"], s.ended) for s in tracer.spans
    ]
    assert sorted(seen) == [("p", "x", True), ("p", "y", True), ("q", "z", True)]
    assert len({span.attributes["pipeline_run_id"] for span in tracer.spans}) == 1


def test_a_span_is_open_until_it_is_ended() -> None:
    """With the error that it ended with."""
    tracer = InMemoryTracer()
    span = tracer.start("a", None, {})
    assert (span.ended, span.error_code) == (False, None)
    tracer.end(span, "boom")
    assert (span.ended, span.error_code) == (True, "boom")
