"""Sums of durations against the durations themselves, sorted."""

from __future__ import annotations

import itertools
import math
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow.telemetry import SQLiteSink, TelemetryStore, Window
from stageflow.telemetry.readings import (
    BOUNDS_MS,
    RELATIVE_ERROR,
    Histogram,
    bounds_of,
    bucket_of,
    middle_of,
)
from tests.utils.telemetry import NOON_S, batch, run_log

pytestmark = pytest.mark.untraced

#: Above 1 µs, up to 10,000 s, in milliseconds: where the error is bounded.
durations = st.one_of(
    st.floats(0.001, 1e7, exclude_min=True),
    st.sampled_from(BOUNDS_MS[1:]),
    st.floats(250.0, 350.0),
    st.integers(1, 1_000).map(float),
)
shares = st.integers(0, 1_000).map(lambda n: Fraction(n, 1_000))


def exact(durations_ms: list[float], share: Fraction) -> float:
    """The percentile by nearest rank, in whole numbers."""
    return sorted(durations_ms)[max(1, math.ceil(share * len(durations_ms))) - 1]


@given(st.lists(durations, min_size=1, max_size=300), shares)
def test_a_percentile_is_as_near_as_documented(values: list[float], share: Fraction) -> None:
    """And on the same side of each bound, so that "over budget" is exact."""
    histogram, oracle = Histogram.of(values), exact(values, share)
    found = histogram.percentile_ms(float(share))
    assert abs(found - oracle) <= RELATIVE_ERROR * oracle
    for limit in (300.0, 500.0, 800.0, 1_000.0):
        assert (found > limit) is (oracle > limit)
        assert histogram.over(limit) == sum(value > limit for value in values)


@given(st.lists(durations), st.lists(durations))
def test_histograms_add_up(some: list[float], others: list[float]) -> None:
    """In whichever parts durations are counted, the whole is the same."""
    assert Histogram.of(some) + Histogram.of(others) == Histogram.of([*some, *others])


@given(st.floats(0.0, 1e12))
def test_a_bucket_holds_what_it_says(value: float) -> None:
    """Above its lower bound, up to its upper one; what stands for it lies within."""
    low, high = bounds_of(bucket_of(value))
    assert low < value <= high or value == low == 0.0
    assert low <= middle_of(bucket_of(value)) <= high


def test_the_buckets_are_those_documented() -> None:
    """50 a power of ten, 3 to 5.5 % wide, with 1, 3, 5 and 8 of each power among the bounds."""
    assert len(BOUNDS_MS) == 50 * 10 + 1
    assert list(BOUNDS_MS) == sorted(set(BOUNDS_MS))
    pairs = itertools.pairwise(BOUNDS_MS)
    assert all(1.03 < high / low < 1.055 for low, high in pairs)
    for power in range(-3, 7):
        for digit in (1, 3, 5, 8):
            assert float(f"{digit}e{power}") in BOUNDS_MS
    assert (BOUNDS_MS[0], BOUNDS_MS[-1]) == (0.001, 1e7)


@pytest.mark.parametrize(
    ("share", "rank"), [(0.0, 1), (0.07, 7), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_ranks_are_those_of_whole_numbers(share: float, rank: int) -> None:
    """0.07 * 100 is a little more than 7 to a computer, and still the seventh is meant."""
    powers = [1.1**n for n in range(1, 101)]
    assert Histogram.of(powers).bucket_at(share) == bucket_of(powers[rank - 1])


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_no_percentile_of_nothing(share: float) -> None:
    """Nor one that is none."""
    with pytest.raises(ValueError, match="no percentile"):
        Histogram.of([1.0]).percentile_ms(share)
    with pytest.raises(ValueError, match="of 0 durations"):
        Histogram.of([]).percentile_ms(0.5)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 1e5), st.integers(0, 300), st.sampled_from("ab")),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 7),
    shares,
)
def test_percentiles_from_a_file_are_as_near(
    runs: list[tuple[float, int, str]], size: int, share: Fraction
) -> None:
    """Through the sink, in batches of any size, over hours, by two writers, and back."""
    logs = [
        run_log(f"{n}", {stage: takes}, at_s=NOON_S + 60.0 * minute)
        for n, (takes, minute, stage) in enumerate(runs)
    ]
    events = batch(*logs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.db"
        sinks = [SQLiteSink(path, source=name) for name in ("one", "two")]
        of_run = [len(log) for log in logs]
        first = sum(of_run[: len(of_run) // 2])
        for sink, part in zip(sinks, (events[:first], events[first:]), strict=True):
            for start in range(0, len(part), size):
                sink.write(part[start : start + size])
            sink.close()
        with TelemetryStore(path) as store:
            found = {e.stage: e for e in store.latencies(Window(NOON_S - 60, NOON_S + 90_000))}
    for name in ("a", "b"):
        values = [takes for takes, _, stage in runs if stage == name]
        assert (name in found) is bool(values)
        if values:
            oracle = exact(values, share)
            assert found[name].histogram.count == len(values)
            near = found[name].histogram.percentile_ms(float(share))
            # The duration itself is a difference of two times, and so off by a few nanoseconds.
            assert abs(near - oracle) <= RELATIVE_ERROR * oracle * (1 + 1e-6) + 1e-5
