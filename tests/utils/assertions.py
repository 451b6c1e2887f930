"""What must hold for the events of any run, whatever ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stageflow import Event, Pipeline, RunResult

_STAGE_ENDS = {"completed", "failed", "skipped", "cancelled"}
_BETWEEN = {"retrying", "breaker_open", "breaker_half_open", "breaker_closed"}
_RUN_ENDS = {"pipeline.completed", "pipeline.failed", "pipeline.cancelled"}


def types_of(events: Sequence[Event]) -> list[str]:
    """The events' types, in order."""
    return [event.type for event in events]


def events_of(events: Sequence[Event], stage: str) -> list[Event]:
    """The events of one stage, in order."""
    return [event for event in events if event.stage == stage]


def only(events: Sequence[Event], kind: str) -> Event:
    """The one event of that type."""
    found = [event for event in events if event.type == kind]
    assert len(found) == 1, f"{len(found)} events of type {kind!r} among {types_of(events)}"
    return found[0]


def assert_events_sound(pipeline: Pipeline, events: Sequence[Event]) -> None:
    """Check what every ended run's events owe, from the definition and the events alone.

    Numbers run from 1 without a gap, clocks never run backwards, the run's own first and last
    event stand first and last, each stage ends exactly once, and none starts before all that it
    depends on have ended.
    """
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [e.offset_ms for e in events] == sorted(e.offset_ms for e in events)
    assert len({event.pipeline_run_id for event in events}) == 1
    kinds = types_of(events)
    assert kinds[0] == "pipeline.started"
    assert [kind for kind in kinds if kind in _RUN_ENDS] == kinds[-1:]
    started: set[str] = set()
    ends: dict[str, list[str]] = defaultdict(list)
    dependencies = {spec.name: set(spec.dependencies) for spec in pipeline.stages}
    for event in events[1:-1]:
        assert event.stage is not None
        what = event.type.removeprefix(f"stage.{event.stage}.")
        if what == "started":
            assert event.stage not in started, f"{event.stage} started twice"
            assert dependencies[event.stage] <= ends.keys(), f"{event.stage} started too early"
            started.add(event.stage)
        elif what in _BETWEEN:
            assert event.stage in started
            assert event.stage not in ends, f"{event.type} after the end of the stage"
        else:
            assert what in _STAGE_ENDS, f"unknown event {event.type}"
            assert what == "skipped" or event.stage in started
            ends[event.stage].append(what)
    assert ends.keys() == dependencies.keys(), "some stage has no terminal event"
    assert all(len(kinds) == 1 for kinds in ends.values()), f"more than one end: {ends}"


def assert_run_sound(pipeline: Pipeline, result: RunResult) -> None:
    """Check a run's events, and that its bag holds just what completed stages declare."""
    assert_events_sound(pipeline, result.events)
    completed = {e.stage for e in result.events if e.stage and e.type.endswith(".completed")}
    declared = {spec.name: spec.outputs for spec in pipeline.stages}
    expected = {(key, name) for name in completed for key in declared[name]}
    assert {(key, result.bag.writer_of(key)) for key in result.bag} == expected
