"""Finds the commit in which a series rose, by measuring it alone on as few commits as it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stageflow.pulse.errors import PulseError, WorkerFailedError
from stageflow.pulse.gate import pairs
from stageflow.pulse.gate.catalogue import discover
from stageflow.pulse.gate.series import Signal, resolve, signal_of, work_of
from stageflow.pulse.gate.setting import Emit, resolved
from stageflow.pulse.gate.trees import tree
from stageflow.pulse.gate.worker import Worker
from stageflow.pulse.project import AsvProject

#: A rise of a timed series by less than this is not looked for: it could be the machine's.
LEAST_TIMED_RISE = 1.05


@dataclass(frozen=True, slots=True)
class Found:
    """Where a series rose.

    Attributes:
        series: The series.
        unit: Its unit; of a timed one, its cost beside that of the first commit.
        commits: The commits that are left, oldest first: one, unless those beside it cannot be
            measured.
        before, after: The values before them, and with the last of them.
        measured: How many commits were measured.
    """

    series: str
    unit: str
    commits: tuple[str, ...]
    before: float
    after: float
    measured: int


def bisect(
    project: AsvProject, part: str, base: str | None, head: str, emit: Emit = print
) -> Found:
    """Find the first commit after `base` in which a series is nearer to its value at `head`.

    Args:
        project: The repository.
        part: The series, or a part of its name that no other has.
        base: Revision before the rise; None takes the branch in asv.conf.json.
        head: Revision after it.
        emit: Is told the progress.

    Raises:
        PulseError: The series is not known, or cannot be measured, or did not rise in between.
    """
    found = discover(project.benchmarks_dir, project.root)
    series = resolve(part, [name for name in found.units if signal_of(name) is not Signal.HISTORY])
    first, last = resolved(project, base or project.branch), resolved(project, head)
    between = _between(project, first, last)
    timed = signal_of(series) is Signal.TIMED
    unit = "times the base" if timed else found.units[series]
    cost = _timed(project, series, first) if timed else _measured(project, series)
    search = _Search(project, series, unit, cost, emit)
    return search.between([first, *between])


def _between(project: AsvProject, base: str, head: str) -> list[str]:
    """The commits after the base up to the head, oldest first."""
    listed = project.git("rev-list", "--first-parent", "--reverse", f"{base}..{head}").split()
    if not listed:
        raise PulseError(
            f"no commit lies between {base[:10]} and {head[:10]}: name a base from before the rise "
            "with --base, such as HEAD~20"
        )
    return listed


#: The value of a series on a commit, or why it has none there.
Cost = Callable[[str], float | str]


def _measured(project: AsvProject, series: str) -> Cost:
    def cost(commit: str) -> float | str:
        with (
            tree(project, commit, project.package) as files,
            Worker(project.benchmarks_dir, files) as at,
        ):
            answer = at.measure([series])[series]
        if "value" in answer:
            return float(answer["value"])
        return str(answer.get("error") or f"lacks {', '.join(answer['missing'])}")

    return cost


def _timed(project: AsvProject, series: str, base: str) -> Cost:
    work, package = work_of(series), project.package

    def cost(commit: str) -> float | str:
        if commit == base:
            return 1.0
        with tree(project, base, package) as before, tree(project, commit, package) as after:
            both = pairs.measure(project.benchmarks_dir, (before, after), [work], lambda _: None)
        timing = pairs.timing(both[work])
        if timing.cpu is not None:
            return timing.cpu.median
        return timing.head.error or timing.base.error or f"lacks {', '.join(timing.head.missing)}"

    return cost


class _Search:
    """Halves a row of commits until one is left, around those that cannot be measured."""

    def __init__(self, project: AsvProject, series: str, unit: str, cost: Cost, emit: Emit) -> None:
        self._project = project
        self._series = series
        self._unit = unit
        self._cost = cost
        self._emit = emit
        self._values: dict[str, float | str] = {}

    def between(self, row: Sequence[str]) -> Found:
        """Search a row, the oldest first, whose first and last commit lie on either side."""
        before, after = (self._end(commit) for commit in (row[0], row[-1]))
        least = LEAST_TIMED_RISE if signal_of(self._series) is Signal.TIMED else 1.0
        if after <= before * least:
            raise PulseError(
                f"{self._series} did not rise between {row[0][:10]} ({before:g} {self._unit}) and "
                f"{row[-1][:10]} ({after:g}): name other ends with --base and --head"
            )
        middle = math.sqrt(before * after) if before > 0 else (before + after) / 2
        low, high = 0, len(row) - 1
        while (at := self._try_within(row, low, high)) is not None:
            low, high = (low, at) if self._end(row[at]) > middle else (at, high)
        commits = tuple(row[low + 1 : high + 1])
        before, after = self._end(row[low]), self._end(row[high])
        return Found(self._series, self._unit, commits, before, after, len(self._values))

    def _try_within(self, row: Sequence[str], low: int, high: int) -> int | None:
        """Measure the commit nearest to the middle that can be; None if none between can."""
        middle = (low + high) / 2
        for at in sorted(range(low + 1, high), key=lambda at: abs(at - middle)):
            if row[at] not in self._values:
                self._emit(f"{high - low} commits left")
            if isinstance(self._value(row[at]), float):
                return at
        return None

    def _end(self, commit: str) -> float:
        value = self._value(commit)
        if isinstance(value, str):
            raise PulseError(f"{self._series} cannot be measured on {commit[:10]}: {value}")
        return value

    def _value(self, commit: str) -> float | str:
        if commit not in self._values:
            subject = self._project.git("show", "--no-patch", "--format=%h %s", commit).strip()
            try:
                self._values[commit] = self._cost(commit)
            except WorkerFailedError as error:
                self._values[commit] = str(error).splitlines()[-1]
            value = self._values[commit]
            shown = f"{value:g} {self._unit}" if isinstance(value, float) else f"skipped: {value}"
            self._emit(f"  {subject}: {shown}")
        return self._values[commit]


def told(project: AsvProject, found: Found) -> list[str]:
    """What was found, in lines for a person."""
    ratio = f", {found.after / found.before:.3f} times" if found.before > 0 else ""
    lines = [
        f"{found.series} rose from {found.before:g} to {found.after:g} {found.unit}{ratio}, "
        f"by {found.measured} commits measured, in"
    ]
    if len(found.commits) > 1:
        lines[0] += " one of (those between cannot be measured)"
    shown = ("show", "--no-patch", "--no-walk", "--format=  %h %an %as %s")
    lines += [project.git(*shown, commit).rstrip() for commit in found.commits]
    return lines
