"""Measuring pieces of work against each other on a machine that others use too.

All pieces run in every round, one straight after another and in an order that turns from round to
round, so that what disturbs a round disturbs all of them. Each is timed in CPU time. What is
compared is each round's own ratio or difference, and of those the median.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

#: Something to be timed; what it returns is dropped after the clock has stopped.
Work: TypeAlias = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """The result of many rounds.

    Attributes:
        median: Half of the rounds lie below.
        low: A tenth of the rounds lies below.
        high: A tenth of the rounds lies above.
    """

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """The median of `samples`, and the interval that holds the middle 80 % of them."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return Spread(statistics.median(samples), tenths[0], tenths[-1])


def cpu_seconds(work: Work) -> float:
    """CPU time of one execution of `work` by this process, in seconds.

    The garbage of others is collected first; the collector then stays on, since what `work` leaves
    for it is a cost of `work`.
    """
    gc.collect()
    started_at = time.process_time_ns()
    kept = work()
    ended_at = time.process_time_ns()
    del kept
    return (ended_at - started_at) / 1e9


def interleaved(works: Sequence[Work], rounds: int) -> Iterator[tuple[float, ...]]:
    """Time all `works` in each of `rounds` rounds, after one execution each that is not timed.

    Yields:
        For each round the CPU times in seconds, in the order of `works`.
    """
    for work in works:
        work()
    gc.collect()
    gc.freeze()  # what stands by now is no garbage, and need not be looked at again and again
    try:
        for number in range(rounds):
            times = [0.0] * len(works)
            for step in range(len(works)):
                position = (number + step) % len(works)
                times[position] = cpu_seconds(works[position])
            yield tuple(times)
    finally:
        gc.unfreeze()


def ratios(work: Work, beside: Work, rounds: int) -> list[float]:
    """How many times the CPU time of `beside` that of `work` is, round by round."""
    return [ours / theirs for ours, theirs in interleaved((work, beside), rounds)]
