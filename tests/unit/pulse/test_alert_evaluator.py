"""The embedded evaluator: which alerts fire when, and each message is sent exactly once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.pulse.alerts import SETTLE_S, AlertState, Evaluator, Links, Rule
from stageflow.pulse.alerts.notice import Message, Notice
from stageflow.telemetry import TelemetryStore
from tests.utils.alert_cases import (
    CASES,
    CLOSED,
    FIRING,
    MINUTE_S,
    RESOLVED,
    Case,
    Stretch,
    our_alerts,
    record,
    rule_of,
)
from tests.utils.errors import raises_code
from tests.utils.telemetry import NOON_S

LINKS = Links("https://example.org/pulse/", "https://example.org/runbook.md")


def messages_of(
    rules: Iterable[Rule], folder: Path, minutes: Iterable[int], *, reopen: bool = False
) -> list[tuple[int, Message]]:
    """Return the messages of an evaluator that is called at the end of each of these minutes.

    Args:
        rules: The rules.
        folder: Holds the telemetry, and what is remembered.
        minutes: When it is called; before that it has looked at the minute before the case.
        reopen: Whether each call is made by a new evaluator, as if the process had ended.
    """
    told = []
    with TelemetryStore(folder / "runs.db") as store:
        state = AlertState(folder / "state.db")
        # As if it had run before.
        source = store.where
        if state.until(source) is None:
            state.keep(source, NOON_S - MINUTE_S, ())
        for minute in minutes:
            if reopen:
                state.close()
                state = AlertState(folder / "state.db")
            evaluator = Evaluator(tuple(rules), LINKS, store, state, ("slack",))
            message = evaluator.evaluate(NOON_S + minute * MINUTE_S + SETTLE_S)
            if message is not None:
                told.append((minute, message))
        state.close()
    return told


def notices_of(told: list[tuple[int, Message]]) -> list[tuple[int, Notice]]:
    """Return each notice, and its time."""
    return [(minute, notice) for minute, message in told for notice in message.notices]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_case_alerts_as_the_table_says(case: Case, tmp_path: Path) -> None:
    """Each rule: just under its limit, over it for less, for longer, resolved; all restarted."""
    record(case, tmp_path / "runs.db")
    told = messages_of([rule_of(case)], tmp_path, range(case.minutes + 1), reopen=True)
    assert [(minute, str(notice.status)) for minute, notice in notices_of(told)] == [*case.expected]


@pytest.mark.parametrize("case", [case for case in CASES if case.expected], ids=str)
def test_minutes_without_an_evaluator_are_made_up_for(case: Case, tmp_path: Path) -> None:
    """One look after all is over tells the same, with the same times, as one look a minute."""
    record(case, tmp_path / "runs.db")
    ((_, message),) = messages_of([rule_of(case)], tmp_path, [case.minutes])
    assert [str(notice.status) for notice in message.notices].count(FIRING) == (
        [state for _, state in case.expected].count(FIRING)
    )
    ends = {notice.until_s for notice in message.notices} - {None}
    assert ends == {NOON_S + at * MINUTE_S for at, state in case.expected if state != FIRING}


def case_named(text: str) -> Case:
    """The case of which that is the text."""
    return next(case for case in CASES if str(case) == text)


LASTING = "VoiceLatencyOverBudget: over it for longer, then resolved"


def test_first_look_knows_what_lasts(tmp_path: Path) -> None:
    """Without any memory one look finds what has been over its limit long enough by now."""
    case = Case("", "VoiceLatencyOverBudget", (Stretch(9, slow=9),), ())
    record(case, tmp_path / "runs.db")
    now_s = NOON_S + 9 * MINUTE_S + SETTLE_S
    with TelemetryStore(tmp_path / "runs.db") as store, AlertState(tmp_path / "new.db") as state:
        message = Evaluator([rule_of(case)], LINKS, store, state, ()).evaluate(now_s)
    assert message is not None
    assert message.title == "FIRING 1: VoiceLatencyOverBudget"


def test_notice_says_everything(tmp_path: Path) -> None:
    """Cause, value, limit, start, the likely stage, page and runbook."""
    record(case_named(LASTING), tmp_path / "runs.db")
    fires, over = notices_of(messages_of([rule_of(case_named(LASTING))], tmp_path, range(32)))
    notice = fires[1]
    assert notice.what == ("P99 latency of voice is 2,030 ms, limit 1,000 ms, for 5 min or longer")
    assert notice.lines == (
        "since 2026-01-01 12:04 UTC",
        "likely stage llm, P99 2,030 ms",
        "critical, owner kernels",
    )
    assert notice.page == "https://example.org/pulse/"
    assert notice.runbook == "https://example.org/runbook.md#live-latency"
    assert over[1].lines[0] == "since 2026-01-01 12:04 UTC, over at 2026-01-01 12:28 UTC"


@pytest.mark.parametrize(
    ("name", "what", "likely"),
    [
        (
            "ErrorRateHigh: over it for longer, then resolved",
            "1.67 % of the runs of voice failed in 1 min, limit 1 %, for 5 min or longer",
            "stage llm, provider_timeout",
        ),
        (
            "ErrorBudgetBurnsFast: burns fast, then no longer",
            "1.67 % of the runs of voice failed in 1 h, limit 1.44 %, and more than that in 5 min, "
            "too",
            "stage llm, provider_timeout",
        ),
        (
            "BreakerOpen: over it for longer, then resolved",
            "the circuit breaker of llm is open, for 5 min or longer",
            "stage llm, 5 failures in a row",
        ),
        (
            "DeadLettersWaiting: over it for longer, then resolved",
            "2 dead letters wait, limit 0, for 15 min or longer",
            "stage llm, provider_timeout",
        ),
        (
            "FirstAudioOverBudget: over it for longer, then resolved",
            "P99 time to first audio of streaming_voice is 894 ms, limit 500 ms, for 5 min or"
            " longer",
            "stage tts to sound, P99 678 ms; stage stt, P99 223 ms",
        ),
        (
            "NoData: runs stop for longer, then resolved",
            "no run has ended in 10 min, for 5 min or longer",
            "",
        ),
    ],
)
def test_each_kind_has_its_words(tmp_path: Path, name: str, what: str, likely: str) -> None:
    """Cause, value and limit, for each kind of rule."""
    case = case_named(name)
    record(case, tmp_path / "runs.db")
    told = notices_of(messages_of([rule_of(case)], tmp_path, range(case.minutes + 1)))
    assert (told[0][1].what, told[0][1].likely) == (what, likely)


def test_inhibited_alerts_wait(tmp_path: Path) -> None:
    """While the fast burn fires, the error rate sends nothing; afterwards it does, if it lasts."""
    # 5 % for 10 minutes, then 1.2 %: over the rate's limit, below that of the burn.
    case = Case("", "", (Stretch(12, runs=250, failed=13), Stretch(23, runs=250, failed=3)), ())
    record(case, tmp_path / "runs.db")
    rules = [r for r in our_alerts().rules if r.name in {"ErrorRateHigh", "ErrorBudgetBurnsFast"}]
    told = notices_of(messages_of(rules, tmp_path, range(36)))
    assert [(minute, notice.rule, str(notice.status)) for minute, notice in told] == [
        (1, "ErrorBudgetBurnsFast", FIRING),
        (32, "ErrorRateHigh", FIRING),
        (32, "ErrorBudgetBurnsFast", RESOLVED),
    ]


def test_inhibited_alerts_that_end_are_silent(tmp_path: Path) -> None:
    """No message reports the end of an alert whose start was not reported."""
    case = Case("", "", (Stretch(12, runs=250, failed=13), Stretch(23, runs=250)), ())
    record(case, tmp_path / "runs.db")
    rules = [r for r in our_alerts().rules if r.name in {"ErrorRateHigh", "ErrorBudgetBurnsFast"}]
    told = notices_of(messages_of(rules, tmp_path, range(36)))
    assert [(notice.rule, str(notice.status)) for _, notice in told] == [
        ("ErrorBudgetBurnsFast", FIRING),
        ("ErrorBudgetBurnsFast", RESOLVED),
    ]


def test_alerts_inhibit_those_of_their_pipeline_alone(tmp_path: Path) -> None:
    """An alert in one pipeline does not hide those of another one."""
    for stretch in (
        Stretch(8, runs=250, failed=13, pipeline="voice"),
        Stretch(8, runs=250, failed=3, pipeline="chat"),
    ):
        record(Case("", "", (stretch,), ()), tmp_path / "runs.db")
    rules = [r for r in our_alerts().rules if r.name in {"ErrorRateHigh", "ErrorBudgetBurnsFast"}]
    told = notices_of(messages_of(rules, tmp_path, range(9)))
    assert [(notice.rule, " of chat " in notice.what) for _, notice in told] == [
        ("ErrorBudgetBurnsFast", False),
        ("ErrorRateHigh", True),
    ]


def test_two_pipelines_are_two_alerts(tmp_path: Path) -> None:
    """Each failing pipeline is reported once, and both in one message."""
    both = ("voice", "chat")
    for pipeline in both:
        stretch = Stretch(7, failed=30, pipeline=pipeline)
        record(Case("", "", (stretch,), ()), tmp_path / "runs.db")
    rules = [rule for rule in our_alerts().rules if rule.name == "ErrorRateHigh"]
    ((minute, message),) = messages_of(rules, tmp_path, range(8))
    assert minute == 6
    assert [notice.what.split(" failed")[0] for notice in message.notices] == [
        f"25 % of the runs of {pipeline}" for pipeline in sorted(both)
    ]


def test_an_alert_whose_rule_has_gone_is_ended_with_a_notice(tmp_path: Path) -> None:
    """If its start was reported, a message says that nobody looks any more; others are silent."""
    for pipeline in ("voice", "chat"):
        stretch = Stretch(12, failed=30, pipeline=pipeline)
        record(Case("", "", (stretch,), ()), tmp_path / "runs.db")
    (rule,) = [rule for rule in our_alerts().rules if rule.name == "ErrorRateHigh"]
    messages_of([rule], tmp_path, [3])
    # While it is pending it may go without a word, and begins anew under another name.
    renamed = replace(rule, name="ErrorsTooMany")
    assert messages_of([renamed], tmp_path, [4]) == []
    assert len(messages_of([renamed], tmp_path, [11])) == 1
    ((minute, message),) = messages_of([], tmp_path, [12, 13])
    assert (minute, message.title) == (12, "CLOSED 2: ErrorsTooMany")
    for pipeline, notice in zip(("chat", "voice"), message.notices, strict=True):
        assert notice.until_s == NOON_S + 12 * MINUTE_S
        assert notice.what == (
            f"no rule of this name is left, so it is not judged any more (pipeline {pipeline})"
        )


def test_clock_that_went_back_is_reported(tmp_path: Path) -> None:
    """A state from the future would keep all alerts silent until then; it is an error."""
    record(case_named(LASTING), tmp_path / "runs.db")
    messages_of([rule_of(case_named(LASTING))], tmp_path, [15])
    with raises_code("pulse_alert_state", match="set this machine's clock"):
        messages_of([rule_of(case_named(LASTING))], tmp_path, [2])


def test_evaluators_do_not_meddle(tmp_path: Path) -> None:
    """Two files of telemetry may share one state."""
    case = Case("", "VoiceLatencyOverBudget", (Stretch(7, slow=9),), ())
    for name in ("a.db", "b.db"):
        record(case, tmp_path / name)
    with AlertState(tmp_path / "state.db") as state:
        for name in ("a.db", "b.db"):
            with TelemetryStore(tmp_path / name) as store:
                now_s = NOON_S + 7 * MINUTE_S + SETTLE_S
                assert Evaluator([rule_of(case)], LINKS, store, state, ()).evaluate(now_s)
        assert len(state.alerts(str(tmp_path / "a.db"))) == 1


def test_a_pending_alert_is_forgotten_while_nobody_evaluates(tmp_path: Path) -> None:
    """After three days without an evaluator, its minutes begin anew."""
    rule, days = our_alerts().rules[0], 3 * 24 * 60
    path = tmp_path / "runs.db"
    record(Case("", "", (Stretch(2, slow=9),), ()), path)
    assert messages_of([rule], tmp_path, [1, 2]) == []
    record(Case("", "", (Stretch(9, slow=9),), ()), path, NOON_S + days * MINUTE_S)
    told = messages_of([rule], tmp_path, range(days + 1, days + 10))
    assert [minute - days for minute, _ in told] == [6]


def test_a_moved_store_keeps_its_alerts(tmp_path: Path) -> None:
    """The same alert is not reported again, and none fires for ever."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    case = Case("", "", (Stretch(12, slow=9), Stretch(20)), ())
    record(case, old / "runs.db")
    rule = our_alerts().rules[0]
    assert len(messages_of([rule], old, [8])) == 1
    old.rename(new)
    with TelemetryStore(new / "runs.db") as store, AlertState(new / "state.db") as state:
        evaluator = Evaluator([rule], LINKS, store, state, ())
        assert evaluator.evaluate(NOON_S + 10 * MINUTE_S + SETTLE_S) is None
        message = evaluator.evaluate(NOON_S + 32 * MINUTE_S + SETTLE_S)
        assert message is not None
        assert message.title == "RESOLVED 1: VoiceLatencyOverBudget"
        assert state.alerts() == {}


