"""The series of each commit: names of series, their signals, and numbers of samples."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from stageflow.errors.base import did_you_mean
from stageflow.pulse.errors import PulseError, TooFewSamplesError

TIMED_UNIT = "ns"


class Signal(StrEnum):
    """The signal by which a series is judged."""

    EXACT = "exact"  # virtual time, numbers of tasks, events, timers: any increase fails
    COUNTED = "counted"  # instructions, bytes, modules: an increase beyond a limit fails
    TIMED = "timed"  # two commits in turn: only a certain and confirmed increase fails
    HISTORY = "history"  # drawn by asv, never compared here; may have a budget


def signal_of(series: str) -> Signal:
    """Return the signal of a series or a benchmark, which follows from its name."""
    if signal := _WAYS.get(series.partition("(")[0]):
        return signal
    area = series.partition(".")[0]
    return Signal(area) if area in (Signal.EXACT, Signal.COUNTED) else Signal.HISTORY


#: How a benchmark is measured apart from asv: the signal of such series as ``timed('NAME')``.
_WAYS = {"timed": Signal.TIMED, "instructions": Signal.COUNTED, "value": Signal.COUNTED}


def timed(operation: str, way: str = "timed") -> str:
    """Return the series of the paired timings of an operation, or of another way to measure it."""
    return f"{way}({operation!r})"


def is_apart(series: str) -> bool:
    """Return whether a series is counted or read apart from asv."""
    return series.partition("(")[0] in ("instructions", "value")


def operation_of(series: str) -> str:
    """Return the operation of which `series` holds the paired timings."""
    return str(ast.literal_eval(series.partition("(")[2][:-1]))


def benchmark_of(series: str) -> str:
    """Return the asv benchmark of a series: its name without the parameters."""
    return series.partition("(")[0]


def series_of(benchmark: str, params: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the series of an asv benchmark, in the order of its results."""
    for choice in itertools.product(*params):
        yield f"{benchmark}({', '.join(choice)})" if choice else benchmark


def selected_series(series: Iterable[str], pattern: str | None) -> list[str]:
    """Return those of `series` that a shell pattern matches, or that have it in their name."""
    if pattern is None:
        return list(series)
    return [name for name in series if pattern in name or matches_series(name, pattern)]


def matches_series(series: str, pattern: str) -> bool:
    """Return whether a shell pattern matches a series; brackets mean themselves."""
    return fnmatchcase(series, pattern.replace("[", "[[]"))


def resolve_series(part: str, known: Iterable[str]) -> str:
    """Return the one series that is called `part`, or has it in its name; or raise `PulseError`."""
    names = list(known)
    if not part.strip():
        raise PulseError(f"no series is named; {_some(names, 3)}")
    found = [part] if part in names else [name for name in names if part in name]
    if not found:
        raise PulseError(f"no series has {part!r} in its name{did_you_mean(part, names)}")
    if len(found) > 1:
        raise PulseError(f"{part!r} is in the names of {len(found)} series, {_some(found, 10)}")
    return found[0]


def _some(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"name one of: {', '.join(names[:count])}{more}"


#: Least samples for a percentile that is more than a guess, by percentile.
LEAST = {50: 20, 95: 20, 99: 100}
CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Interval:
    """The median of some samples, and the interval of the true one at a `confidence`."""

    median: float
    low: float
    high: float
    confidence: float
    samples: int

    def __str__(self) -> str:
        return f"{self.confidence:.0%} interval {self.low:.3f} to {self.high:.3f}"


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the smallest sample that at least `percent` per cent of the samples do not exceed."""
    if len(samples) < LEAST[percent]:
        raise TooFewSamplesError(
            f"a P{percent} needs at least {LEAST[percent]} samples, and there are {len(samples)}"
        )
    return sorted(samples)[math.ceil(percent * len(samples) / 100) - 1]


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the median of `samples` with its sign-test interval, valid for any distribution.

    Each sample lies below the true median with probability one half, so the number of those that
    do is binomial; the ends are the innermost pair of order statistics of that confidence.
    """
    n = len(samples)
    ordered = sorted(samples)
    tail, within = 0, 0
    while within < n // 2:
        tail += math.comb(n, within)
        if 1 - 2 * tail / 2**n < confidence:
            break
        within += 1
    if not within:
        raise TooFewSamplesError(f"an interval of {confidence:.0%} cannot be had from {n} samples")
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Interval(middle, ordered[within - 1], ordered[n - within], confidence, n)


def ratio_of(base: float, head: float) -> float:
    """Return head to base; from 0 (or less, as memory given back is) to more it is infinite."""
    if base == head:
        return 1.0
    if base > 0:
        return head / base
    return math.inf if head > base else 0.0


def rounded(value: float | None) -> float | None:
    """Return a value with six digits."""
    return None if value is None else float(f"{value:.6g}")


_TIME = {"ns": 1e9, "µs": 1e6, "us": 1e6, "ms": 1e3, "s": 1.0, "seconds": 1.0}
_SIZE = {"B": 1e6, "bytes": 1e6, "kB": 1e3, "MB": 1.0}


def unit_factor(unit: str, wanted: str) -> float:
    """Return what converts a number of `unit` to `wanted`; raise `ValueError` if nothing does."""
    if unit == wanted:
        return 1.0
    for family in (_TIME, _SIZE):
        if unit in family and wanted in family:
            return family[wanted] / family[unit]
    raise ValueError(f"{unit!r} cannot be converted to {wanted!r}")


def fitting_units(unit: str) -> list[str]:
    """Return all units that `unit` can be converted to, itself included."""
    return next((list(family) for family in (_TIME, _SIZE) if unit in family), [unit])
