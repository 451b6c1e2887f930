"""How long a fake provider takes: always the same, or drawn from a distribution."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

from stageflow.errors import InvalidConfigError

_STANDARD_NORMAL = NormalDist()
_Z99 = _STANDARD_NORMAL.inv_cdf(0.99)


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """A distribution of latencies, given by its P50 and its P99.

    Latencies are lognormal: their logarithm is normal with mean mu and standard deviation sigma.
    The q-quantile of a lognormal distribution is ``exp(mu + sigma * z(q))``, where z is the
    quantile function of the standard normal distribution (N. L. Johnson, S. Kotz and
    N. Balakrishnan, "Continuous Univariate Distributions", vol. 1, ch. 14, 1994). As z(0.5) is 0::

        mu    = ln(P50)
        sigma = ln(P99 / P50) / z(0.99),   z(0.99) = 2.3263…

    Where both percentiles are the same, sigma is 0 and every latency equals them.

    Attributes:
        p50_ms: Half of all latencies are shorter, in milliseconds.
        p99_ms: One in a hundred is longer, in milliseconds.

    Raises:
        InvalidConfigError: A percentile is no finite number from 0 up, P99 is below P50,
            or P50 is 0 and P99 is not.
    """

    p50_ms: float
    p99_ms: float

    def __post_init__(self) -> None:
        for field in ("p50_ms", "p99_ms"):
            require_amount("LatencyProfile", field, getattr(self, field), "milliseconds")
        if self.p99_ms < self.p50_ms:
            raise InvalidConfigError(
                "LatencyProfile",
                "p99_ms",
                self.p99_ms,
                f"it cannot be below p50_ms, {self.p50_ms!r}; swap them?",
            )
        if self.p50_ms == 0 < self.p99_ms:
            raise InvalidConfigError(
                "LatencyProfile",
                "p50_ms",
                self.p50_ms,
                "a lognormal latency is never 0; give a positive P50, or 0 for both percentiles",
            )

    @classmethod
    def fixed(cls, latency_ms: float) -> Self:
        """Every call takes `latency_ms` milliseconds."""
        require_amount("LatencyProfile", "latency_ms", latency_ms, "milliseconds")
        return cls(latency_ms, latency_ms)

    @classmethod
    def percentiles(cls, *, p50_ms: float, p99_ms: float) -> Self:
        """Calls take a lognormal time with these percentiles, in milliseconds."""
        return cls(p50_ms, p99_ms)

    @property
    def sigma(self) -> float:
        """Standard deviation of the latency's natural logarithm; 0 for a fixed latency."""
        if self.p99_ms == self.p50_ms:
            return 0.0
        return (math.log(self.p99_ms) - math.log(self.p50_ms)) / _Z99

    def quantile_ms(self, q: float) -> float:
        """The latency in milliseconds that a share `q` (0 < q < 1) of all calls stays below.

        Raises:
            InvalidConfigError: `q` is not between 0 and 1.
        """
        if not 0 < q < 1:
            raise InvalidConfigError(
                "LatencyProfile", "q", q, "give a share between 0 and 1, such as 0.99"
            )
        return self.p50_ms * math.exp(self.sigma * _STANDARD_NORMAL.inv_cdf(q))

    def sample_ms(self, source: random.Random) -> float:
        """A latency in milliseconds, drawn with `source`; a fixed one leaves `source` alone."""
        sigma = self.sigma
        if not sigma:
            return self.p50_ms
        return self.p50_ms * math.exp(sigma * source.gauss(0.0, 1.0))

    def scaled(self, factor: float) -> LatencyProfile:
        """The same distribution, `factor` times as slow; 0 makes every latency 0.

        Raises:
            InvalidConfigError: `factor` is no finite number from 0 up.
        """
        require_amount("LatencyProfile", "factor", factor, "times")
        return LatencyProfile(self.p50_ms * factor, self.p99_ms * factor)


def require_amount(owner: str, field: str, found: object, unit: str) -> None:
    """Let finite numbers from 0 up pass, and nothing else; raises as `LatencyProfile`."""
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not 0 <= float(found) < math.inf:  # type: ignore[arg-type]
        raise InvalidConfigError(owner, field, found, f"give a finite number of {unit}, 0 or more")


#: Every call returns at once, without suspending.
INSTANT = LatencyProfile(0.0, 0.0)
