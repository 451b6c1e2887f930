"""The events of real runs, of whatever stages, ending in whatever way."""

from __future__ import annotations

import json

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from stageflow import Event, Pipeline, PipelineContext, RunStatus, StageSpec, StageStatus
from stageflow.testing.invariants import dependencies_of
from tests.property.strategies import RecordedRun, event_sequences, events, stage_specs
from tests.utils.assertions import assert_run_sound
from tests.utils.virtual_time import run_virtual

pytestmark = pytest.mark.untraced

ENDINGS = ("ok", "ok", "ok", "raise", "fail", "skip")


@given(event_sequences())
def test_sequences_increase_start_at_one_and_have_neither_gap_nor_duplicate(
    run: RecordedRun,
) -> None:
    """1, 2, 3 … N, in the order in which the events stand."""
    assert [e.sequence for e in run.events] == list(range(1, len(run.events) + 1))


@given(event_sequences())
def test_every_run_is_sound(run: RecordedRun) -> None:
    """One end for each stage, the run's own last, none before its time, and the bag to match."""
    event(f"run {run.result.status}")
    assert_run_sound(run.pipeline, run.result)


@given(event_sequences())
def test_a_run_fails_exactly_when_a_required_stage_does_or_the_deadline_passes(
    run: RecordedRun,
) -> None:
    """And its failure is the first one of these."""
    required = {spec.name for spec in run.pipeline.stages if spec.required}
    failed = [e for e in run.events if e.type.endswith(".failed") and e.stage in required]
    failure = run.result.failure
    if failure is None:
        assert run.result.status is RunStatus.COMPLETED
        assert failed == []
    elif failure.code == "deadline_exceeded":
        assert run.events[-1].data["error_code"] == "deadline_exceeded"
    else:
        assert failure.stage == failed[0].stage
        assert run.events[-1].data["failed_stage"] == failed[0].stage
    assert (run.events[-1].type == "pipeline.failed") is (failure is not None)


@given(event_sequences())
def test_nothing_starts_once_a_required_stage_has_failed(run: RecordedRun) -> None:
    """Only ends of stages follow."""
    required = {spec.name for spec in run.pipeline.stages if spec.required}
    failed = False
    for e in run.events:
        assert not (failed and e.what == "started"), f"{e.stage} started after a failure"
        failed = failed or (e.what == "failed" and e.stage in required)


@given(event_sequences())
def test_each_end_has_its_data(run: RecordedRun) -> None:
    """Durations, error codes, reasons; and a duration is the time between the two events."""
    begun: dict[str | None, float] = {}
    for e in run.events:
        if e.what == "started":
            begun[e.stage] = e.offset_ms
        elif e.stage in begun:
            assert e.data["duration_ms"] == e.offset_ms - begun[e.stage]
        if e.what == "failed":
            assert e.data["error_code"]
            assert e.data["error_message"]
        if e.stage is not None and e.what in {"skipped", "cancelled"}:
            assert e.data["reason"]


@given(event_sequences())
def test_a_stage_starts_in_the_moment_in_which_its_last_dependency_ends(run: RecordedRun) -> None:
    """With nothing else to do, no time passes between the two."""
    ended = {e.stage: e.offset_ms for e in run.events if e.stage and e.what != "started"}
    depends = dependencies_of(run.pipeline.stages)
    for e in run.events:
        if e.what == "started" and e.stage is not None:
            assert e.offset_ms == max((ended[d] for d in depends[e.stage]), default=0.0)


@given(stage_specs())
def test_a_run_in_which_all_goes_well_takes_as_long_as_its_critical_path(
    specs: list[StageSpec],
) -> None:
    """All stages that can overlap do: the oracle is the graph with the stages' own pauses."""
    pipeline = Pipeline("drawn", specs)
    result = run_virtual(pipeline.run)
    pauses_ms = {s.name: sum(getattr(s.runner, "pauses_s", ())) * 1000.0 for s in specs}
    depends = dependencies_of(specs)

    def ends_at(name: str) -> float:
        return pauses_ms[name] + max(map(ends_at, depends[name]), default=0.0)

    assert result.status is RunStatus.COMPLETED
    assert result.duration_ms == max(map(ends_at, depends))
    assert all(stage.status is StageStatus.COMPLETED for stage in result.stages.values())


@given(events())
def test_events_can_be_written_as_json(events: tuple[Event, ...]) -> None:
    """All of them, whatever happened."""
    for e in events:
        assert json.loads(json.dumps(e.to_dict())) == e.to_dict()


@given(stage_specs(endings=ENDINGS), st.integers(0, 2**32))
def test_two_runs_with_one_seed_have_the_same_events(specs: list[StageSpec], seed: int) -> None:
    """Byte for byte, once the wall clock is held."""
    pipeline = Pipeline("drawn", specs)

    def lines() -> list[str]:
        ctx = PipelineContext(seed=seed, wall_clock=lambda: 1_000_000.0)
        result = run_virtual(lambda: pipeline.run(ctx))
        return [json.dumps(e.to_dict()) for e in result.events]

    assert lines() == lines()
