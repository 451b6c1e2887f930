"""Invariants of the events of every run."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from stageflow.engine import Pipeline, RunResult, StageSpec
from stageflow.events.log import TERMINAL, Event

_STREAM_LIFE = ("stream_opened", "stream_first_item", "stream_closed")
_BETWEEN = {"first_audio", "retrying", "breaker_open", "breaker_half_open", "breaker_closed"}
_BETWEEN |= {*_STREAM_LIFE, "answer_cut", "answer_refused", "not_kept", "usage"}
_BETWEEN |= {f"tool_{what}" for what in ("started", *TERMINAL, "retrying")}
_RUN_ENDS = {"pipeline.completed", "pipeline.failed", "pipeline.cancelled"}


def check_events(pipeline: Pipeline, events: Sequence[Event]) -> None:
    """Check the events of an ended run against its pipeline.

    Events are numbered from 1 without a gap, and time does not run backwards. The run's own events
    are the first and the last. Each stage ends exactly once, starts after its dependencies have
    ended (or have opened the streams of them that it reads), and does not start after a required
    stage has failed. Each stream is opened and closed once, before its stage ends.

    Raises:
        AssertionError: Something does not hold; a note has all events.
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
    edges = dependencies_of(pipeline.stages)
    dependencies = {name: before - early[name].keys() for name, before in edges.items()}
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
            assert event.what in TERMINAL, f"unknown event {event.type}"
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
        elif event.what in TERMINAL:
            ended.add(event.stage)
            if event.what == "completed":
                unopened = {k for k, n in written.items() if n == event.stage} - lives.keys()
                assert not unopened, f"{event.stage} completed without {sorted(unopened)}"
    for key, life in lives.items():
        whole = [what for what in _STREAM_LIFE if what in life]
        assert life == whole, f"the life of stream {key} is {life}"
        assert life[0] == _STREAM_LIFE[0], f"stream {key} was never opened"
        assert life[-1] == _STREAM_LIFE[-1], f"stream {key} was never closed"


def dependencies_of(specs: Iterable[StageSpec]) -> dict[str, set[str]]:
    """Return, for each stage, those that it waits for: named, or producers of what it reads."""
    listed = tuple(specs)
    producers = {key: spec.name for spec in listed for key in (*spec.outputs, *spec.streams)}
    read = {s.name: {producers[key] for key in s.inputs if key in producers} for s in listed}
    return {s.name: {*s.dependencies, *(read[s.name] - {s.name})} for s in listed}


def _streamed(pipeline: Pipeline) -> dict[str, dict[str, set[str]]]:
    """Return, for each stage, the dependencies of which it reads only streams, with their keys."""
    specs = {spec.name: spec for spec in pipeline.stages}
    found: dict[str, dict[str, set[str]]] = {name: {} for name in specs}
    for name, edges in dependencies_of(pipeline.stages).items():
        inputs = set(specs[name].inputs)
        for before in edges:
            keys = inputs.intersection(specs[before].streams)
            if keys and inputs.isdisjoint(specs[before].outputs):
                found[name][before] = keys
    return found


def check_run(pipeline: Pipeline, result: RunResult) -> None:
    """Check a run's events, and that its bag holds exactly what stages wrote and opened.

    Raises:
        AssertionError: Something does not hold.
    """
    check_events(pipeline, result.events)
    completed = {event.stage for event in result.events if event.what == "completed"}
    ran = [spec for spec in pipeline.stages if spec.name in completed]
    expected = {(key, spec.name) for spec in ran for key in spec.outputs}
    opened = [event for event in result.events if event.what == "stream_opened"]
    expected |= {(event.data["stream"], str(event.stage)) for event in opened}
    found = {(key, result.bag.writer_of(key)) for key in result.bag}
    assert found == expected, f"in the bag: {sorted(found)}, to be there: {sorted(expected)}"
