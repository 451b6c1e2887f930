"""Regressions of benchmarks: which step is found how soon, and who is notified, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.pulse.alerts import AlertState, Links
from stageflow.pulse.alerts.notice import Message
from stageflow.pulse.alerts.regressions import HistoryWatch
from stageflow.pulse.alerts.rules import BenchmarkRule
from stageflow.pulse.history import OPEN_FOR, Step, steps_of
from tests.utils.alert_cases import ROOT, our_alerts
from tests.utils.histories import History, values

COMMITS, STEP_AT, HISTORIES = 200, 100, 100
FOUND_WITHIN = 20
LINKS = Links("https://example.org/pulse/", "https://example.org/runbook.md")


def rule() -> BenchmarkRule:
    """The rule of this repository."""
    found = our_alerts().benchmark
    assert found is not None
    return found


def found_in(series: Sequence[float], *, timed: bool) -> tuple[Step, ...]:
    """The steps up that our rule finds."""
    limit = rule().timed_limit if timed else rule().counted_limit
    steps = steps_of(series, limit, timed=timed, window=rule().window_commits)
    return tuple(step for step in steps if step.ratio > limit)


@dataclass(frozen=True)
class Trial:
    """How often a step was found, how soon, and how often one where there is none.

    Attributes:
        hits: Of 100 histories, in how many it was found within 20 commits.
        delay: After how many commits that were measured with it, in the median.
        alarms: In 100 histories of identical code, how many steps_of were found.
    """

    hits: int
    delay: float | None
    alarms: int


def trial(noise: float, step: float, *, timed: bool) -> Trial:
    """Try 100 seeded histories of 200 commits with a step in the middle, and 100 without."""
    delays = []
    for seed in range(HISTORIES):
        history = values(seed, COMMITS, noise, step, STEP_AT)
        near = [
            found
            for found in found_in(history, timed=timed)
            if STEP_AT <= found.found < STEP_AT + FOUND_WITHIN
        ]
        delays += [near[0].found - STEP_AT + 1] if near else []
    alarms = sum(
        len(found_in(values(seed, COMMITS, noise), timed=timed))
        for seed in range(HISTORIES, 2 * HISTORIES)
    )
    return Trial(len(delays), median(delays) if delays else None, alarms)


#: Kind, noise, step; least hits, most delay, most alarms.
TRIALS = [
    ("counted", 0.003, 1.25, Trial(100, 1, 0)),
    ("counted", 0.003, 1.20, Trial(95, 1, 0)),
    ("counted", 0.003, 1.10, Trial(0, None, 0)),
    ("timed", 0.03, 1.20, Trial(95, 8, 0)),
    ("timed", 0.05, 1.20, Trial(90, 9, 0)),
    ("timed", 0.05, 1.30, Trial(100, 8, 0)),
    ("timed", 0.10, 1.30, Trial(90, 9, 10)),
    ("timed", 0.10, 1.50, Trial(100, 9, 10)),
]


@pytest.mark.parametrize(("kind", "noise", "step", "asked"), TRIALS)
def test_steps_are_found(kind: str, noise: float, step: float, asked: Trial) -> None:
    """A step above the rule is found soon, one below it is not; the document has the figures."""
    tried = trial(noise, step, timed=kind == "timed")
    assert tried.hits >= asked.hits
    assert tried.alarms <= asked.alarms
    assert (tried.delay is None) == (asked.delay is None) == (tried.hits == 0)
    if tried.delay is not None and asked.delay is not None:
        assert tried.delay <= asked.delay
    soon = "never" if tried.delay is None else f"{tried.delay:g}"
    figures = f"{tried.hits} % | {soon} | {tried.alarms / HISTORIES:g} |"
    row = f"| {kind} | {noise * 100:g} % | +{round(step * 100) - 100} % | {figures}"
    assert row in (ROOT / "docs/explanation/alerts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("outlier", [0.2, 5.0, 100.0])
def test_single_outlier_of_a_timing_is_silent(outlier: float) -> None:
    """One commit measured on a busy machine is not a step, however far off it is."""
    history = values(7, 60, 0.03)
    history[30] = outlier
    assert found_in(history, timed=True) == ()


def test_place_of_a_step_is_among_its_suspects() -> None:
    """The commit that brought a step of 30 % is named, and at most two beside it."""
    named = 0
    for seed in range(HISTORIES):
        (found,) = found_in(values(seed, 40, 0.05, 1.3, 20), timed=True)[:1]
        assert len(found.suspects) <= 3
        named += 20 in found.suspects
    assert named >= 95


def test_counts_alert_at_once_and_for_good() -> None:
    """The first count beyond the limit is a step; the same level later is none again."""
    (found,) = found_in([100.0] * 5 + [125.0] * 20, timed=False)
    assert (found.suspects, found.found, found.before, found.after) == (range(5, 6), 5, 100, 125)
    assert found.over is None


def test_something_of_nothing_is_a_step() -> None:
    """A count that was 0 has no ratio; any step of it counts."""
    (found,) = found_in([0.0, 0.0, 8.0], timed=False)
    assert found.ratio == float("inf")


@pytest.mark.parametrize("timed", [False, True])
def test_step_that_comes_back_is_over(timed: bool) -> None:
    """A level that is back ends it; the next step is another one."""
    low, high = [100.0] * 20, [150.0] * 20
    found = found_in(low + high + low + high, timed=timed)
    assert len(found) == 2
    assert found[0].over is not None
    assert 40 <= found[0].over < 50
    assert found[1].over is None


@given(st.lists(st.floats(0.0, 1e6), max_size=60), st.integers(0, 60), st.booleans())
def test_what_was_found_stays_found(series: list[float], cut: int, timed: bool) -> None:
    """Later commits never change where or when a step was found: nobody is notified again."""
    before = found_in(series[:cut], timed=timed)
    after = found_in(series, timed=timed)
    assert [replace(step, now=0, over=None) for step in after[: len(before)]] == [
        replace(step, now=0, over=None) for step in before
    ]
    assert all(step.found >= cut for step in after[len(before) :])


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A repository with 30 commits."""
    made = History(tmp_path)
    made.commit(30)
    return made


