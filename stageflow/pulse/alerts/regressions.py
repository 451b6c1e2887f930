"""Finds the commits at which a benchmark became slower for good, in the history of its values.

`stageflow.pulse.central.steps` divides a whole history into levels, anew each time; here a verdict
has to stand. Values are looked at one after another, as commits come, and what was found never
changes by what comes later. So an alert that was sent stands, and none is sent anew for it.

What is counted does not scatter, and is believed at once. What is timed is believed when the median
of the last few values stands above that of as many before: one outlier never moves a median, and
noise seldom moves two apart. tests/unit/test_alert_regressions.py shows how soon a rise is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

from stageflow.pulse.gate.judge import ratio_of


class Policy(Protocol):
    """What decides; `stageflow.pulse.alerts.rules.BenchmarkRule` is one."""

    @property
    def counted_limit(self) -> float:
        """Ratio beyond which what does not scatter has regressed."""

    @property
    def timed_limit(self) -> float:
        """The same for what is timed."""

    @property
    def window_commits(self) -> int:
        """Of how many values the medians are."""


@dataclass(frozen=True, slots=True)
class Rise:
    """A rise that stayed.

    Attributes:
        suspects: Positions of the values that may be the first after it, counted from 0.
        found: Position of the value at which it was certain.
        before: The level before it.
        after: The level after it, as it was when it was found.
        over: Position of the value at which the level was back; None while it is not.
    """

    suspects: range
    found: int
    before: float
    after: float
    over: int | None = None

    @property
    def ratio(self) -> float:
        """How much more it has become; infinite where something came of nothing."""
        return ratio_of(self.before, self.after)


def rises(values: Sequence[float], policy: Policy, *, timed: bool) -> tuple[Rise, ...]:
    """All rises in the history of one series, in order.

    Args:
        values: Its values, oldest first, without gaps.
        policy: What decides.
        timed: Whether the values scatter.
    """
    find = _timed_rise if timed else _counted_rise
    found: list[Rise] = []
    begin = 0
    for now in range(len(values)):
        found = [_looked_at(rise, values, now, policy, timed=timed) for rise in found]
        rise = find(values, begin, now, policy)
        if rise is not None:
            found.append(rise)
            # What comes next is measured by the new level.
            begin = rise.suspects[-1]
    return tuple(found)


def _counted_rise(values: Sequence[float], begin: int, now: int, policy: Policy) -> Rise | None:
    before = values[max(begin, now - policy.window_commits) : now]
    if not before or ratio_of(median(before), values[now]) <= policy.counted_limit:
        return None
    return Rise(range(now, now + 1), now, median(before), values[now])


def _timed_rise(values: Sequence[float], begin: int, now: int, policy: Policy) -> Rise | None:
    window = policy.window_commits
    first, last = now + 1 - 2 * window, now + 1
    if first < begin:
        return None
    before, after = values[first : first + window], values[first + window : last]
    # Noise of ten per cent moves medians apart, but seldom all but a few of the values.
    few = window // 8
    apart = sorted(after)[few] > sorted(before)[-1 - few]
    if not apart or ratio_of(median(before), median(after)) <= policy.timed_limit:
        return None
    at = _place(values, first, last)
    return Rise(range(at - 1, at + 2), now, median(values[first:at]), median(values[at:last]))


def _place(values: Sequence[float], first: int, last: int) -> int:
    """Where a rise is most likely: where two levels fit the values between with least deviation."""

    def deviation(part: Sequence[float]) -> float:
        level = median(part)
        return sum(abs(value - level) for value in part)

    places = range(first + 2, last - 1)
    return min(places, key=lambda at: deviation(values[first:at]) + deviation(values[at:last]))


def _looked_at(
    rise: Rise, values: Sequence[float], now: int, policy: Policy, *, timed: bool
) -> Rise:
    """The rise; over, if the level has come back by more than half of what made it one."""
    if rise.over is not None:
        return rise
    window = policy.window_commits if timed else 1
    limit = policy.timed_limit if timed else policy.counted_limit
    level = median(values[max(rise.suspects[-1], now + 1 - window) : now + 1])
    back = ratio_of(rise.before, level) <= 1 + (limit - 1) / 2
    return replace(rise, over=now) if back else rise
