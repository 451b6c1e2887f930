"""The orchestrator's errors for a wrong set-up or call, word for word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    EventDispatcher,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunStatus,
    StageSpec,
)
from stageflow.errors import InvalidConfigError, UnknownStageError
from stageflow.interceptors import RetryInterceptor
from stageflow.testing import do_nothing
from tests.utils.errors import raises_code
from tests.utils.mocks import RecordingSink

SHOP = Pipeline("shop", [StageSpec("pay", do_nothing, inputs=("sum",))], inputs=["sum"])


@pytest.mark.parametrize(
    ("interceptors", "shown", "fix"),
    [
        (5, "5", "give a list of interceptors"),
        (None, "None", "give a list of interceptors"),
        (RetryInterceptor, repr(RetryInterceptor), "give a list of interceptors"),
        ([RetryInterceptor], repr(RetryInterceptor), "call it: interceptors=[RetryInterceptor()]"),
        ([7], "7", "give objects of a class that derives from Interceptor"),
    ],
    ids=["number", "nothing", "bare class", "class", "other"],
)
def test_a_value_that_is_not_an_interceptor_is_refused(
    interceptors: Any, shown: str, fix: str
) -> None:
    """With what was given, and what to give."""
    with pytest.raises(InvalidConfigError) as caught:
        PipelineOrchestrator(SHOP.build(), interceptors=interceptors)
    assert str(caught.value) == f"PipelineOrchestrator: interceptors is {shown}; {fix}"


def test_a_value_that_is_not_a_context_is_refused() -> None:
    """With the pipeline, and what to give."""
    orchestrator = PipelineOrchestrator(SHOP.build())
    with pytest.raises(InvalidConfigError) as caught:
        asyncio.run(orchestrator.run("sum"))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "run of pipeline 'shop': ctx is 'sum'; give the inputs by name, or PipelineContext({…})"
    )


def test_missing_inputs_are_named() -> None:
    """With the pipeline that asks for them, and how to pass them; the run does not begin."""
    ctx = PipelineContext({"summ": 3})
    with raises_code("missing_run_input", match=r"'shop'.*'summ' was given: rename it to 'sum'"):
        asyncio.run(PipelineOrchestrator(SHOP.build()).run(ctx))
    assert ctx.status is RunStatus.CREATED


def test_a_single_stage_runs_as_part_of_its_pipeline() -> None:
    """Under the pipeline's name, and as if nothing stood before it."""
    ctx = PipelineContext({"sum": 3})
    asyncio.run(PipelineOrchestrator(SHOP.build()).run_stage(ctx, "pay"))
    first, *_, last = ctx.get_events()
    assert first.data["pipeline"] == "shop"
    assert [event.type for event in ctx.get_events()] == [
        "pipeline.started",
        "stage.pay.started",
        "stage.pay.completed",
        "pipeline.completed",
    ]
    assert last.sequence == 4
    with pytest.raises(UnknownStageError, match="'shop'"):
        asyncio.run(PipelineOrchestrator(SHOP.build()).run_stage(ctx, "play"))


def test_the_events_of_a_single_stage_reach_the_sinks_too() -> None:
    """As those of a whole run do."""
    sink = RecordingSink()
    with EventDispatcher([sink]) as dispatcher:
        orchestrator = PipelineOrchestrator(SHOP.build(), dispatcher=dispatcher)
        ctx = PipelineContext({"sum": 3})
        asyncio.run(orchestrator.run_stage(ctx, "pay"))
    assert tuple(sink.events) == ctx.get_events()
