"""What is measured once a commit: how a series is called, and by which signal it is judged."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

from stageflow.errors.base import did_you_mean
from stageflow.pulse.errors import PulseError

TIMED_UNIT = "ns"
_TIMED = "timed("


class Signal(StrEnum):
    """What a series is judged by."""

    EXACT = "exact"  # virtual time, numbers of tasks, events, timers: any rise fails
    COUNTED = "counted"  # instructions, bytes, modules: a rise beyond a limit fails
    TIMED = "timed"  # two commits in turn: only a certain and confirmed rise fails
    HISTORY = "history"  # drawn by asv, never compared here; may have a budget


def signal_of(series: str) -> Signal:
    """The signal of a series or a benchmark follows from its name."""
    if series.startswith(_TIMED):
        return Signal.TIMED
    area = series.partition(".")[0]
    return Signal(area) if area in (Signal.EXACT, Signal.COUNTED) else Signal.HISTORY


def timed(work: str) -> str:
    """The series of the paired timings of a work."""
    return f"{_TIMED}{work!r})"


def work_of(series: str) -> str:
    """The work of which `series` holds the paired timings."""
    return series.removeprefix(_TIMED)[1:-2]


def benchmark_of(series: str) -> str:
    """The asv benchmark that `series` belongs to: its name without the parameters."""
    return series.partition("(")[0]


def series_of(benchmark: str, params: Sequence[Sequence[str]]) -> Iterator[str]:
    """The series of an asv benchmark, in the order of its results, as asv's compare prints them."""
    for choice in itertools.product(*params):
        yield f"{benchmark}({', '.join(choice)})" if choice else benchmark


def selected(series: Iterable[str], pattern: str | None) -> list[str]:
    """Those of `series` that a shell pattern matches, or that have `pattern` in their name."""
    if pattern is None:
        return list(series)
    return [name for name in series if pattern in name or matches(name, pattern)]


def matches(series: str, pattern: str) -> bool:
    """Whether a shell pattern matches a series; brackets mean themselves."""
    return fnmatchcase(series, pattern.replace("[", "[[]"))


def resolve(part: str, known: Iterable[str]) -> str:
    """The one series that is called `part`, or has it in its name.

    Raises:
        PulseError: There is none, or more than one.
    """
    names = list(known)
    found = [part] if part in names else [name for name in names if part in name]
    if not found:
        raise PulseError(f"no series has {part!r} in its name{did_you_mean(part, names)}")
    if len(found) > 1:
        raise PulseError(
            f"{part!r} is in the names of {len(found)} series, name one of: {', '.join(found)}"
        )
    return found[0]
