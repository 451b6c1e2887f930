"""The interceptor that makes spans."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    StageSpec,
    TracingInterceptor,
    subpipeline,
)
from stageflow.errors import InvalidConfigError
from stageflow.interceptors import InMemoryTracer, Span
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual

#: One stage of each ending, with what it takes to make a sibling be cancelled.
FINE = make_spec("a", pauses_s=(1.5,))
SKIPPED = make_spec("a", ending="skip", pauses_s=(0.5,))
RAISES = make_spec("a", ending="raise", pauses_s=(0.25,))
FAILS = make_spec("a", ending="fail")
CANCELLED = make_spec("a", pauses_s=(9.0,))


def run(spec: StageSpec, interceptor: Interceptor, ctx: PipelineContext | None = None) -> RunResult:
    """Run one stage; the one to be cancelled has a sibling that fails after 2 s."""
    specs = [spec]
    if spec is CANCELLED:
        specs.append(make_spec("broken", pauses_s=(2.0,), ending="raise"))

    class OnlyA(type(interceptor)):  # type: ignore[misc]
        def applies_to(self, spec: StageSpec) -> bool:
            return spec.name == "a"

    interceptor.__class__ = OnlyA
    pipeline = make_pipeline(*specs, name="p")
    return run_virtual(lambda: pipeline.run(ctx, interceptors=[interceptor]))


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


@pytest.mark.simulate(order="asyncio")
async def test_spans_of_a_child_run_stand_below_the_stage_that_started_it() -> None:
    """Down to a grandchild, each with the correlation id of the first run."""
    tracer = InMemoryTracer()
    tracing = TracingInterceptor(tracer)

    def traced(name: str, spec: StageSpec) -> PipelineOrchestrator:
        return PipelineOrchestrator(make_pipeline(spec, name=name).build(), interceptors=[tracing])

    grandchild = traced("grandchild", make_spec("leaf"))
    child = traced("child", subpipeline("branch", grandchild))
    parent = traced("parent", subpipeline("root", child))
    await parent.run(PipelineContext())
    spans = {span.name: span for span in tracer.spans}
    root, branch, leaf = (spans[f"stage {name}"] for name in ("root", "branch", "leaf"))
    assert (root.parent, branch.parent, leaf.parent) == (None, root, branch)
    assert len({span.attributes["correlation_id"] for span in tracer.spans}) == 1
    assert len({span.attributes["pipeline_run_id"] for span in tracer.spans}) == 3
    assert all(span.ended for span in tracer.spans)


@pytest.mark.simulate(order="asyncio")
async def test_a_child_run_without_traced_parent_begins_a_trace_of_its_own() -> None:
    """There is no span to stand below."""
    tracer = InMemoryTracer()
    child = PipelineOrchestrator(
        make_pipeline(make_spec("leaf")).build(), interceptors=[TracingInterceptor(tracer)]
    )
    await Pipeline("parent", [subpipeline("root", child)]).run()
    assert [span.parent for span in tracer.spans] == [None]


@pytest.mark.simulate(order="asyncio")
async def test_runs_at_the_same_time_do_not_mix_their_spans() -> None:
    """Two runs of one orchestrator have a span for each stage of each."""
    tracer = InMemoryTracer()
    pipeline = make_pipeline(make_spec("a", pauses_s=(1.0,)), make_spec("b", "a", pauses_s=(1.0,)))
    orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=[TracingInterceptor(tracer)])

    await asyncio.gather(*[orchestrator.run(PipelineContext()) for _ in range(2)])
    seen = {(s.attributes["pipeline_run_id"], s.name) for s in tracer.spans if s.ended}
    assert len(seen) == len(tracer.spans) == 4


@pytest.mark.simulate(order="asyncio")
async def test_runs_of_one_seed_do_not_mix_their_spans() -> None:
    """Their ids are equal; each has its spans all the same, with what is known of its own run."""
    tracer = InMemoryTracer()
    tracing = TracingInterceptor(tracer)

    def traced(name: str) -> PipelineOrchestrator:
        spec = make_spec("a", pauses_s=(1.0,))
        return PipelineOrchestrator(make_pipeline(spec, name=name).build(), interceptors=[tracing])

    contexts = [PipelineContext(seed=1, correlation_id=call) for call in ("x", "y", "z")]
    pairs = zip("ppq", contexts, strict=True)
    results = await asyncio.gather(*[traced(name).run(ctx) for name, ctx in pairs])
    assert [result.error for result in results] == [None] * 3
    seen = [
        (s.attributes["pipeline"], s.attributes["correlation_id"], s.ended) for s in tracer.spans
    ]
    assert sorted(seen) == [("p", "x", True), ("p", "y", True), ("q", "z", True)]
    assert len({span.attributes["pipeline_run_id"] for span in tracer.spans}) == 1


def test_a_tracer_that_would_be_awaited_is_refused() -> None:
    """Its spans would never be opened."""

    class Tracer(InMemoryTracer):
        async def end(self, span: Any, error_code: str | None) -> None:  # type: ignore[override]
            pass

    with pytest.raises(InvalidConfigError, match=r"TracingInterceptor: tracer .*'def end'"):
        TracingInterceptor(Tracer())  # type: ignore[arg-type]


def test_a_span_is_open_until_it_is_ended() -> None:
    """With the error that it ended with."""
    tracer = InMemoryTracer()
    span = tracer.start("a", None, {})
    assert (span.ended, span.error_code) == (False, None)
    tracer.end(span, "boom")
    assert (span.ended, span.error_code) == (True, "boom")
