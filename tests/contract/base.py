"""What every stage owes, whatever it does: a class to inherit, with one fixture to fill in.

A subclass says in the fixture ``case`` which stage to run in which pipeline, and with what::

    class TestMyStages(StageContractTest):
        @pytest.fixture(params=["greet", "part"])
        def case(self, request):
            return StageCase(my_pipeline(), request.param, inputs={"name": "Ada"})
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from stageflow import (
    Event,
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    StageflowError,
    StageOutput,
    StageSpec,
    StageStatus,
)
from tests.utils.virtual_time import run_virtual

#: The wall clock of each run here, in seconds since the epoch.
NOW_S = 1_000_000.0


@dataclass(frozen=True)
class StageCase:
    """One stage, and what it takes to run it.

    Attributes:
        pipeline: The pipeline that has it.
        name: The stage's name.
        inputs: What it may read; of these, the stage is given the keys that it declares.
        providers: What it may call.
    """

    pipeline: Pipeline
    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    providers: ProviderRegistry = field(default_factory=ProviderRegistry)

    @property
    def spec(self) -> StageSpec:
        return next(spec for spec in self.pipeline.stages if spec.name == self.name)


class StageContractTest:
    """The contract of a stage. It is checked once going well, and once going wrong."""

    ctx: PipelineContext

    @pytest.fixture
    def case(self) -> StageCase:
        """The stage under test."""
        raise NotImplementedError("a subclass says which stage is under test")

    def create_test_context(self, case: StageCase) -> PipelineContext:
        """A context in which the stage goes well."""
        inputs = {key: case.inputs[key] for key in case.spec.inputs}
        return PipelineContext(inputs, providers=case.providers, seed=1, wall_clock=lambda: NOW_S)

    def create_failing_context(self, case: StageCase) -> PipelineContext:
        """A context in which the stage cannot but fail: it lacks whatever the stage needs."""
        return PipelineContext(seed=1, wall_clock=lambda: NOW_S)

    def execute(self, case: StageCase, ctx: PipelineContext) -> StageOutput | StageflowError:
        """Run the stage with the engine around it; its output, or the error that it raised."""
        self.ctx = ctx
        bound = case.pipeline.stage(case.name)
        try:
            return run_virtual(lambda: bound.execute(ctx))
        except StageflowError as error:
            return error

    def get_emitted_events(self) -> tuple[Event, ...]:
        """What the run of this test has emitted."""
        return self.ctx.get_events()

    def assert_event_emitted(self, event_type: str) -> Event:
        """That exactly one event of that type was emitted; returns it."""
        found = [event for event in self.get_emitted_events() if event.type == event_type]
        emitted = [event.type for event in self.get_emitted_events()]
        assert len(found) == 1, f"{len(found)} events {event_type!r} among {emitted}"
        return found[0]

    # ── the contract ────────────────────────────────────────────────────────────────────────

    def test_emits_a_started_event(self, case: StageCase) -> None:
        """With the run's id and a time stamp, before anything else of the stage."""
        self.execute(case, self.create_test_context(case))
        started = self.assert_event_emitted(f"stage.{case.name}.started")
        assert started.pipeline_run_id == self.ctx.pipeline_run_id
        assert started.timestamp == datetime.fromtimestamp(NOW_S, UTC)
        assert next(e for e in self.get_emitted_events() if e.stage == case.name) is started

    def test_emits_a_completed_event_when_all_goes_well(self, case: StageCase) -> None:
        """With its duration, and as its only end."""
        self.execute(case, self.create_test_context(case))
        completed = self.assert_event_emitted(f"stage.{case.name}.completed")
        assert completed.data["duration_ms"] >= 0.0
        self.assert_one_end(case)

    def test_emits_a_failed_event_when_it_fails(self, case: StageCase) -> None:
        """With code and message of the error, and as its only end."""
        outcome = self.execute(case, self.create_failing_context(case))
        assert isinstance(outcome, StageflowError) or outcome.status is StageStatus.FAILED
        failed = self.assert_event_emitted(f"stage.{case.name}.failed")
        assert failed.data["error_code"]
        assert failed.data["error_message"]
        assert failed.data["duration_ms"] >= 0.0
        self.assert_one_end(case)

    def test_returns_an_output_with_a_valid_status(self, case: StageCase) -> None:
        """A `StageOutput`, completed."""
        output = self.execute(case, self.create_test_context(case))
        assert isinstance(output, StageOutput)
        assert output.status is StageStatus.COMPLETED

    def test_returns_the_outputs_that_it_declares(self, case: StageCase) -> None:
        """All of them, and no others."""
        output = self.execute(case, self.create_test_context(case))
        assert isinstance(output, StageOutput)
        assert set(output.outputs) == set(case.spec.outputs)

    def test_returns_an_output_that_can_be_written_down(self, case: StageCase) -> None:
        """What is read back equals what was written."""
        output = self.execute(case, self.create_test_context(case))
        assert isinstance(output, StageOutput)
        assert pickle.loads(pickle.dumps(output.to_dict())) == output.to_dict()

    def test_a_failure_can_be_told_to_the_user(self, case: StageCase) -> None:
        """In words that give nothing of the inside away."""
        self.execute(case, self.create_failing_context(case))
        failed = self.assert_event_emitted(f"stage.{case.name}.failed")
        assert failed.data["user_message"].endswith(".")
        assert failed.data["error_message"] not in failed.data["user_message"]

    def assert_one_end(self, case: StageCase) -> None:
        """That the stage has exactly one terminal event, its last."""
        own = [e.what for e in self.get_emitted_events() if e.stage == case.name]
        ends = [what for what in own if what in {"completed", "failed", "skipped", "cancelled"}]
        assert len(ends) == 1
        assert own[-1] == ends[0]
