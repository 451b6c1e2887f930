"""What must hold for the events of any run, whatever ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stageflow.events import Event
from stageflow.pipeline import Pipeline
from stageflow.result import RunResult

_STAGE_ENDS = {"completed", "failed", "skipped", "cancelled"}
_BETWEEN = {"retrying", "breaker_open", "breaker_half_open", "breaker_closed"}
_STREAM_LIFE = ("stream_opened", "stream_first_item", "stream_closed")
_BETWEEN |= set(_STREAM_LIFE)
_RUN_ENDS = {"pipeline.completed", "pipeline.failed", "pipeline.cancelled"}


def check_events(pipeline: Pipeline, events: Sequence[Event]) -> None:
    """Check what every ended run's events owe, from the definition and the events alone.

    Numbers run from 1 without a gap, clocks never run backwards, the run's own first and last
    event stand first and last, each stage ends exactly once, none starts before all that it
    depends on have ended (or have opened the streams of them that it reads), none after a required
    one has failed, and each stream is opened and closed once before its stage ends.

    Args:
        pipeline: What ran.
        events: All events of the run.

    Raises:
        AssertionError: Something does not hold; it shows all events.
    """
    try:
        _check_run(events)
        _check_stages(pipeline, events)
        _check_streams(pipeline, events)
    except AssertionError as broken:
        shown = "\n".join(f"  {e.sequence:3} {e.offset_ms:10.3f} ms  {e.type}" for e in events)
        broken.add_note(f"events of the run:\n{shown}")
        raise


def _check_run(events: Sequence[Event]) -> None:
    numbers = [event.sequence for event in events]
    assert numbers == list(range(1, len(events) + 1)), f"sequence has gaps: {numbers}"
    offsets = [event.offset_ms for event in events]
    assert offsets == sorted(offsets), "the clock ran backwards"
    assert len({event.pipeline_run_id for event in events}) == 1, "events of several runs"
    kinds = [event.type for event in events]
    assert kinds[0] == "pipeline.started", f"the first event is {kinds[0]}"
    ends = [kind for kind in kinds if kind in _RUN_ENDS]
    assert ends == kinds[-1:], f"the last event is {kinds[-1]}, and the run's ends are {ends}"


def _check_stages(pipeline: Pipeline, events: Sequence[Event]) -> None:
    early = _streamed(pipeline)
    dependencies = {
        spec.name: set(spec.dependencies) - early[spec.name].keys() for spec in pipeline.stages
    }
    required = {spec.name for spec in pipeline.stages if spec.required}
    started: set[str] = set()
    ends: dict[str, list[str]] = defaultdict(list)
    stopping: str | None = None
    for event in events[1:-1]:
        name = event.stage
        assert name is not None, f"{event.type} in the middle of the run"
        if event.what == "started":
            assert name not in started, f"{name} started twice"
            assert dependencies[name] <= ends.keys(), f"{name} started too early"
            assert stopping is None, f"{name} started although {stopping} had failed the run"
            started.add(name)
        elif event.what in _BETWEEN:
            assert name in started, f"{event.type} before its start"
            assert name not in ends, f"{event.type} after the end of the stage"
        else:
            assert event.what in _STAGE_ENDS, f"unknown event {event.type}"
            assert event.what == "skipped" or name in started, f"{event.type} without a start"
            ends[name].append(event.what)
            if event.what == "failed" and name in required:
                stopping = name
    without = sorted(dependencies.keys() - ends.keys())
    assert not without, f"no terminal event of {', '.join(without)}"
    several = {name: kinds for name, kinds in ends.items() if len(kinds) > 1}
    assert not several, f"more than one end: {several}"


def _check_streams(pipeline: Pipeline, events: Sequence[Event]) -> None:
    early = _streamed(pipeline)
    written = {key: spec.name for spec in pipeline.stages for key in spec.streams}
    lives: dict[str, list[str]] = defaultdict(list)
    ended: set[str | None] = set()
    for event in events:
        if event.what in _STREAM_LIFE:
            key = event.data["stream"]
            assert written.get(key) == event.stage, f"{event.type} of {key}, which is not its own"
            lives[key].append(event.what)
        elif event.what == "started" and event.stage is not None:
            for producer, keys in early[event.stage].items():
                opened = producer in ended or keys <= lives.keys()
                assert opened, f"{event.stage} started before {sorted(keys)} of {producer}"
        elif event.what in _STAGE_ENDS:
            ended.add(event.stage)
            if event.what == "completed":
                unopened = {k for k, n in written.items() if n == event.stage} - lives.keys()
                assert not unopened, f"{event.stage} completed without {sorted(unopened)}"
    for key, life in lives.items():
        whole = [what for what in _STREAM_LIFE if what in life]
        assert life == whole, f"the life of stream {key} is {life}"
        assert life[0] == _STREAM_LIFE[0], f"stream {key} was never opened"
        assert life[-1] == _STREAM_LIFE[-1], f"stream {key} was never closed"


def _streamed(pipeline: Pipeline) -> dict[str, dict[str, set[str]]]:
    """For each stage the dependencies of which it reads nothing but streams, with their keys."""
    specs = {spec.name: spec for spec in pipeline.stages}
    found: dict[str, dict[str, set[str]]] = {}
    for name, spec in specs.items():
        inputs = set(spec.inputs)
        found[name] = {
            before: inputs.intersection(specs[before].streams)
            for before in spec.dependencies
            if inputs.intersection(specs[before].streams)
            and inputs.isdisjoint(specs[before].outputs)
        }
    return found


def check_run(pipeline: Pipeline, result: RunResult) -> None:
    """Check a run's events, and that its bag holds just what stages wrote and opened.

    Args:
        pipeline: What ran.
        result: How it ended.

    Raises:
        AssertionError: Something does not hold.
    """
    check_events(pipeline, result.events)
    completed = {e.stage for e in result.events if e.stage and e.what == "completed"}
    declared = {spec.name: spec.outputs for spec in pipeline.stages}
    expected = {(key, name) for name in completed for key in declared[name]}
    expected |= {
        (e.data["stream"], e.stage) for e in result.events if e.stage and e.what == "stream_opened"
    }
    found = {(key, result.bag.writer_of(key)) for key in result.bag}
    assert found == expected, f"in the bag: {sorted(found)}, to be there: {sorted(expected)}"