def test_a_silenced_alert_is_reported_when_the_silence_ends(tmp_path: Path) -> None:
    """If it still fires then; what was over before is not reported at all."""
    record(Case("", "", (Stretch(20, slow=9), Stretch(20)), ()), tmp_path / "runs.db")
    silent = replace(our_alerts().rules[0], silent_until_s=NOON_S + 10 * MINUTE_S)
    told = notices_of(messages_of([silent], tmp_path, range(12)))
    assert [(minute, str(notice.status)) for minute, notice in told] == [(10, FIRING)]
    (tmp_path / "state.db").unlink()
    longer = replace(silent, silent_until_s=NOON_S + 25 * MINUTE_S)
    assert messages_of([longer], tmp_path, range(40)) == []


def test_a_breaker_of_a_process_that_died_is_not_called_closed(tmp_path: Path) -> None:
    """Six hours after its last change, the alert is closed with its cause."""
    record(Case("", "", (Stretch(1, breaker="open"),), ()), tmp_path / "runs.db")
    (rule,) = [rule for rule in our_alerts().rules if rule.name == "BreakerOpen"]
    told = notices_of(messages_of([rule], tmp_path, [9, 350, 400]))
    assert [(minute, str(notice.status)) for minute, notice in told] == [(9, FIRING), (400, CLOSED)]
    assert "its process may have died" in told[1][1].what


def test_the_evaluator_follows_a_store_that_was_replaced(tmp_path: Path) -> None:
    """As when the file was deleted while the evaluator goes on."""
    path, rule = tmp_path / "runs.db", our_alerts().rules[0]
    record(Case("", "", (Stretch(2),), ()), path)
    with TelemetryStore(path) as store, AlertState(tmp_path / "state.db") as state:
        evaluator = Evaluator([rule], LINKS, store, state, ())
        assert evaluator.evaluate(NOON_S + 2 * MINUTE_S + SETTLE_S) is None
        path.unlink()
        with raises_code("telemetry_file_failed"):
            evaluator.evaluate(NOON_S + 3 * MINUTE_S + SETTLE_S)
        record(Case("", "", (Stretch(12, slow=9),), ()), path)
        assert evaluator.evaluate(NOON_S + 12 * MINUTE_S + SETTLE_S) is not None
