"""What asv has measured of the branch's commits, as one value a series and commit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stageflow.pulse.errors import TooFewSamplesError
from stageflow.pulse.gate.samples import percentile
from stageflow.pulse.gate.series import series_of
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import read_benchmarks, read_results, rows_of

PERCENTS = (50, 95, 99)
_RECORD, _FIELD = "\x1e", "\x1f"


@dataclass(frozen=True, slots=True)
class Commit:
    """A measured commit.

    Attributes:
        hash: Its full hash.
        at_s: When it was committed, in seconds since the epoch.
        subject: The first line of its message.
    """

    hash: str
    at_s: int
    subject: str


@dataclass(slots=True)
class Series:
    """One series over all measured commits.

    Attributes:
        name: As the gate calls it.
        unit: Unit of its values.
        values: By number of the commit; None where it was not measured, was skipped or broke.
        percentiles: P50, P95 and P99 of the commits that have enough samples for all of them.
    """

    name: str
    unit: str
    values: list[float | None]
    percentiles: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def newest(self) -> int | None:
        """Number of the newest commit with a value."""
        there = (n for n in range(len(self.values) - 1, -1, -1) if self.values[n] is not None)
        return next(there, None)


@dataclass(frozen=True, slots=True)
class History:
    """The measured commits of a branch on one machine.

    Attributes:
        commits: In the order of the branch, oldest first.
        series: In the order of their names.
        machine: What they were measured on; empty if nothing was.
        elsewhere: How many other machines or environments have results, which are not here.
    """

    commits: tuple[Commit, ...] = ()
    series: tuple[Series, ...] = ()
    machine: str = ""
    elsewhere: int = 0

    def named(self, name: str) -> Series | None:
        """The series of that name."""
        return next((series for series in self.series if series.name == name), None)


@dataclass(slots=True)
class _Place:
    """The results of one machine and environment, by the number of the commit on the branch."""

    machine: str
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def read_history(project: AsvProject) -> History:
    """Read the results of the machine that measured the newest commit.

    Series of two machines are no history of one. Values of another version of a benchmark are left
    out, as asv does.

    Raises:
        PulseError: git does not know the branch.
    """
    commits = tuple(_commits(project))
    number = {commit.hash: n for n, commit in enumerate(commits)}
    places: dict[tuple[str, str], _Place] = {}
    for result in read_results(project.results_dir):
        at = number.get(result["commit_hash"])
        if at is not None:
            params = result["params"]
            key = (str(params["machine"]), str(result["env_name"]))
            words = (params["machine"], params.get("cpu"), f"Python {result['python']}")
            place = places.setdefault(key, _Place(", ".join(str(w) for w in words if w)))
            place.rows[at].append(result)
    if not places:
        return History()
    chosen = max(places.values(), key=lambda place: (max(place.rows), len(place.rows)))
    measured = sorted(chosen.rows)
    found = _series(read_benchmarks(project.results_dir), [chosen.rows[at] for at in measured])
    return History(
        tuple(commits[at] for at in measured),
        tuple(sorted(found, key=lambda series: series.name)),
        chosen.machine,
        len(places) - 1,
    )


def _commits(project: AsvProject) -> Iterator[Commit]:
    """The commits of the branch, oldest first."""
    form = f"--format=%H{_FIELD}%ct{_FIELD}%s{_RECORD}"
    log = project.git("log", "--first-parent", "--reverse", form, project.branch, "--")
    for record in log.split(_RECORD)[:-1]:
        commit, at_s, subject = record.strip("\n").split(_FIELD)
        yield Commit(commit, int(at_s), subject)


def _series(
    benchmarks: Mapping[str, Mapping[str, Any]], results: Sequence[Sequence[Mapping[str, Any]]]
) -> list[Series]:
    found: dict[str, Series] = {}
    for at, same_commit in enumerate(results):
        for result in same_commit:
            for name, row in rows_of(result, benchmarks):
                for called, value, samples in values_of(name, row):
                    if called not in found:
                        unit, count = str(benchmarks[name].get("unit", "")), len(results)
                        found[called] = Series(called, unit, [None] * count)
                    _fill(found[called], at, value, samples)
    return [series for series in found.values() if series.newest is not None]


def values_of(
    name: str, row: Mapping[str, Any]
) -> Iterator[tuple[str, float | None, Sequence[float] | None]]:
    """For each series of a benchmark's row its name, its value, and its samples if there are."""
    names = list(series_of(name, row.get("params") or []))
    values = row.get("result") or [None] * len(names)
    samples = row.get("samples") or [None] * len(names)
    yield from zip(names, values, samples, strict=False)


def _fill(series: Series, at: int, value: float | None, samples: Sequence[float] | None) -> None:
    if value is None or not math.isfinite(value):
        return
    series.values[at] = value
    try:
        found = tuple(percentile(samples or (), percent) for percent in PERCENTS)
    except TooFewSamplesError:
        return
    series.percentiles[at] = found
