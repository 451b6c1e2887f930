"""Events reach the sinks, and no sink can make a run wait."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import pytest

from stageflow import EventDispatcher, PipelineContext, PipelineOrchestrator
from stageflow.errors import InvalidConfigError
from stageflow.events import EventLog, SinkStats
from tests.utils.factories import chain, make_log
from tests.utils.mocks import BrokenSink, GatedSink, RecordingSink

#: So long that a flush in a test comes from closing, never from the clock.
NEVER_S = 3600.0


def fill(log: EventLog, count: int) -> None:
    for number in range(count):
        log.append((f"stage.s{number}.started", 100.0 + number, f"s{number}", None))


def attached(dispatcher: EventDispatcher) -> EventLog:
    log = make_log()
    dispatcher.attach(log)
    return log


def stuck(**options: Any) -> tuple[GatedSink, EventDispatcher, EventLog]:
    """A sink that hangs on its first event, its dispatcher, and a log that is attached to it."""
    sink = GatedSink()
    dispatcher = EventDispatcher([sink], **options)
    log = attached(dispatcher)
    fill(log, 1)
    assert sink.entered.wait(30), "a sink is not given what has come"
    return sink, dispatcher, log


def test_closing_flushes_every_event_in_order() -> None:
    """Every event that was appended before the close has reached the sink after it."""
    sink = RecordingSink()
    with EventDispatcher([sink], interval_s=NEVER_S) as dispatcher:
        log = attached(dispatcher)
        fill(log, 100)
    assert sink.events == list(log)
    assert sink.closed == 1
    assert dispatcher.stats() == (SinkStats("RecordingSink", 100, 0, 0),)


def test_events_flow_while_the_run_goes_on() -> None:
    """A sink need not wait for the end to be given what has come."""
    sink = RecordingSink(wanted=10)
    with EventDispatcher([sink], interval_s=0.001) as dispatcher:
        fill(attached(dispatcher), 10)
        assert sink.got_wanted.wait(30)


def test_a_fast_sink_loses_nothing_of_many_runs_from_many_threads() -> None:
    """Written equals offered, and each run's events keep their order."""
    sink = RecordingSink()
    logs = [make_log(run_id=f"run-{number}") for number in range(4)]
    with EventDispatcher([sink], interval_s=0.001) as dispatcher:
        for log in logs:
            dispatcher.attach(log)
        threads = [threading.Thread(target=fill, args=(log, 500)) for log in logs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert dispatcher.stats()[0] == SinkStats("RecordingSink", 2000, 0, 0)
    for log in logs:
        own = [e.sequence for e in sink.events if e.pipeline_run_id == log.pipeline_run_id]
        assert own == list(range(1, 501))


def test_a_slow_sink_drops_what_overflows_and_counts_it() -> None:
    """While the sink is held up, the buffer fills; the rest is dropped, and nobody waits."""
    sink, dispatcher, log = stuck(capacity=10, interval_s=0.001)
    fill(log, 25)  # returns at once, although the sink is stuck
    assert len(log) == 26
    sink.gate.set()
    dispatcher.close()
    stats = dispatcher.stats()[0]
    assert (stats.written, stats.dropped, stats.failed) == (11, 15, 0)
    assert [event.sequence for event in sink.events] == list(range(1, 12))


def test_a_broken_sink_costs_its_own_events_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and logged once; a sound sink beside it gets everything."""
    broken, sound = BrokenSink(), RecordingSink()
    with caplog.at_level(logging.ERROR, logger="stageflow.events"):
        dispatcher = EventDispatcher([broken, sound], interval_s=0.001)
        log = attached(dispatcher)
        for _ in range(2):
            broken.refusing.clear()
            fill(log, 5)
            assert broken.refusing.wait(30)
        fill(log, 5)
        dispatcher.close()
    assert dispatcher.stats() == (
        SinkStats("BrokenSink", 0, 0, 15),
        SinkStats("RecordingSink", 15, 0, 0),
    )
    assert sound.events == list(log)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "event sink BrokenSink is failing",
        "event sink BrokenSink could not be closed",
    ]
    assert all(record.exc_info for record in caplog.records)
    assert {record.name for record in caplog.records} == {"stageflow.events"}


def test_a_hung_sink_is_left_behind_at_close(caplog: pytest.LogCaptureFixture) -> None:
    """Closing gives up after its limit, says so, and counts what the sink never saw."""
    sink, dispatcher, log = stuck(interval_s=0.001)
    fill(log, 4)
    with caplog.at_level(logging.ERROR, logger="stageflow.events"):
        dispatcher.close(timeout_s=0.01)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("stageflow.events", logging.ERROR)
    assert record.getMessage() == (
        "event sink GatedSink did not finish in time and was left behind"
    )
    assert dispatcher.stats()[0] == SinkStats("GatedSink", 0, 4, 0)
    sink.gate.set()
    assert sink.left.wait(30), "the thread did not end once the sink let it go"
    # What was counted as dropped is not written after all.
    assert [event.sequence for event in sink.events] == [1]


def test_a_hung_sink_keeps_no_other_from_flushing_at_close() -> None:
    """While closing still waits for the one that hangs, the next one has been given everything."""
    hung, sound = GatedSink(), RecordingSink(wanted=3)
    dispatcher = EventDispatcher([hung, sound], interval_s=NEVER_S)
    fill(attached(dispatcher), 3)
    closing = threading.Thread(target=dispatcher.close, args=(60.0,))
    closing.start()
    assert hung.entered.wait(30)
    given = sound.got_wanted.wait(10)
    assert closing.is_alive()
    hung.gate.set()
    closing.join()
    assert given, "the sound sink was not closed"
    assert [stats.written for stats in dispatcher.stats()] == [3, 3]


def test_what_a_hung_sink_never_saw_is_counted_once() -> None:
    """However often the dispatcher is closed: offered is written plus dropped plus failed."""
    sink, dispatcher, log = stuck(interval_s=0.001)
    fill(log, 4)
    for _ in range(2):
        dispatcher.close(timeout_s=0.01)
    assert dispatcher.stats()[0].dropped == 4
    sink.gate.set()
    assert sink.left.wait(30)
    assert dispatcher.stats()[0] == SinkStats("GatedSink", 1, 4, 0)


@pytest.mark.parametrize("capacity", [0, -1, 2.5, True, "10"])
def test_a_buffer_that_holds_nothing_is_refused(capacity: Any) -> None:
    """It would drop every event without a word."""
    with pytest.raises(InvalidConfigError, match=r"EventDispatcher: capacity is .*; give a"):
        EventDispatcher([], capacity=capacity)


@pytest.mark.parametrize("interval_s", [0, -0.5, math.inf, math.nan, True, "1"])
def test_an_interval_that_is_none_is_refused(interval_s: Any) -> None:
    """With one of no length, the thread of a sink would never rest."""
    with pytest.raises(InvalidConfigError, match=r"EventDispatcher: interval_s is .*; give a"):
        EventDispatcher([], interval_s=interval_s)


@pytest.mark.parametrize(
    ("sinks", "fix"),
    [
        (RecordingSink(), "give a list of sinks"),
        ([RecordingSink], "give an instance of it: RecordingSink"),
        ([RecordingSink(), "events.db"], r"give an object with a method write\(\)"),
    ],
)
def test_a_value_that_is_not_a_sink_is_refused(sinks: Any, fix: str) -> None:
    """When the dispatcher is made, and not when the first event is lost."""
    with pytest.raises(InvalidConfigError, match=fix):
        EventDispatcher(sinks)


def test_an_event_that_comes_after_the_close_is_counted_as_dropped() -> None:
    """No event vanishes uncounted: offered is written plus dropped plus failed."""
    sink = RecordingSink()
    dispatcher = EventDispatcher([sink], interval_s=NEVER_S)
    log = attached(dispatcher)
    fill(log, 3)
    dispatcher.close()
    fill(log, 2)
    assert dispatcher.stats()[0] == SinkStats("RecordingSink", 3, 2, 0)


def test_a_dispatcher_without_sinks_leaves_the_log_alone() -> None:
    """The run's own log is complete with and without listeners."""
    with EventDispatcher([]) as dispatcher:
        log = attached(dispatcher)
        fill(log, 3)
    assert len(log) == 3
    assert dispatcher.stats() == ()


async def test_the_events_of_a_run_reach_the_sink_whole() -> None:
    """The sink gets the same events that the result holds."""
    sink = RecordingSink()
    with EventDispatcher([sink], interval_s=NEVER_S) as dispatcher:
        orchestrator = PipelineOrchestrator(chain(3).build(), dispatcher=dispatcher)
        result = await orchestrator.run(PipelineContext())
    assert tuple(sink.events) == result.events
    assert len(sink.events) == 8


async def test_a_stuck_sink_does_not_change_how_a_run_ends() -> None:
    """The run completes with all its events while the sink is still stuck in its first batch."""
    sink = GatedSink()
    dispatcher = EventDispatcher([sink], capacity=1, interval_s=0.001)
    orchestrator = PipelineOrchestrator(chain(50).build(), dispatcher=dispatcher)
    fill(attached(dispatcher), 1)
    assert sink.entered.wait(30)
    result = await orchestrator.run(PipelineContext())
    assert result.status == "completed"
    assert len(result.events) == 102
    sink.gate.set()
    dispatcher.close()
    assert dispatcher.stats()[0].dropped == 101


def test_a_sink_has_a_thread_of_its_own_that_keeps_no_process_alive() -> None:
    """Named for the sink, and gone when the dispatcher is closed."""

    def found() -> list[bool]:
        return [t.daemon for t in threading.enumerate() if t.name == "stageflow-RecordingSink"]

    with EventDispatcher([RecordingSink()], interval_s=NEVER_S):
        assert found() == [True]
    assert found() == []


def test_ten_thousand_events_may_wait_by_default() -> None:
    """While a sink is stuck in its first batch, that many are kept for it and no more."""
    sink, dispatcher, log = stuck()
    fill(log, 10_001)
    assert dispatcher.stats()[0].dropped == 1
    sink.gate.set()
    dispatcher.close()
    assert dispatcher.stats()[0].written == 10_001


def test_what_was_dropped_before_the_close_stays_counted() -> None:
    """To it comes what a sink that hangs has not been given."""
    sink, dispatcher, log = stuck(capacity=2, interval_s=0.001)
    fill(log, 5)
    dispatcher.close(timeout_s=0.01)
    assert dispatcher.stats()[0] == SinkStats("GatedSink", 0, 5, 0)
    sink.gate.set()
    assert sink.left.wait(30)


def test_closing_waits_for_no_sink_once_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for all sinks together, so those that come last may have none of it left."""
    sinks = GatedSink(), GatedSink()
    dispatcher = EventDispatcher(sinks, interval_s=NEVER_S)
    waits: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", lambda _, timeout: waits.append(timeout))
        dispatcher.close(timeout_s=0)
    assert waits == [0.0, 0.0]
