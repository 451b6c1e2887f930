"""Change points of a series: where it went from one level to another, and which are still open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stageflow.pulse.gate.budgets import Limits
from stageflow.pulse.gate.judge import ratio_of
from stageflow.pulse.gate.series import Signal, signal_of

#: Levels of what scatters are searched among so many of the newest values: the search takes 0.2 s
#: for each series then, and grows faster than their number.
SEARCHED = 1000
#: A rise is open for so many measured commits; what nobody minded by then is history.
OPEN_FOR = 50
#: A level of what scatters has at least so many values; three slow ones in a row are chance.
LEAST = 5


@dataclass(frozen=True, slots=True)
class Step:
    """A change of level.

    Attributes:
        at: Number of the first commit of the new level.
        before, after: The levels.
    """

    at: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """The new level as a multiple of the old one."""
        return ratio_of(self.before, self.after)


def steps_of(name: str, values: Sequence[float | None], limits: Limits) -> list[Step]:
    """Find the change points of a series.

    What does not scatter changes its level wherever a value leaves it, by more than the gate warns
    of; so a slow creep is a step as well, once it has summed up. For what scatters, asv's own
    detection divides the newest values into levels.

    Args:
        name: The series; it says whether its values scatter.
        values: By commit; None where there is none.
        limits: From which ratio on a change is one.
    """
    there = [(at, value) for at, value in enumerate(values) if value is not None]
    signal = signal_of(name)
    if signal is Signal.EXACT:
        return list(_plain(there, 1.0))
    if signal is Signal.COUNTED:
        return list(_plain(there, limits.counted_warn))
    return list(_scattering(there[-SEARCHED:], limits.timed_warn))


def open_rise(
    name: str, values: Sequence[float | None], steps: Sequence[Step], limits: Limits
) -> Step | None:
    """The latest rise that the gate would fail and that the newest value has not taken back.

    Args:
        name: The series.
        values: By commit.
        steps: Its change points.
        limits: From which ratio on the gate fails.
    """
    there = [at for at, value in enumerate(values) if value is not None]
    if len(there) < 2:
        return None
    signal, oldest = signal_of(name), there[-OPEN_FOR:][0]
    fail = {Signal.EXACT: 1.0, Signal.COUNTED: limits.counted_fail}.get(signal, limits.timed_fail)
    scatters = signal not in (Signal.EXACT, Signal.COUNTED)
    newest = steps[-1].after if scatters and steps else values[there[-1]]
    for step in reversed(steps):
        lasting = Step(step.at, step.before, newest if newest is not None else step.after)
        if step.at > oldest and step.ratio > fail and lasting.ratio > fail:
            return lasting
    return None


def _plain(there: Sequence[tuple[int, float]], limit: float) -> Iterator[Step]:
    level: float | None = None
    for at, value in there:
        if level is None:
            level = value
        elif _differ(level, value, limit):
            yield Step(at, level, value)
            level = value


def _scattering(there: Sequence[tuple[int, float]], limit: float) -> Iterator[Step]:
    # An extra, which the help and live telemetry do without.
    from asv.step_detect import detect_steps  # type: ignore[import-untyped]  # noqa: PLC0415

    level: float | None = None
    for first, end, value, *_ in detect_steps([value for _, value in there]):
        if end - first < LEAST:
            continue
        if level is not None and _differ(level, value, limit):
            yield Step(there[first][0], level, value)
        level = value


def _differ(before: float, after: float, limit: float) -> bool:
    return ratio_of(before, after) > limit or ratio_of(after, before) > limit
