"""The OpenTelemetry tracer, judged by what the SDK's own in-memory exporters get."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stageflow import (
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    StageSpec,
    TracingInterceptor,
    subpipeline,
)
from stageflow.interceptors import Tracer
from stageflow.telemetry import OpenTelemetryTracer
from tests.utils.factories import make_pipeline, make_spec


class Traces:
    """A tracer provider, and what it exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, resource=Resource.get_empty())
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self) -> dict[str, ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans), "some name was given twice"
        return by_name

    def tree(self) -> dict[str, str | None]:
        """The name of each span's parent, by its own name."""
        names = {s.context.span_id: s.name for s in self.spans().values() if s.context}
        return {
            name: names[span.parent.span_id] if span.parent else None
            for name, span in self.spans().items()
        }


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces()
    yield made
    made.provider.shutdown()


@pytest.fixture(autouse=True)
def quiet_opentelemetry(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """OpenTelemetry logs misuse instead of raising it: nothing may be logged."""
    with caplog.at_level(logging.WARNING, logger="opentelemetry"):
        yield
    assert [record.getMessage() for record in caplog.records] == []


def orchestrator(pipeline: Pipeline, traces: Traces) -> PipelineOrchestrator:
    interceptors = [TracingInterceptor(OpenTelemetryTracer(traces.tracer))]
    return PipelineOrchestrator(pipeline.build(), interceptors=interceptors)


async def test_tree_of_a_run_with_a_child_run(traces: Traces) -> None:
    """Stages of a child run stand below the stage that ran it, all in the caller's trace."""
    child = orchestrator(
        make_pipeline(make_spec("inner", pauses_s=(0,)), make_spec("last", "inner"), name="child"),
        traces,
    )
    parent = make_pipeline(
        make_spec("first", pauses_s=(0,)),
        subpipeline("calls", child, dependencies=["first"]),
        make_spec("beside", "first", pauses_s=(0, 0)),
        make_spec("end", "calls", "beside"),
        name="parent",
    )
    with traces.tracer.start_as_current_span("turn"):
        (await orchestrator(parent, traces).run(PipelineContext())).unwrap()
    assert traces.tree() == {
        "turn": None,
        "stage first": "turn",
        "stage calls": "turn",
        "stage beside": "turn",
        "stage end": "turn",
        "stage inner": "stage calls",
        "stage last": "stage calls",
    }
    assert len({s.context.trace_id for s in traces.spans().values() if s.context}) == 1


async def test_attributes(traces: Traces) -> None:
    """A span names its stage, pipeline, run and correlation."""
    ctx = PipelineContext(correlation_id="c-1")
    await orchestrator(make_pipeline(make_spec("only"), name="p"), traces).run(ctx)
    span = traces.spans()["stage only"]
    assert dict(span.attributes or {}) == {
        "stageflow.stage": "only",
        "stageflow.pipeline": "p",
        "stageflow.pipeline_run_id": ctx.pipeline_run_id,
        "stageflow.correlation_id": "c-1",
    }
    assert span.status.status_code is trace.StatusCode.UNSET


async def test_own_spans_stand_below_their_stage(traces: Traces) -> None:
    """A span that a stage opens itself, before or after it suspends, stands below the stage's."""

    async def work(ctx: StageContext) -> StageOutput:
        for moment in ("before", "after"):
            with traces.tracer.start_as_current_span(f"{ctx.name} {moment}"):
                await asyncio.sleep(0)
        return StageOutput.ok()

    pipeline = make_pipeline(
        StageSpec("a", work), StageSpec("b", work), StageSpec("c", work, ("a", "b"))
    )
    await orchestrator(pipeline, traces).run(PipelineContext())
    assert traces.tree() == {
        "stage a": None,
        "stage b": None,
        "stage c": None,
        **{f"{s} {moment}": f"stage {s}" for s in "abc" for moment in ("before", "after")},
    }
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_parent_is_the_one_given(traces: Traces) -> None:
    """A span stands below the parent that it is given, whatever span is current."""
    tracer = OpenTelemetryTracer(traces.tracer)
    parent = contextvars.Context().run(tracer.start, "parent", None, {})
    with traces.tracer.start_as_current_span("current"):
        tracer.end(tracer.start("child", parent, {}), None)
    parent.span.end()
    assert traces.tree() == {"parent": None, "current": None, "child": "parent"}


def test_closed_span_is_no_longer_current(traces: Traces) -> None:
    """Its parent is current again, so a second attempt is not its child."""
    tracer = OpenTelemetryTracer(traces.tracer)
    with traces.tracer.start_as_current_span("turn") as turn:
        for attempt in ("first", "second"):
            tracer.end(tracer.start(attempt, None, {}), None)
            assert trace.get_current_span() is turn
    assert traces.tree() == {"turn": None, "first": "turn", "second": "turn"}


@pytest.mark.simulate(order="asyncio")
async def test_failed_and_cancelled_stages(traces: Traces) -> None:
    """A failed stage's span has the error's code; a cancelled one is marked, but no error."""
    pipeline = make_pipeline(
        make_spec("boom", pauses_s=(0.1,), ending="raise"), make_spec("slow", pauses_s=(9.0,))
    )
    await orchestrator(pipeline, traces).run(PipelineContext())
    failed, cancelled = (traces.spans()[f"stage {name}"] for name in ("boom", "slow"))
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert failed.status.description == "stage_raised"
    assert (failed.attributes or {})["error.type"] == "stage_raised"
    assert cancelled.status.status_code is trace.StatusCode.UNSET
    assert (cancelled.attributes or {})["stageflow.cancelled"] is True
    assert "error.type" not in (cancelled.attributes or {})


@pytest.mark.simulate(order="asyncio")
async def test_global_provider_by_default() -> None:
    """Without arguments it takes the global provider, and does nothing if none is set."""
    pipeline = make_pipeline(make_spec("only"))
    tracing = TracingInterceptor(OpenTelemetryTracer())
    result = await pipeline.run(interceptors=[tracing])
    assert result.failure is None


def test_the_tracer_serves_its_protocol(traces: Traces) -> None:
    """It is what `TracingInterceptor` takes, by type."""
    tracer: Tracer = OpenTelemetryTracer(traces.tracer)
    assert callable(tracer.start)
