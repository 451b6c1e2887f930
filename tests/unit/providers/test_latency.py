"""`LatencyProfile`: percentiles in, latencies out."""

from __future__ import annotations

import math
import random
import statistics
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.errors import ErrorCategory, InvalidConfigError
from stageflow.providers import INSTANT, LatencyProfile

positive_ms = st.floats(min_value=0.001, max_value=1e5)


def test_fixed_latency_never_varies() -> None:
    """A fixed profile gives the same latency each time and uses up no random numbers."""
    source = random.Random(1)
    before = source.getstate()
    profile = LatencyProfile.fixed(12.5)
    assert [profile.sample_ms(source) for _ in range(5)] == [12.5] * 5
    assert source.getstate() == before


def test_instant_is_zero() -> None:
    """The instant profile takes 0 ms."""
    assert INSTANT.sample_ms(random.Random(1)) == 0


def test_sampled_percentiles_are_those_asked_for() -> None:
    """Of many samples, half are below P50 and one in a hundred above P99, within 4 sigma."""
    profile = LatencyProfile.percentiles(p50_ms=180, p99_ms=400)
    source = random.Random(7)
    count = 20_000
    samples = [profile.sample_ms(source) for _ in range(count)]
    for limit_ms, share in ((180, 0.5), (400, 0.99)):
        below = sum(sample <= limit_ms for sample in samples)
        assert abs(below - count * share) < 4 * math.sqrt(count * share * (1 - share))


def test_logarithms_of_samples_are_normal() -> None:
    """Mean and deviation of the logarithms are mu and sigma as derived on paper."""
    # ln 100 = 4.60517; ln(200 / 100) / 2.3263479 = 0.2979552
    source = random.Random(3)
    profile = LatencyProfile.percentiles(p50_ms=100, p99_ms=200)
    logs = [math.log(profile.sample_ms(source)) for _ in range(20_000)]
    assert statistics.fmean(logs) == pytest.approx(4.60517, abs=0.01)
    assert statistics.stdev(logs) == pytest.approx(0.2979552, rel=0.03)
    assert profile.sigma == pytest.approx(0.2979552, rel=1e-6)


@given(p50_ms=positive_ms, factor=st.floats(min_value=1, max_value=100))
def test_a_profile_meets_both_percentiles(p50_ms: float, factor: float) -> None:
    """The lognormal distribution passes through P50 and P99, whatever they are."""
    profile = LatencyProfile.percentiles(p50_ms=p50_ms, p99_ms=p50_ms * factor)
    p99_ms = profile.p50_ms * math.exp(profile.sigma * NormalDist().inv_cdf(0.99))
    assert profile.p50_ms == p50_ms
    assert p99_ms == pytest.approx(p50_ms * factor)


@given(p50_ms=positive_ms, seed=st.integers())
def test_same_seed_same_latencies(p50_ms: float, seed: int) -> None:
    """Equal seeds draw equal latencies, all of them positive."""
    profile = LatencyProfile.percentiles(p50_ms=p50_ms, p99_ms=3 * p50_ms)
    one, other = random.Random(seed), random.Random(seed)
    drawn = [profile.sample_ms(one) for _ in range(20)]
    assert drawn == [profile.sample_ms(other) for _ in range(20)]
    assert min(drawn) > 0


def test_scaled() -> None:
    """Scaling multiplies both percentiles, and 0 makes the profile instant."""
    profile = LatencyProfile.percentiles(p50_ms=10, p99_ms=40)
    assert profile.scaled(2.5) == LatencyProfile.percentiles(p50_ms=25, p99_ms=100)
    assert profile.scaled(0) == INSTANT


@pytest.mark.parametrize(
    "latency_ms", [-1, -0.001, math.nan, math.inf, -math.inf, "10", None, True]
)
def test_fixed_refuses_a_value_that_is_not_a_latency(latency_ms: Any) -> None:
    """A latency that is negative, not finite or no number is refused, naming it."""
    with pytest.raises(InvalidConfigError) as caught:
        LatencyProfile.fixed(latency_ms)
    assert caught.value.field == "latency_ms"
    assert repr(latency_ms) in str(caught.value)
    assert "milliseconds, 0 or more" in str(caught.value)
    assert caught.value.category is ErrorCategory.LOGIC


@pytest.mark.parametrize(
    ("p50_ms", "p99_ms", "field"),
    [
        (100, 99, "p99_ms"),
        (0, 5, "p50_ms"),
        (-1, 5, "p50_ms"),
        (math.nan, 5, "p50_ms"),
        (1, math.nan, "p99_ms"),
        (1, math.inf, "p99_ms"),
        (False, 5, "p50_ms"),
    ],
)
def test_percentiles_refused(p50_ms: float, p99_ms: float, field: str) -> None:
    """Percentiles that no lognormal distribution has are refused, naming the wrong one."""
    with pytest.raises(InvalidConfigError) as caught:
        LatencyProfile.percentiles(p50_ms=p50_ms, p99_ms=p99_ms)
    assert caught.value.field == field


@pytest.mark.parametrize("factor", [-1, math.nan, math.inf, "2"])
def test_scale_refused(factor: Any) -> None:
    """A factor that is negative, not finite or no number is refused."""
    with pytest.raises(InvalidConfigError, match=r"factor is .*finite number of times"):
        LatencyProfile.fixed(1).scaled(factor)
