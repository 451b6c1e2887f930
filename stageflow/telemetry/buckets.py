"""The bounds by which metrics systems divide durations."""

from __future__ import annotations

#: Upper bounds in seconds: stages take from microseconds to seconds, and each budget of the
#: specification (0.3, 0.5, 0.8, 1.0) is one, so that a percentile over its budget is told exactly.
DURATION_BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.3, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0),
)
