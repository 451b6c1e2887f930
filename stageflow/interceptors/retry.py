"""Retries of stages after transient failures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from stageflow._utils.tasks import is_made_of_cancellation
from stageflow.engine import CallNext, Interceptor, StageContext, StageOutput, StageSpec
from stageflow.errors import InvalidConfigError, StageflowError
from stageflow.resilience import RetryPolicy, classify


class RetryInterceptor(Interceptor):
    """Run a stage again after a failure that is ``retryable`` (see docs/errors.md).

    Exceptions of the stage's own code are not; ``StageOutput.fail(reason, retryable=True)`` is. A
    stage is retried only if the delay ends before the run's deadline and the stage's timeout, and
    not after it has put an item into a stream, or read items that are gone. Each retry is an event
    ``stage.<name>.retrying``.

    Args:
        policy: The policy of the stages that `stages` does not name.
        stages: Policies of single stages by name; with None, a stage is not retried.
    """

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        stages: Mapping[str, RetryPolicy | None] | None = None,
    ) -> None:
        by_name: Any = {} if stages is None else stages
        if not isinstance(by_name, Mapping):
            fix = "give policies by the name of the stage: {'charge': None}"
            raise InvalidConfigError("RetryInterceptor", "stages", by_name, fix)
        self.policy = policy if policy is not None else RetryPolicy()
        self.stages: Mapping[str, RetryPolicy | None] = dict(by_name)
        given: dict[str, Any] = {f"stages[{name!r}]": own for name, own in by_name.items()}
        for field, found in {"policy": self.policy, **given}.items():
            if found is not None and not isinstance(found, RetryPolicy):
                fix = "give RetryPolicy(attempts=…)"
                raise InvalidConfigError("RetryInterceptor", field, found, fix)

    def applies_to(self, spec: StageSpec) -> bool:
        """Apply to stages with a policy."""
        return self.stages.get(spec.name, self.policy) is not None

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage until it succeeds or must not be retried."""
        attempt = 1
        while True:
            try:
                return await call_next(ctx)
            except Exception as error:
                failure = classify(error)
                code, delay_s = failure.code, self._delay_s(ctx, attempt, failure)
                del failure  # its traceback refers to this frame
                if delay_s is None or ctx.cancelled or is_made_of_cancellation(error):
                    raise
            ctx.rewind()
            ctx.emit("retrying", attempt=attempt, delay_s=delay_s, error_code=code)
            await asyncio.sleep(delay_s)
            attempt += 1

    def _delay_s(self, ctx: StageContext, attempt: int, failure: StageflowError) -> float | None:
        policy = self.stages.get(ctx.name) or self.policy
        delay_s = policy.delay_s(attempt, failure, ctx.random)
        if delay_s is None:
            return None
        if not ctx.repeatable:
            note = "not retried: the stage has put items, or read items that are gone; retry the"
            (failure.__cause__ or failure).add_note(f"{note} call that fails, within the stage")
            return None
        deadline_s, timeout_s = ctx.remaining_s(), ctx.timeout_s
        if deadline_s is not None and delay_s >= deadline_s:
            return None
        if timeout_s is not None and delay_s >= ctx.started_at + timeout_s - ctx.now():
            return None
        return delay_s

    def __repr__(self) -> str:
        own = f", stages={self.stages!r}" if self.stages else ""
        return f"RetryInterceptor({self.policy!r}{own})"
