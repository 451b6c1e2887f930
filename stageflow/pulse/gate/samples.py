"""Percentiles and intervals of samples, without any assumption about how they scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stageflow.pulse.errors import TooFewSamplesError

#: Least samples for a percentile that is more than a guess, by percentile.
LEAST = {50: 20, 95: 20, 99: 100}
CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Interval:
    """A median, and the interval in which the true one lies.

    Attributes:
        median: Of the samples.
        low, high: Ends of the interval.
        confidence: How probable it is, at least, that the true median lies within.
        samples: How many there were.
    """

    median: float
    low: float
    high: float
    confidence: float
    samples: int

    def __str__(self) -> str:
        return f"{self.confidence:.0%} interval {self.low:.3f} to {self.high:.3f}"


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that at least `percent` per cent of the samples do not exceed.

    Raises:
        TooFewSamplesError: There are not enough of them for that percentile.
    """
    if len(samples) < LEAST[percent]:
        raise TooFewSamplesError(
            f"a P{percent} needs at least {LEAST[percent]} samples, and there are {len(samples)}"
        )
    return sorted(samples)[math.ceil(percent * len(samples) / 100) - 1]


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of `samples` with its sign-test interval, which holds for any distribution.

    Each sample lies below the true median with probability one half, so the number of those that
    do is binomial; the ends are the innermost pair of order statistics that is sure enough.

    Raises:
        TooFewSamplesError: Not even the whole range of so few samples is that sure.
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
