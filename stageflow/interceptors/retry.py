"""Another try for what may succeed next time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from stageflow.classification import classify
from stageflow.context import StageContext
from stageflow.errors import InvalidConfigError, StageflowError
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.stage import StageOutput


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after which delays.

    The delay before attempt n + 1 is drawn evenly between 0 and
    ``min(max_delay_s, base_delay_s * 2 ** (n - 1))``: exponential backoff with "full jitter"
    (M. Brooker, "Exponential Backoff And Jitter", 2015). A provider that names a time to wait
    (Retry-After) is given that time at least.

    Attributes:
        attempts: How many in all, the first included.
        base_delay_s: Upper bound of the first delay in seconds.
        max_delay_s: Upper bound of any delay in seconds.
    """

    attempts: int = 3
    base_delay_s: float = 0.1
    max_delay_s: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidConfigError(
                "RetryPolicy", "attempts", self.attempts, "give a positive integer"
            )
        for field in ("base_delay_s", "max_delay_s"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidConfigError(
                    "RetryPolicy", field, value, "give a number of seconds, 0 or more"
                )


class RetryInterceptor(Interceptor):
    """Runs a stage again when it failed in a way that may pass.

    Only what is ``retryable`` is retried: what the network, a rate limit or a busy server did
    (docs/errors.md has a line for each), not an exception that means a mistake in the stage. A
    stage may say so itself, by ``StageOutput.fail(reason, retryable=True)``. And it is retried
    only as long as the delay ends before the run's deadline and the stage's timeout. Each retry is
    an event ``stage.<name>.retrying``. A stage that has put an item into a stream is not retried,
    as what was said cannot be unsaid, nor one that has read items which are gone. The delay is
    spent on the loop's clock, and its length
    drawn from the stage's own random numbers.
    """

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        """Choose the policy.

        Raises:
            InvalidConfigError: It is something else.
        """
        if policy is not None and not isinstance(policy, RetryPolicy):
            raise InvalidConfigError(
                "RetryInterceptor", "policy", policy, "give RetryPolicy(attempts=…)"
            )
        self.policy = policy if policy is not None else RetryPolicy()

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Call what is inside until it succeeds or there is no use in trying."""
        attempt = 1
        while True:
            try:
                return await call_next(ctx)
            except Exception as error:
                failure = classify(error)
                delay_s = self._delay_s(ctx, attempt, failure)
                if delay_s is None or _is_cancelled(ctx, error):
                    raise
            ctx.rewind()
            ctx.emit("retrying", attempt=attempt, delay_s=delay_s, error_code=failure.code)
            await asyncio.sleep(delay_s)
            attempt += 1

    def _delay_s(self, ctx: StageContext, attempt: int, failure: StageflowError) -> float | None:
        policy = self.policy
        if not failure.retryable or attempt >= policy.attempts:
            return None
        if not ctx.repeatable:
            return None
        ceiling_s = min(policy.max_delay_s, policy.base_delay_s * 2.0 ** (attempt - 1))
        delay_s = max(ctx.random.uniform(0.0, ceiling_s), failure.retry_after_s or 0.0)
        return delay_s if delay_s < _left_s(ctx) else None

    def __repr__(self) -> str:
        return f"RetryInterceptor({self.policy!r})"


def _is_cancelled(ctx: StageContext, error: Exception) -> bool:
    """Whether a cancellation is under way that the stage turned into an error of its own."""
    if ctx.timed_out or ctx.scope.stopping:
        return True
    # What fails in a TaskGroup leaves, on Python 3.11, the group's own request behind.
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0 and not isinstance(error, ExceptionGroup)


def _left_s(ctx: StageContext) -> float:
    """Seconds until the run's deadline or the stage's timeout, whichever is nearer."""
    left_s, timeout_s = ctx.remaining_s(), ctx.timeout_s
    if timeout_s is not None:
        left_s = min(math.inf if left_s is None else left_s, ctx.started_at + timeout_s - ctx.now())
    return math.inf if left_s is None else left_s
