"""A time limit for each call of what is inside."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from stageflow.context import StageContext
from stageflow.durations import is_duration
from stageflow.errors import InvalidConfigError, StageTimeoutError
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.stage import StageOutput


class TimeoutInterceptor(Interceptor):
    """Fails a stage when one call of what is inside this interceptor takes too long.

    It differs from ``StageSpec.timeout_s`` in where it stands: that one bounds a stage with all
    its interceptors, this one what is inside of it, so inside of a retry it bounds each attempt.
    """

    def __init__(self, timeout_s: float) -> None:
        """Set the limit.

        Args:
            timeout_s: Limit of one call in seconds.

        Raises:
            InvalidConfigError: It is no positive, finite number.
        """
        if not is_duration(timeout_s):
            raise InvalidConfigError(
                "TimeoutInterceptor", "timeout_s", timeout_s, "give a positive number of seconds"
            )
        self.timeout_s = timeout_s

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Call what is inside; raise `StageTimeoutError` if it takes too long."""
        started_at = ctx.now()
        call = call_next(ctx)
        # Taken by hand, the first step shows whether the call waits for anything at all: a limit
        # costs more than the rest of this layer, and nothing can strike before the loop has a turn.
        try:
            awaited = call.send(None)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        return await self._limit(ctx, started_at, _go_on(call, awaited))

    async def _limit(
        self, ctx: StageContext, started_at: float, rest: Coroutine[Any, Any, StageOutput]
    ) -> StageOutput:
        task = asyncio.current_task()
        assert task is not None
        already_cancelled = task.cancelling()
        watch = ctx.scope.watchdog.watch(started_at + self.timeout_s, task.cancel)
        try:
            output = await rest
        except (Exception, asyncio.CancelledError) as error:
            # Whatever the stage made of our cancellation: too late is too late. Another
            # cancellation on top of ours is not ours to swallow.
            if watch.expired and task.uncancel() <= already_cancelled:
                raise StageTimeoutError(self.timeout_s) from error
            raise
        finally:
            watch.released = True
        if watch.expired:
            task.uncancel()
            raise StageTimeoutError(self.timeout_s)
        return output

    def __repr__(self) -> str:
        return f"TimeoutInterceptor({self.timeout_s!r})"


@types.coroutine
def _go_on(
    call: Coroutine[Any, Any, StageOutput], awaited: Any
) -> Generator[Any, Any, StageOutput]:
    """Carry on with a call that has made its first step, and now waits for `awaited`."""
    while True:
        try:
            yield awaited
            break
        except BaseException as error:
            try:
                awaited = call.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
    return (yield from call)  # type: ignore[no-any-return]
