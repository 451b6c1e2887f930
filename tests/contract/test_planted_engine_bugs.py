"""Each assertion of the stage contract about events is held by a bug planted in the engine."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from stageflow import Event, PipelineContext, StageContext, StageOutput
from stageflow.testing import StageContractTest
from tests.utils.stage_cases import both_loops, contract, counted, declared, names_of_tests

pytestmark = pytest.mark.untraced

Bug = Callable[[tuple[Event, ...]], tuple[Event, ...]]

STARTED = "test_emits_a_started_event"
COMPLETED = "test_emits_a_completed_event_when_it_succeeds"
FAILED = "test_emits_a_failed_event_when_it_fails"
WORDS = "test_a_failure_has_a_message_for_the_user"
CANNOT_FAIL = "test_cannot_fail_only_if_it_says_so"
SECOND = dt.timedelta(seconds=1)


def each(what: str, becomes: Callable[[Event], list[Event]]) -> Bug:
    """Apply a change to the stage's events of one kind."""

    def bug(events: tuple[Event, ...]) -> tuple[Event, ...]:
        return tuple(
            after
            for event in events
            for after in (becomes(event) if event.stage and event.what == what else [event])
        )

    return bug


def but(what: str, **fields: Callable[[Event], Any]) -> Bug:
    """Such an event with other fields."""
    return each(
        what,
        lambda e: [dataclasses.replace(e, **{name: of(e) for name, of in fields.items()})],
    )


def but_data(what: str, **data: Any) -> Bug:
    """Such an event with other data; a format makes of the old data the new."""

    def of(event: Event) -> Mapping[str, Any]:
        new = {k: v.format(**event.data) if type(v) is str else v for k, v in data.items()}
        return {**event.data, **new}

    return but(what, data=of)


def heard(event: Event) -> Event:
    """An event of the stage that is not the engine's."""
    return dataclasses.replace(event, type="stage.count.heard")


#: A bug, and the tests that it turns red, with what they say.
BUGS: dict[str, tuple[Bug, dict[str, str]]] = {
    "none": (lambda events: events, {}),
    "none, with events made anew": (but("started", stage=lambda e: e.stage), {}),
    "the id of another run": (
        but("started", pipeline_run_id=lambda e: "other"),
        {STARTED: r"is not of the run [0-9a-f]{32}"},
    ),
    "a clock that is behind": (
        but("started", timestamp=lambda e: e.timestamp - SECOND),
        {STARTED: "has another clock than the run"},
    ),
    "no start": (each("started", lambda e: []), {STARTED: r"0 events 'stage\.count\.started'"}),
    "two starts": (each("started", lambda e: [e, e]), {STARTED: "2 events"}),
    "a late start": (
        each("started", lambda e: [heard(e), e]),
        {STARTED: r"count begins with stage\.count\.heard"},
    ),
    "no end": (each("completed", lambda e: []), {COMPLETED: "count has 0 terminal events"}),
    "two ends": (each("completed", lambda e: [e, e]), {COMPLETED: "has 2 terminal events"}),
    "an event after the end": (
        each("completed", lambda e: [e, heard(e)]),
        {COMPLETED: r"count goes on after stage\.count\.completed"},
    ),
    "another end": (
        but("completed", type=lambda e: "stage.count.skipped"),
        {COMPLETED: "count skipped: StageOutput"},
    ),
    "a negative duration": (
        but_data("completed", duration_ms=-0.1),
        {COMPLETED: "has the duration .*-0.1"},
    ),
    "no end of a failure": (
        each("failed", lambda e: []),
        {FAILED: "count has 0 terminal events", WORDS: "0 events"},
    ),
    "two failures": (
        each("failed", lambda e: [e, e]),
        {FAILED: "count has 2 terminal events", WORDS: "2 events"},
    ),
    "an event after the failure": (
        each("failed", lambda e: [e, heard(e)]),
        {FAILED: r"count goes on after stage\.count\.failed"},
    ),
    "another end of a failure": (
        but("failed", type=lambda e: "stage.count.cancelled"),
        {FAILED: "count cancelled, and its run failed", WORDS: "0 events"},
    ),
    "no code": (but_data("failed", error_code=""), {FAILED: "has no error_code"}),
    "no message": (
        but_data("failed", error_message=""),
        {FAILED: "has no error_message", WORDS: "is shown the error"},
    ),
    "a negative duration of a failure": (
        but_data("failed", duration_ms=-1.0),
        {FAILED: r"failed has the duration .*-1\.0"},
    ),
    "no sentence for the user": (
        but_data("failed", user_message="Sorry"),
        {WORDS: "the user is shown no sentence: 'Sorry'"},
    ),
    "the error for the user": (
        but_data("failed", user_message="Sorry: {error_message}."),
        {WORDS: "the user is shown the error: .Sorry: "},
    ),
}


def plant(monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    """Have each context show other events than there are."""
    shown = PipelineContext.get_events
    monkeypatch.setattr(PipelineContext, "get_events", lambda self: bug(shown(self)))


def red(made: StageContractTest, *names: str) -> dict[str, str]:
    """The tests that fail, and what they say."""
    said = {}
    for name in names:
        try:
            getattr(made, name)()
        except AssertionError as error:
            said[name] = str(error)
    return said


@both_loops
@pytest.mark.parametrize("sort", BUGS)
def test_a_bug_turns_exactly_its_tests_red(
    sort: str, real_io: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is wrong; the others are as without the bug."""
    bug, expected = BUGS[sort]
    plant(monkeypatch, bug)
    made = contract(declared(counted), real_io=real_io)
    said = red(made, STARTED, COMPLETED, FAILED, WORDS, CANNOT_FAIL)
    assert said.keys() == expected.keys()
    assert all(re.search(expected[name], said[name]) for name in said), said


def test_a_clock_that_is_ahead_is_found_in_simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real loop, time passes between the start of the run and that of the stage."""
    plant(monkeypatch, but("started", timestamp=lambda e: e.timestamp + SECOND))
    assert red(contract(declared(counted)), STARTED).keys() == {STARTED}
    assert red(contract(declared(counted), real_io=True), STARTED) == {}


async def raises(ctx: StageContext) -> StageOutput:
    raise ValueError("broken")


async def fails_in_words(ctx: StageContext) -> StageOutput:
    return StageOutput.fail("broken")


@both_loops
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("runner", [raises, fails_in_words])
def test_a_false_promise_not_to_fail_is_found(runner: Any, required: bool, real_io: bool) -> None:
    """Whether the failure ends the run or not; nothing else is asked of such a stage's failure."""
    made = contract(declared(runner, required=required), cannot_fail="so I say", real_io=real_io)
    said = red(made, FAILED, WORDS, CANNOT_FAIL)
    assert said.keys() == {CANNOT_FAIL}
    assert "count failed after all" in said[CANNOT_FAIL]


@both_loops
def test_an_optional_stage_fails_as_any_other(real_io: bool) -> None:
    """Its failure does not fail the run."""
    made = contract(declared(counted, required=False), real_io=real_io)
    for name in sorted(names_of_tests(StageContractTest)):
        getattr(made, name)()
