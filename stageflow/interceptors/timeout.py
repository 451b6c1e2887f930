"""A time limit for each call of a stage."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from stageflow.engine import CallNext, Interceptor, StageContext, StageOutput
from stageflow.errors import StageTimeoutError
from stageflow.errors.data import require_durations


class TimeoutInterceptor(Interceptor):
    """Fail a stage when a call takes longer than a positive number of seconds.

    Inside a retry, it limits each attempt; ``StageSpec.timeout_s`` limits all of them together.
    """

    def __init__(self, timeout_s: float) -> None:
        require_durations("TimeoutInterceptor", timeout_s=timeout_s)
        self.timeout_s = timeout_s

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage; raise `StageTimeoutError` if it takes too long."""
        started_at = ctx.now()
        call = call_next(ctx)
        # Most calls of a fast stage end in their first step, and need no timer.
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
        watch = ctx.scope.timers.set(started_at + self.timeout_s, task.cancel)
        try:
            output = await rest
        except (Exception, asyncio.CancelledError) as error:
            # The stage may have replaced our cancellation by an error. Another cancellation
            # besides ours must go on.
            if watch.expired and task.uncancel() <= already_cancelled and not ctx.cancelled:
                raise StageTimeoutError(self.timeout_s) from error
            raise
        finally:
            watch.release()
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
    """Continue a call that has made its first step and waits for `awaited`."""
    thrown: BaseException | None
    while True:
        try:
            yield awaited
        except BaseException as error:
            thrown = error
        else:
            return (yield from call)  # type: ignore[no-any-return]
        # Outside of the handler, or `thrown` would be the context of the stage's later errors.
        try:
            awaited = call.throw(thrown)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            thrown = None  # the traceback of an error that passes keeps this frame
