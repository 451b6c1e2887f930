"""The results of the branch's commits, as one value a series and commit."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from stageflow._utils.text import printable
from stageflow.pulse.errors import TooFewSamplesError
from stageflow.pulse.history.project import UNREADABLE, AsvProject, Emit
from stageflow.pulse.history.results import read_benchmarks, read_results, rows_of
from stageflow.pulse.history.series import TIMED_UNIT, percentile, series_of, timed

PERCENTS = (50, 95, 99)
#: Where the gate keeps what it measures apart from asv.
GATE_DIR = ".asv/gate"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its full hash, its time in seconds since the epoch, its subject, safe to show."""

    hash: str
    at_s: int
    subject: str


@dataclass(slots=True)
class Series:
    """One series over all measured commits, by number of the commit.

    `values` is None where it was not measured, was skipped or failed; `percentiles` has P50, P95
    and P99 where there are enough samples. `samples` counts those of the newest value.
    """

    name: str
    unit: str
    values: list[float | None]
    percentiles: dict[int, tuple[float, ...]] = field(default_factory=dict)
    samples: int | None = None

    @property
    def newest(self) -> int | None:
        """The number of the newest commit with a value."""
        there = (n for n in range(len(self.values) - 1, -1, -1) if self.values[n] is not None)
        return next(there, None)


@dataclass(frozen=True, slots=True)
class History:
    """The measured commits of a branch on one machine, oldest first, and their series by name.

    `elsewhere` counts the other machines or environments that have results.
    """

    commits: tuple[Commit, ...] = ()
    series: tuple[Series, ...] = ()
    machine: str = ""
    elsewhere: int = 0

    def named(self, name: str) -> Series | None:
        """The series of that name."""
        return next((series for series in self.series if series.name == name), None)


def read_history(project: AsvProject, emit: Emit | None = None) -> History:
    """Read the results of the machine that measured the newest commit.

    Values of another version of a benchmark are left out, as asv does. `emit` is as of
    `read_results`.
    """
    if not project.branch:
        return History()
    commits = tuple(commits_of(project))
    number = {commit.hash: n for n, commit in enumerate(commits)}
    # By machine and environment, and by number of the commit.
    places: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    for result in read_results(project.results_dir, emit):
        at = number.get(result["commit_hash"])
        if at is not None:
            key = (str(result["params"]["machine"]), str(result["env_name"]))
            places.setdefault(key, defaultdict(list))[at].append(result)
    if not places:
        return History()
    rows = max(places.values(), key=lambda rows: (max(rows), len(rows)))
    measured = sorted(rows)
    result = next(iter(rows.values()))[0]
    words = (result["params"]["machine"], result["params"].get("cpu"), f"Python {result['python']}")
    found = _series(read_benchmarks(project.results_dir), [rows[at] for at in measured])
    places_of = {commits[at].hash: place for place, at in enumerate(measured)}
    found += _paired(project, str(result["params"]["machine"]), places_of)
    found += [tail for series in found for tail in _tails(series)]
    return History(
        tuple(commits[at] for at in measured),
        tuple(sorted(found, key=lambda series: series.name)),
        ", ".join(str(word) for word in words if word),
        len(places) - 1,
    )


def commits_of(project: AsvProject) -> list[Commit]:
    """Return the commits of the branch, oldest first, as asv follows them: first parents only."""
    # Only NUL is in no message.
    form = "--format=%H%x00%ct%x00%s%x00"
    log = project.git("log", "--first-parent", "--reverse", form, project.branch_ref(), "--")
    parts = log.split("\0")
    records = zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    return [Commit(hash_.strip(), int(at_s), printable(text)) for hash_, at_s, text in records]


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
                    if value is not None and math.isfinite(value):
                        _fill(found[called], at, value, samples or ())
    return [series for series in found.values() if series.newest is not None]


def _fill(series: Series, at: int, value: float, samples: Sequence[float]) -> None:
    series.values[at], series.samples = value, len(samples) or None
    with suppress(TooFewSamplesError):
        if samples:
            series.percentiles[at] = tuple(percentile(samples, percent) for percent in PERCENTS)


def _paired(project: AsvProject, machine: str, number: Mapping[str, int]) -> Iterator[Series]:
    """Yield the timings in pairs of a machine by commit, which the gate stores apart from asv's."""
    found: dict[str, Series] = {}
    for path in sorted((project.root / GATE_DIR).glob("*-*.json")):
        with suppress(*UNREADABLE):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["machine"] == machine and (at := number.get(content["head"])) is not None:
                for operation, (_, head) in content["first"].items():
                    samples = [ns for block in head["blocks"] for ns in block["wall_ns"]]
                    name = timed(operation)
                    series = found.setdefault(name, Series(name, TIMED_UNIT, [None] * len(number)))
                    if samples and all(map(math.isfinite, samples)):
                        _fill(series, at, median(samples), samples)
    yield from found.values()


def _tails(series: Series) -> Iterator[Series]:
    for place, percent in enumerate(PERCENTS[1:] if series.percentiles else (), 1):
        tails = {at: found[place] for at, found in series.percentiles.items()}
        values = [tails.get(at) for at in range(len(series.values))]
        yield Series(f"{series.name} P{percent}", series.unit, values, samples=series.samples)


def values_of(
    name: str, row: Mapping[str, Any]
) -> Iterator[tuple[str, float | None, Sequence[float] | None]]:
    """Yield for each series of a benchmark's row its name, its value, and its samples if any."""
    names = list(series_of(name, row.get("params") or []))
    values = row.get("result") or [None] * len(names)
    samples = row.get("samples") or [None] * len(names)
    yield from zip(names, values, samples, strict=False)
