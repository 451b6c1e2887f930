"""Events: numbered without a gap, stamped from one clock, plain to write out."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, datetime

import pytest

from stageflow import Event
from stageflow.events import TERMINAL, EventBatch, EventLog, stage_event_type
from tests.utils.factories import make_log

RAW = (
    ("pipeline.started", 100.0, None, {"pipeline": "p"}),
    ("stage.a.started", 100.25, "a", None),
    ("stage.a.completed", 101.5, "a", 100.25),
    ("pipeline.completed", 102.0, None, {"duration_ms": 2000.0}),
)


def test_sequences_run_from_one_without_a_gap() -> None:
    """The first event has sequence 1, and each further one is one more."""
    assert [event.sequence for event in make_log(*RAW)] == [1, 2, 3, 4]


def test_timestamps_are_the_wall_clock_at_the_start_plus_the_loops_time_since() -> None:
    """One reading of the wall clock stamps every event, so stamps cannot run backwards."""
    stamps = [event.timestamp for event in make_log(*RAW)]
    expected = [1_000_000.0, 1_000_000.25, 1_000_001.5, 1_000_002.0]
    assert stamps == [datetime.fromtimestamp(seconds, UTC) for seconds in expected]
    assert [event.offset_ms for event in make_log(*RAW)] == [0.0, 250.0, 1500.0, 2000.0]


def test_one_event_is_read_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """From either end; so the way back through a long log takes no longer than the way forth."""
    log, made, keep = make_log(*RAW), list[int](), EventLog.event_at

    def watched(log: EventLog, position: int) -> Event:
        made.append(position)
        return keep(log, position)

    monkeypatch.setattr(EventLog, "event_at", watched)
    assert [log[1].sequence, log[-1].sequence, log[-4].sequence] == [2, 4, 1]
    assert made == [1, 3, 0]
    assert [event.sequence for event in reversed(log)] == [4, 3, 2, 1]
    assert made[3:] == [3, 2, 1, 0]
    for outside in (4, -5):
        with pytest.raises(IndexError):
            log[outside]


def test_a_completed_stage_knows_how_long_it_ran() -> None:
    """The duration is that between its two moments, in milliseconds."""
    assert make_log(*RAW)[2].data == {"duration_ms": 1250.0}


def test_an_event_carries_its_run_its_stage_and_its_data() -> None:
    """Nothing that was logged is lost on the way to the reader."""
    first, second = make_log(*RAW, run_id="run-7")[:2]
    assert (first.type, first.stage, first.data) == ("pipeline.started", None, {"pipeline": "p"})
    assert (second.type, second.stage, second.data) == ("stage.a.started", "a", {})
    assert {first.pipeline_run_id, second.pipeline_run_id} == {"run-7"}


def test_events_are_made_once_however_often_they_are_read() -> None:
    """A second reading gives the very same objects, with later events behind them."""
    log = make_log(*RAW[:2])
    earlier = log.snapshot()
    log.append(RAW[2])
    later = log.snapshot()
    assert len(log) == 3
    assert all(a is b for a, b in zip(earlier, later, strict=False))
    assert len(earlier) == 2
    assert len(later) == 3


def test_a_log_is_a_sequence() -> None:
    """Indexing, slicing, iteration and membership agree."""
    log = make_log(*RAW)
    assert [log[n] for n in range(4)] == list(log) == list(log[:])
    assert log[-1].type == "pipeline.completed"
    assert log[0] in log
    with pytest.raises(IndexError):
        log[4]


def test_an_event_cannot_be_changed() -> None:
    """Neither its fields nor its data can be assigned."""
    event = make_log(*RAW)[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.sequence = 5
    with pytest.raises(TypeError):
        event.data["pipeline"] = "q"


def test_data_given_to_the_log_is_copied() -> None:
    """The caller may change its dict afterwards."""
    data = {"reason": "first"}
    log = make_log(("stage.a.skipped", 100.0, "a", data))
    event = log[0]
    data["reason"] = "second"
    assert event.data == {"reason": "first"}


def test_to_dict_survives_json() -> None:
    """Data that is written as JSON reads back the same."""
    for event in make_log(*RAW):
        plain = event.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert plain.keys() == {field.name for field in dataclasses.fields(Event)}
        assert datetime.fromisoformat(plain["timestamp"]) == event.timestamp


@pytest.mark.parametrize(
    ("kind", "what"),
    [("stage.a.started", "started"), ("pipeline.failed", "failed"), ("odd", "odd")],
)
def test_what_is_the_last_part_of_the_type(kind: str, what: str) -> None:
    """A reader need not take types apart."""
    assert Event(1, kind, datetime.now(UTC), "run-1").what == what


def test_the_type_of_a_stages_event_names_the_stage() -> None:
    """The form is stage.<name>.<what>."""
    assert stage_event_type("llm", "completed") == "stage.llm.completed"
    assert {"completed", "failed", "skipped", "cancelled"} == TERMINAL


def test_one_event_can_be_read_from_another_thread_while_the_run_goes_on() -> None:
    """A reader elsewhere gets every event that it knows of, in full."""
    log = make_log()
    read: list[Event] = []
    written = threading.Semaphore(0)

    def reader() -> None:
        for position in range(1000):
            assert written.acquire(timeout=30)
            read.append(log.event_at(position))

    thread = threading.Thread(target=reader)
    thread.start()
    for number in range(1000):
        log.append(("stage.a.started", 100.0 + number, "a", None))
        written.release()
    thread.join(30)
    assert [event.sequence for event in read] == list(range(1, 1001))
    assert read == list(log)


def test_an_event_needs_no_more_than_what_happened_when_and_in_which_run() -> None:
    """The rest is empty, and an event with data can still be put into a set."""
    at = datetime.now(UTC)
    event = Event(1, "pipeline.started", at, "run-1")
    assert (event.offset_ms, event.stage, dict(event.data)) == (0.0, None, {})
    same = Event(1, "pipeline.started", at, "run-1", data={"pipeline": "p"})
    assert len({event, same, same}) == 2
    with pytest.raises(TypeError):
        event.data["pipeline"] = "q"  # type: ignore[index]


def test_a_batch_is_the_sequence_of_its_events() -> None:
    """By number, from the end, in slices and one after another; equal each time it is read."""
    first = make_log(("pipeline.started", 100.0, None, None), ("stage.a.started", 101.0, "a", None))
    second = make_log(("pipeline.started", 200.0, None, None), run_id="run-2")
    batch = EventBatch([(first, 1), (second, 0), (first, 0)])
    expected = [first[1], second[0], first[0]]
    assert list(batch) == list(batch) == expected
    assert [batch[n] for n in (0, 1, -1)] == expected
    assert list(batch[1:]) == expected[1:]
    assert (len(batch), len(batch[:0]), bool(EventBatch([]))) == (3, 0, False)
