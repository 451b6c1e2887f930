"""Histograms of durations that can be added up, with fixed buckets about 4.7 % wide.

Each power of ten from 1 µs to 10,000 s is divided into 50 buckets. Their bounds grow by an almost
constant factor, a little different between 1, 3, 5, 8 and 10 so that these themselves are bounds:
whether a percentile is over a budget of 300, 500, 800 or 1,000 ms is told exactly.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

#: A percentile is off by at most this share of the exact one, if that is above 1 µs and up to
#: 10,000 s.
RELATIVE_ERROR = 0.025

#: Where the factor changes within a power of ten, and into how many buckets that part is divided.
_PARTS = ((1.0, 3.0, 24), (3.0, 5.0, 11), (5.0, 8.0, 10), (8.0, 10.0, 5))
_DECADES = range(-3, 7)


def _bounds() -> Iterator[float]:
    for decade in _DECADES:
        for low, high, buckets in _PARTS:
            for step in range(buckets):
                bound = low * (high / low) ** (step / buckets) * 10.0**decade
                # Four digits, so that every machine has the same bounds.
                yield float(f"{bound:.4g}")
    yield 10.0**_DECADES.stop


#: Bucket n holds what is above ``BOUNDS_MS[n - 1]`` and up to ``BOUNDS_MS[n]``, in milliseconds.
#: Bucket 0 begins at 0; one more holds what is above the last bound.
BOUNDS_MS = tuple(_bounds())


def bucket_of(duration_ms: float) -> int:
    """The bucket that a duration in milliseconds belongs to."""
    return bisect_left(BOUNDS_MS, duration_ms)


def bounds_of(bucket: int) -> tuple[float, float]:
    """The bounds of a bucket in milliseconds: what is above the first, up to the second."""
    low = BOUNDS_MS[bucket - 1] if bucket else 0.0
    return low, BOUNDS_MS[bucket] if bucket < len(BOUNDS_MS) else math.inf


def middle_of(bucket: int) -> float:
    """The duration in milliseconds that stands for a bucket: as far off at either bound."""
    low, high = bounds_of(bucket)
    return low if math.isinf(high) else 2.0 * low * high / (low + high)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations fell into which bucket.

    Attributes:
        counts: The number of durations by bucket; buckets without any are left out.
    """

    counts: Mapping[int, int]

    @classmethod
    def of(cls, durations_ms: Iterable[float]) -> Histogram:
        """The histogram of some durations in milliseconds."""
        return cls(Counter(map(bucket_of, durations_ms)))

    @property
    def count(self) -> int:
        """How many durations."""
        return sum(self.counts.values())

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(Counter(self.counts) + Counter(other.counts))

    def bucket_at(self, share: float) -> int:
        """The bucket of a percentile by nearest rank.

        Args:
            share: Which, such as 0.99.

        Raises:
            ValueError: The histogram is empty, or `share` is not between 0 and 1.
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
        """A percentile in milliseconds, off by at most `RELATIVE_ERROR`; see `bucket_at`.

        It lies on the same side of each bound as the exact one does.
        """
        return middle_of(self.bucket_at(share))

    def over(self, limit_ms: float) -> int:
        """How many durations were over a limit: exactly if it is a bound, else too few.

        Those in the limit's own bucket are taken to be within it.
        """
        last = bucket_of(limit_ms)
        return sum(count for bucket, count in self.counts.items() if bucket > last)
