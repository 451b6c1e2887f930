"""Values that a `stageflow.telemetry.TelemetryStore` returns.

Histograms of durations can be added up. Their fixed buckets are about 4.7 % wide: each power of ten
from 1 µs to 10,000 s has 50. 1, 3, 5 and 8 of each power are bounds, so a comparison with a budget
of 300, 500, 800 or 1,000 ms is exact.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stageflow.events.log import FAILED, Event
from stageflow.telemetry.database import MINUTE_S
from stageflow.telemetry.runs import MEASURED

#: The greatest relative error of a percentile between 1 µs and 10,000 s.
RELATIVE_ERROR = 0.025
#: Upper bounds in seconds for metrics systems, which have fewer buckets; with the same budgets.
DURATION_BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.3, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0),
)
#: The parts of a power of ten: first bound, last bound, and number of buckets.
_PARTS = ((1.0, 3.0, 24), (3.0, 5.0, 11), (5.0, 8.0, 10), (8.0, 10.0, 5))
_DECADES = range(-3, 7)


#: Bucket n is above ``BOUNDS_MS[n - 1]`` and up to ``BOUNDS_MS[n]``, in milliseconds. Bucket 0
#: starts at 0, and a last one is above all bounds.
BOUNDS_MS = (
    *(
        # Four digits: every machine computes the same bounds.
        float(f"{low * (high / low) ** (step / buckets) * 10.0**decade:.4g}")
        for decade in _DECADES
        for low, high, buckets in _PARTS
        for step in range(buckets)
    ),
    10.0**_DECADES.stop,
)


def bucket_of(duration_ms: float) -> int:
    """Return the bucket of a duration in milliseconds."""
    return bisect_left(BOUNDS_MS, duration_ms)


def bounds_of(bucket: int) -> tuple[float, float]:
    """Return the bounds of a bucket in milliseconds; the second belongs to it."""
    low = BOUNDS_MS[bucket - 1] if bucket else 0.0
    return low, BOUNDS_MS[bucket] if bucket < len(BOUNDS_MS) else math.inf


def middle_of(bucket: int) -> float:
    """Return the duration in milliseconds with the same relative error at either bound."""
    low, high = bounds_of(bucket)
    return low if math.isinf(high) else 2.0 * low * high / (low + high)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of durations, by bucket."""

    counts: Mapping[int, int]

    @classmethod
    def of(cls, durations_ms: Iterable[float]) -> Histogram:
        """Return the histogram of durations in milliseconds."""
        return cls(Counter(map(bucket_of, durations_ms)))

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts.values())

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(Counter(self.counts) + Counter(other.counts))

    def bucket_at(self, share: float) -> int:
        """Return the bucket of a percentile by nearest rank; `share` is 0.99 for the P99.

        Raise `ValueError` if the histogram is empty or `share` is not between 0 and 1.
        """
        count = self.count
        if not count or not 0.0 <= share <= 1.0:
            raise ValueError(f"no percentile {share!r} of {count} durations; give 0 to 1 of some")
        # Rounded first: 0.99 * 100 is a little more than 99.
        rank = max(1, math.ceil(round(share * count, 9)))
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                break
        return bucket

    def percentile_ms(self, share: float) -> float:
        """Return a percentile in milliseconds, off by at most `RELATIVE_ERROR`; see `bucket_at`.

        It is on the same side of each bound as the exact one.
        """
        return middle_of(self.bucket_at(share))

    def over(self, limit_ms: float) -> int:
        """Count the durations over a limit; those in the limit's own bucket are not counted."""
        last = bucket_of(limit_ms)
        return sum(count for bucket, count in self.counts.items() if bucket > last)


@dataclass(frozen=True, slots=True)
class Window:
    """The time from `start_s` until before `end_s`.

    Its steps are `step_s` seconds long, a multiple of 60, and begin at multiples of that since the
    epoch. None: the window is one step.
    """

    start_s: float
    end_s: float
    step_s: int | None = None

    def __post_init__(self) -> None:
        if not self.start_s < self.end_s:
            raise ValueError(f"the window ends at {self.end_s}, before {self.start_s}; swap them")
        if self.step_s is not None and (self.step_s <= 0 or self.step_s % MINUTE_S):
            raise ValueError(f"step_s is {self.step_s}; give a positive multiple of {MINUTE_S}")

    @property
    def whole(self) -> tuple[int, int]:
        """The window in whole minutes, or in whole steps if it has some."""
        unit = self.step_s or MINUTE_S
        return int(self.start_s // unit * unit), -int(-self.end_s // unit * unit)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a stage, or the runs of a pipeline, took in the step that begins at `start_s`.

    `stage` is None for the runs. Only those that completed or failed are counted.
    """

    start_s: int
    pipeline: str
    stage: str | None
    histogram: Histogram

    @property
    def p50_ms(self) -> float:
        """The median in milliseconds."""
        return self.histogram.percentile_ms(0.50)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile in milliseconds."""
        return self.histogram.percentile_ms(0.95)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile in milliseconds."""
        return self.histogram.percentile_ms(0.99)


@dataclass(frozen=True, slots=True)
class First(Latency):
    """The time from the start of a stage to the first item of `stream`; see `Latency`.

    For runs, the time from the start of the run to its first audio; `stream` is None.
    """

    stream: str | None


@dataclass(frozen=True, slots=True)
class Errors:
    """How a stage, or the runs of a pipeline, ended in one step of a window; see `Latency`.

    `outcomes` counts completed, failed, skipped and cancelled ones; `codes` the failed by code.
    """

    start_s: int
    pipeline: str
    stage: str | None
    outcomes: Mapping[str, int]
    codes: Mapping[str, int]

    @property
    def ended(self) -> int:
        """The number of those that completed or failed."""
        return sum(self.outcomes.get(outcome, 0) for outcome in MEASURED)

    @property
    def rate(self) -> float:
        """The share of failed ones among `ended`; 0 if there are none."""
        return self.outcomes.get(FAILED, 0) / self.ended if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class BreakerNote:
    """A transition of a circuit breaker, with the stage and run in which it happened.

    `source` is its process; see `SQLiteSink`. States are closed, open and half_open.
    """

    at_s: float
    provider: str
    source: str
    before: str
    after: str
    reason: str
    pipeline: str
    stage: str
    run_id: str


@dataclass(frozen=True, slots=True)
class LetterNote:
    """A dead letter whose run failed at `at_s`; `replayed_s` is None while it waits.

    `failed_stage` is None if the deadline failed the run. `provider` is the one that the stage
    names, if any.
    """

    dead_letter_id: str
    at_s: float
    pipeline: str
    run_id: str
    failed_stage: str | None
    provider: str | None
    error_code: str
    replayed_s: float | None
    replay_run_id: str | None


@dataclass(frozen=True, slots=True)
class RunNote:
    """A run with its events in order; `duration_ms` is None while it runs.

    `source` is its process; see `SQLiteSink`. `status` is running, completed, failed or cancelled.
    """

    run_id: str
    pipeline: str
    source: str
    started_s: float
    status: str
    duration_ms: float | None
    failed_stage: str | None
    error_code: str | None
    events: tuple[Event, ...] = ()
