"""Find the commits at which a series changes its level.

The charts draw these steps, and regressions are judged by them. Later values never change a step
that was found, so an alert about it stays true. A value that does not scatter is compared with the
level before it, so a slow creep becomes a step once it has summed up. Timings are compared by the
medians of neighbouring windows, which outliers do not move and noise seldom moves apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from stageflow.pulse.history.series import Signal, ratio_of, signal_of

#: The levels of timings are medians of this many values unless a rule says otherwise.
WINDOW = 9
#: A step is open for this many measured commits; after that it is history.
OPEN_FOR = 50


@dataclass(frozen=True, slots=True)
class Step:
    """A change of level that stayed, by positions of values.

    `at` is the most likely first value of the new level, which is among the `suspects`; it was
    certain at `found`, and back at `over`. `now` is the newest level.
    """

    at: int
    suspects: range
    found: int
    before: float
    after: float
    now: float
    over: int | None = None

    @property
    def ratio(self) -> float:
        """The new level as a multiple of the old one; infinite if the old one was 0."""
        return ratio_of(self.before, self.after)


def scatters(name: str) -> bool:
    """Return whether two measurements of one commit differ in the series of that name."""
    return signal_of(name) not in (Signal.EXACT, Signal.COUNTED)


def steps_of(
    values: Sequence[float | None], limit: float, *, timed: bool, window: int = WINDOW
) -> tuple[Step, ...]:
    """Find the steps of one series, in both directions.

    Args:
        values: By commit, oldest first; None where it was not measured.
        limit: A level that differs by more than this ratio is another one.
        timed: Whether the values scatter.
        window: A level is the median of this many values.
    """
    measured = [at for at, value in enumerate(values) if value is not None]
    there = [value for value in values if value is not None]
    return tuple(_by_commit(step, measured) for step in _Search(there, limit, window, timed).run())


def open_step(values: Sequence[float | None], steps: Sequence[Step], fail: float) -> Step | None:
    """Return the latest increase beyond `fail`, younger than `OPEN_FOR` values, not taken back."""
    oldest = next(iter([at for at, value in enumerate(values) if value is not None][-OPEN_FOR:]), 0)
    for step in reversed(steps):
        lasting = ratio_of(step.before, step.now)
        if step.at > oldest and step.ratio > fail and lasting > fail:
            return step
    return None


@dataclass(frozen=True, slots=True)
class _Search:
    """Reads the values of one series, without gaps, one after another."""

    values: Sequence[float]
    limit: float
    window: int
    timed: bool

    def run(self) -> list[Step]:
        found: list[Step] = []
        find = self._timed_step if self.timed else self._counted_step
        begin = 0
        for now in range(len(self.values)):
            found = [self._followed(step, now) for step in found]
            step = find(begin, now)
            if step is not None:
                found.append(step)
                # The next values are compared with the new level.
                begin = step.suspects[-1]
        return found

    def _counted_step(self, begin: int, now: int) -> Step | None:
        # The level is that of its first values: the newest ones would follow a creep.
        level = self.values[begin : min(begin + self.window, now)]
        if not level or not self._differ(median(level), self.values[now]):
            return None
        value = self.values[now]
        return Step(now, range(now, now + 1), now, median(level), value, value)

    def _timed_step(self, begin: int, now: int) -> Step | None:
        window = self.window
        first, last = now + 1 - 2 * window, now + 1
        if first < begin:
            return None
        before = sorted(self.values[first : first + window])
        after = sorted(self.values[first + window : last])
        # Noise of ten per cent moves medians apart, but seldom all but a few of the values.
        few = window // 8
        apart = after[few] > before[-1 - few] or after[-1 - few] < before[few]
        if not apart or not self._differ(median(before), median(after)):
            return None
        at = self._place(first, last)
        level = median(self.values[at:last])
        return Step(at, range(at - 1, at + 2), now, median(self.values[first:at]), level, level)

    def _place(self, first: int, last: int) -> int:
        """Return where two levels fit the values with the least deviation."""

        def deviation(part: Sequence[float]) -> float:
            level = median(part)
            return sum(abs(value - level) for value in part)

        values, places = self.values, range(first + 2, last - 1)
        return min(places, key=lambda at: deviation(values[first:at]) + deviation(values[at:last]))

    def _followed(self, step: Step, now: int) -> Step:
        """Return the step with its newest level; over if more than half of it is taken back."""
        window = self.window if self.timed else 1
        level = median(self.values[max(step.suspects[-1], now + 1 - window) : now + 1])
        step = replace(step, now=level)
        margin = 1 + (self.limit - 1) / 2
        up = step.after > step.before
        ratio = ratio_of(step.before, level) if up else ratio_of(level, step.before)
        return replace(step, over=now) if step.over is None and ratio <= margin else step

    def _differ(self, before: float, after: float) -> bool:
        return ratio_of(before, after) > self.limit or ratio_of(after, before) > self.limit


def _by_commit(step: Step, measured: Sequence[int]) -> Step:
    """Return the step by positions in the history; unmeasured commits are suspects, too."""
    first, last = step.suspects[0], step.suspects[-1]
    return replace(
        step,
        at=measured[step.at],
        suspects=range(measured[first - 1] + 1, measured[last] + 1),
        found=measured[step.found],
        over=None if step.over is None else measured[step.over],
    )
