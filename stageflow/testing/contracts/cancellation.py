"""Who comes back although it was cancelled."""

from __future__ import annotations

import asyncio

from stageflow.context import StageContext
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.stage import StageOutput


class CancellationProbe(Interceptor):
    """Sees whether a stage came back although its task had been cancelled.

    Attributes:
        begun: Whether the stage was called.
        swallowed: Whether it came back.
    """

    begun = False
    swallowed = False

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Call the stage, and look at the task that it ran in."""
        self.begun = True
        output = await call_next(ctx)
        task = asyncio.current_task()
        self.swallowed = task is not None and task.cancelling() > 0
        return output
