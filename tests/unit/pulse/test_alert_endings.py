"""How an alert on a regression ends: only a value that came down is back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from stageflow.pulse import PulseError
from stageflow.pulse.alerts import AlertState, Links
from stageflow.pulse.alerts.notice import Message
from stageflow.pulse.alerts.regressions import HistoryWatch
from tests.utils.alert_cases import our_alerts
from tests.utils.histories import History

LINKS = Links("https://example.org/pulse/", "https://example.org/runbook.md")
NAME, OTHER = "counted.Operation.track_a", "counted.Operation.track_b"


def level(number: int) -> float:
    """A series that rises by half at commit 12."""
    return 150.0 if number >= 12 else 100.0


def flat(_: int) -> float:
    """A series that stays as it is."""
    return 100.0


def look(history: History, lines: list[str] | None = None) -> Message | None:
    """Evaluate the history as it is."""
    rule = our_alerts().benchmark
    assert rule is not None
    emit = (lines if lines is not None else []).append
    with AlertState(history.project.root / "state.db") as state:
        return HistoryWatch(rule, LINKS, history.project, state, ["slack"], emit).evaluate(1.8e9)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A repository of 16 commits with a regression at number 12 that was reported."""
    made = History(tmp_path)
    made.commit(16)
    made.measure({NAME: level, OTHER: flat}, *range(14))
    assert look(made) is not None
    return made


def renamed(history: History) -> None:
    """The series has another name."""
    history.measure({"counted.Operation.track_c": level, OTHER: flat}, 14)


def new_version(history: History) -> None:
    """The benchmark has a new version, measured on the newest commit."""
    history.measure({NAME: level, OTHER: flat}, 14, version="2")


def new_version_is_fast(history: History) -> None:
    """Its values cannot be compared with those of the old version."""
    history.measure({NAME: flat, OTHER: flat}, 14, 15, version="2")


def elsewhere(history: History) -> None:
    """The newest commit was measured on another machine."""
    history.measure({NAME: flat, OTHER: flat}, 14, machine="laptop")


def all_elsewhere(history: History) -> None:
    """Another machine measured all commits, and finds them equally fast."""
    history.measure({NAME: flat, OTHER: flat}, *range(15), machine="laptop")


def accepted(history: History) -> None:
    """The regression was accepted."""
    (history.project.benchmarks_dir / "accepted.toml").write_text(
        f'version = 1\n[[accepted]]\nbenchmark = "{NAME}"\nup_to = 1.6\n'
        'reason = "checks more"\nuntil = 2030-01-01\nowner = "engine"\n'
    )


def not_a_number(history: History) -> None:
    """All commits from the regression on have no value."""
    history.measure({NAME: lambda n: math.nan if n >= 12 else 100.0, OTHER: flat}, *range(15))


def removed(history: History) -> None:
    """The results were deleted."""
    for number in range(14):
        history.path_of(number).unlink()


def rewritten(history: History) -> None:
    """The branch goes on from before the regression."""
    history.rewrite(10)
    history.measure({NAME: flat, OTHER: flat}, *range(15))


ENDINGS: list[tuple[Callable[[History], None], str]] = [
    (renamed, f"{NAME} is not measured any more"),
    (new_version, f"{NAME} has no values on both sides of it"),
    (new_version_is_fast, f"{NAME} has no values on both sides of it"),
    (elsewhere, f"{NAME} was measured on another machine"),
    (all_elsewhere, f"{NAME} was measured on another machine"),
    (accepted, f"{NAME} is accepted until 2030-01-01"),
    (not_a_number, f"{NAME} has no values on both sides of it"),
    (removed, f"{NAME} is not measured any more"),
    (rewritten, "its commits are not in the history any more"),
]


@pytest.mark.parametrize(("change", "cause"), ENDINGS)
def test_an_end_without_a_lower_value_says_what_happened(
    history: History, change: Callable[[History], None], cause: str
) -> None:
    """It is closed with its cause, once, and not called back."""
    change(history)
    message = look(history)
    assert message is not None
    assert message.title == "CLOSED 1: BenchmarkRegressed"
    (notice,) = message.notices
    assert cause in notice.what
    assert "back" not in notice.what
    assert look(history) is None


def test_a_regression_on_a_rewritten_branch_stays_the_same(history: History) -> None:
    """Other commits with the same slow series are not reported again."""
    history.rewrite(10)
    history.measure({NAME: level, OTHER: flat}, *range(16))
    assert look(history) is None


def test_a_renamed_series_that_is_as_slow_stays_the_same(history: History) -> None:
    """It is measured under its new name at the same commits."""
    history.measure({"counted.Operation.track_c": level, OTHER: flat}, *range(15))
    assert look(history) is None


def test_one_measured_again_is_back(history: History) -> None:
    """A single commit whose value was wrong is measured again."""
    history.measure({NAME: flat, OTHER: flat}, 12, 13)
    message = look(history)
    assert message is not None
    assert message.title == "RESOLVED 1: BenchmarkRegressed"


def test_a_half_written_file_is_left_out_and_closes_nothing(history: History) -> None:
    """Where asv is writing, the file is named and stays; the alert waits for the whole file."""
    whole = {number: history.path_of(number).read_text() for number in (12, 13)}
    for number, text in whole.items():
        history.path_of(number).write_text(text[: len(text) // 2])
    lines: list[str] = []
    assert look(history, lines) is None
    assert len(lines) == 2
    assert all(line.startswith("Left out .asv/results/machine/") for line in lines)
    for number, text in whole.items():
        assert history.path_of(number).read_text() == text[: len(text) // 2]
        history.path_of(number).write_text(text)
    assert look(history) is None


def test_a_half_written_list_of_benchmarks_is_an_error(history: History) -> None:
    """Without it nothing is judged: the look fails, and nothing is closed."""
    path = history.project.results_dir / "benchmarks.json"
    text = path.read_text()
    path.write_text(text[:40])
    with pytest.raises(PulseError, match=r"benchmarks\.json cannot be used"):
        look(history)
    path.write_text(text)
    assert look(history) is None
