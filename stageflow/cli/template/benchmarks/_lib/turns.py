"""Contexts with providers whose latencies are known, and runs in virtual time."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from stageflow import Pipeline, PipelineContext, ProviderRegistry, RunResult
from stageflow.providers import FakeDatabase, FakeLLM, LatencyProfile
from stageflow.testing import SimulationLoop, run_in

INPUTS = {"text": "When do you open?", "user_id": "u1"}


def context(
    inputs: Mapping[str, str] = INPUTS, *, llm_ms: float = 0.0, db_ms: float = 0.0, **others: Any
) -> PipelineContext:
    """Return inputs and fakes for one run, and `others`, your own providers by name.

    At 0 ms the fakes answer without waiting.
    """
    return PipelineContext(
        inputs,
        providers=ProviderRegistry(
            llm=FakeLLM("At nine.", latency=LatencyProfile.fixed(llm_ms)),
            db=FakeDatabase(
                {"profiles": {"u1": {"name": "Ada"}}}, read=LatencyProfile.fixed(db_ms)
            ),
            **others,
        ),
        seed=0,
    )


def in_virtual_time(pipeline: Pipeline, ctx: PipelineContext) -> RunResult:
    """Run on a loop whose clock jumps to the next timer: exact, and without waiting."""
    main: Coroutine[Any, Any, RunResult] = pipeline.run(ctx)
    result = run_in(SimulationLoop(), main)
    result.unwrap()
    return result
