"""How often to retry, and after which delays."""

from __future__ import annotations

import random
from dataclasses import dataclass

from stageflow._utils.checks import is_duration
from stageflow.errors import InvalidConfigError, StageflowError
from stageflow.errors.data import require_counts


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to retry, and after which delays.

    The delay before attempt n + 1 is drawn evenly between 0 and
    ``min(max_delay_s, base_delay_s * 2 ** (n - 1))`` ("full jitter"), or as long as the provider
    asks for (Retry-After), if that is longer.

    Attributes:
        attempts: The most attempts, the first included.
        base_delay_s: Upper bound of the first drawn delay, in seconds.
        max_delay_s: Upper bound of any drawn delay, in seconds.
        max_retry_after_s: If a provider asks for more seconds than this, the stage fails at once.
    """

    attempts: int = 3
    base_delay_s: float = 0.1
    max_delay_s: float = 5.0
    max_retry_after_s: float = 60.0

    def __post_init__(self) -> None:
        require_counts("RetryPolicy", attempts=self.attempts)
        for field in ("base_delay_s", "max_delay_s", "max_retry_after_s"):
            value = getattr(self, field)
            if value != 0 and not is_duration(value):
                fix = "give a number of seconds, 0 or more"
                raise InvalidConfigError("RetryPolicy", field, value, fix)

    def delay_s(self, attempt: int, failure: StageflowError, source: random.Random) -> float | None:
        """Return the delay in seconds after an attempt that failed; None for no other attempt."""
        asked_s = failure.retry_after_s or 0.0
        if not failure.retryable or attempt >= self.attempts or asked_s > self.max_retry_after_s:
            return None
        # A float cannot hold a greater power of two.
        ceiling_s = min(self.max_delay_s, self.base_delay_s * 2.0 ** min(attempt - 1, 1000))
        return max(source.uniform(0.0, ceiling_s), asked_s)
