"""The sink that writes stages to the standard library's log."""

from __future__ import annotations

import logging

import pytest

from stageflow import (
    Event,
    EventDispatcher,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    StageSpec,
)
from stageflow.telemetry import LoggingSink
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual

#: One stage of each ending.
FINE = make_spec("a", pauses_s=(1.5,))
SKIPPED = make_spec("a", ending="skip", pauses_s=(0.5,))
RAISES = make_spec("a", ending="raise", pauses_s=(0.25,))
FAILS = make_spec("a", ending="fail")
CANCELLED = make_spec("a", pauses_s=(9.0,))
NEVER = make_spec("a", "broken")

FIELDS = ("stage", "pipeline", "pipeline_run_id", "correlation_id")


def run(
    spec: StageSpec, logger: logging.Logger | None = None, ctx: PipelineContext | None = None
) -> RunResult:
    """Run one stage; one to be cancelled or never started has another that fails after 2 s."""
    specs = [spec]
    if spec in (CANCELLED, NEVER):
        specs.append(make_spec("broken", pauses_s=(2.0,), ending="raise"))
    graph = make_pipeline(*specs, name="p").build()
    with EventDispatcher([LoggingSink(logger)]) as dispatcher:
        bound = PipelineOrchestrator(graph, dispatcher=dispatcher)
        result = run_virtual(lambda: bound.run(ctx or PipelineContext()))
    (stats,) = dispatcher.stats()
    assert stats.failed == 0
    return result


def records_of_a(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if vars(record)["stage"] == "a"]


def logged(record: logging.LogRecord, *names: str) -> list[object]:
    return [vars(record)[name] for name in names]


@pytest.mark.parametrize(
    ("spec", "level", "message", "duration_ms"),
    [
        (FINE, "DEBUG", "stage a completed", 1500.0),
        (SKIPPED, "DEBUG", "stage a skipped", 500.0),
        (CANCELLED, "INFO", "stage a cancelled", 2000.0),
        (RAISES, "ERROR", "stage a failed: ", 250.0),
        (FAILS, "ERROR", "stage a failed: ", 0.0),
    ],
)
def test_a_stage_has_one_record_at_its_start_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
    spec: StageSpec,
    level: str,
    message: str,
    duration_ms: float,
) -> None:
    """The level depends on the ending, and every record has the same structured fields."""
    ctx = PipelineContext(correlation_id="call-5")
    with caplog.at_level(logging.DEBUG, logger="stageflow.stage"):
        run(spec, ctx=ctx)
    start, end = records_of_a(caplog)
    assert (start.levelname, start.getMessage()) == ("DEBUG", "stage a started")
    assert end.levelname == level
    assert end.getMessage().startswith(message)
    for record in (start, end):
        assert logged(record, *FIELDS) == ["a", "p", ctx.pipeline_run_id, "call-5"]
    assert logged(start, "duration_ms", "error_code", "error_message") == [0.0, None, None]
    assert vars(end)["duration_ms"] == duration_ms


@pytest.mark.parametrize(("spec", "code"), [(RAISES, "stage_raised"), (FAILS, "stage_failed")])
def test_a_failure_is_logged_with_the_message_and_code_of_its_event(
    caplog: pytest.LogCaptureFixture, spec: StageSpec, code: str
) -> None:
    """Both in the text and as fields; an event has no traceback, so the record has none."""
    (event,) = (event for event in run(spec).events if event.type == "stage.a.failed")
    (record,) = caplog.records
    said = event.data["error_message"]
    assert logged(record, "error_code", "error_message") == [code, said]
    assert record.getMessage() == f"stage a failed: {said} ({code})"
    assert record.exc_info is None


def test_a_stage_that_never_started_has_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """It is skipped, and took no time."""
    with caplog.at_level(logging.DEBUG, logger="stageflow.stage"):
        run(NEVER)
    (record,) = records_of_a(caplog)
    assert record.getMessage() == "stage a skipped"
    assert vars(record)["duration_ms"] == 0.0


def test_a_record_has_the_time_of_its_event(caplog: pytest.LogCaptureFixture) -> None:
    """The sink writes it a little later, and here much earlier: the run is in virtual time."""
    with caplog.at_level(logging.DEBUG, logger="stageflow.stage"):
        events = [event for event in run(FINE).events if event.stage]
    assert [record.created for record in caplog.records] == [
        event.timestamp.timestamp() for event in events
    ]
    assert [record.msecs for record in caplog.records] == [
        event.timestamp.microsecond // 1000 for event in events
    ]


def test_a_level_that_is_off_has_no_records(caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING a stage that completed leaves no record, and one that failed leaves one."""
    with caplog.at_level(logging.WARNING, logger="stageflow.stage"):
        run(FINE)
        assert caplog.records == []
        run(RAISES)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_logger_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """All records go to it."""
    with caplog.at_level(logging.DEBUG, logger="mine"):
        run(FINE, logging.getLogger("mine"))
    assert [record.name for record in caplog.records] == ["mine", "mine"]


def test_a_stage_of_a_run_whose_beginning_was_lost_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With what its own event says; the pipeline is unknown."""
    lost = run(FAILS).events[1:]
    caplog.clear()
    sink = LoggingSink()
    sink.write(lost)
    sink.close()
    (record,) = caplog.records
    assert logged(record, "stage", "pipeline", "correlation_id") == ["a", "unknown", None]


def test_a_stage_may_emit_fields_of_these_names(caplog: pytest.LogCaptureFixture) -> None:
    """Only the events of the engine become records."""
    event = run(FINE).events[1]
    other = Event(1, "stage.a.note", event.timestamp, "r", 0.0, "a", {"duration_ms": "long"})
    with caplog.at_level(logging.DEBUG, logger="stageflow.stage"):
        LoggingSink().write([other])
    assert caplog.records == []