def look(history: History, now_s: float = 2e9) -> Message | None:
    """Evaluate the history as it is, with the messages that were sent before."""
    with AlertState(history.project.root / "state.db") as state:
        return HistoryWatch(rule(), LINKS, history.project, state, ["slack"]).evaluate(now_s)


def step(at: int, factor: float) -> Callable[[int], float]:
    """A series that steps_of by a factor at a commit."""
    return lambda number: 100.0 * (factor if number >= at else 1.0)


COUNTED = "counted.Operation.track_a"
OTHER = "counted.Operation.track_b"
TIMED = "runs.Run.time_chain"


def test_regression_is_reported_once_with_its_commits(history: History) -> None:
    """Cause, size, commits between, start; another evaluation sends nothing."""
    # Numbers 10 and 11 were not measured: either may be to blame, as may 12.
    history.measure({COUNTED: step(12, 1.5), OTHER: step(99, 1.0)}, *range(10), *range(12, 14))
    message = look(history)
    assert message is not None
    (notice,) = message.notices
    before, after = history.hashes[9][:10], history.hashes[12][:10]
    assert notice.what == (
        f"slower since {before}..{after}: {COUNTED} x 1.50; limit x 1.195 counted, 1.15 timed"
    )
    assert notice.likely.startswith("one of ")
    assert [f"Change number {n}" in notice.likely for n in (9, 10, 11, 12, 13)] == [
        *(False, True, True, True, False)
    ]
    assert notice.since_s == 1_700_000_000 + 60 * 12
    assert notice.runbook.endswith("#benchmark-regressed")
    assert look(history) is None
    history.measure({COUNTED: step(12, 1.5), OTHER: step(99, 1.0)}, *range(14, 20))
    assert look(history) is None


def test_series_of_one_range_are_one_alert(history: History) -> None:
    """Two counts that rose at one commit are reported together; a timing that follows is not."""
    series = {COUNTED: step(12, 1.5), OTHER: step(12, 1.3), TIMED: step(12, 1.6)}
    history.measure(series, *range(14))
    message = look(history)
    assert message is not None
    assert len(message.notices) == 1
    assert message.notices[0].what.count(" x 1.") == 2 + 1  # and the limit
    assert message.notices[0].likely.startswith("commit ")
    history.measure(series, *range(30))
    assert look(history) is None


def test_measuring_between_sends_nothing_anew(history: History) -> None:
    """A commit between that is measured later narrows the range of a reported regression."""
    series = {COUNTED: step(15, 1.5)}
    history.measure(series, *range(10), 20)
    assert look(history) is not None
    history.measure(series, 14, 15, 16)
    assert look(history) is None


def test_regression_that_is_fixed_is_reported(history: History) -> None:
    """When the level is back, that is reported once, too."""
    history.measure({COUNTED: lambda n: 150.0 if 10 <= n < 20 else 100.0}, *range(20))
    assert look(history) is not None
    history.measure({COUNTED: lambda n: 150.0 if 10 <= n < 20 else 100.0}, *range(20, 25))
    message = look(history)
    assert message is not None
    assert message.title == "RESOLVED 1: BenchmarkRegressed"
    assert "are back" in message.notices[0].what
    assert look(history) is None


def test_accepted_regressions_are_silent(history: History) -> None:
    """As long as the acceptance holds, and up to the ratio that it names."""
    history.measure({COUNTED: step(12, 1.5)}, *range(14))
    (history.project.benchmarks_dir / "accepted.toml").write_text(
        f'version = 1\n[[accepted]]\nbenchmark = "{COUNTED}"\nup_to = 1.6\n'
        'reason = "checks more"\nuntil = 2030-01-01\nowner = "engine"\n'
    )
    assert look(history, now_s=1.8e9) is None
    assert look(history, now_s=2.0e9) is not None


def test_old_regressions_are_history(tmp_path: Path) -> None:
    """A new evaluator does not report an old regression; one that was reported gets its end."""
    history = History(tmp_path)
    history.commit(OPEN_FOR + 20)
    series = {COUNTED: step(5, 1.5)}
    history.measure(series, *range(10))
    assert look(history) is not None
    history.measure(series, *range(OPEN_FOR + 20))
    assert look(history) is None
    (tmp_path / "state.db").unlink()
    assert look(history) is None
