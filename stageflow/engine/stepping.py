"""How a run steps the coroutines of its stages by hand, and gives control to the loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from collections.abc import Generator
from typing import Any

from stageflow.engine.stage import StageOutput
from stageflow.engine.stage_context import StageContext

#: Whether a TaskGroup that failed may leave its request to cancel the task behind.
_LEAVES_REQUESTS = sys.version_info < (3, 13)


class TaskCancelledError(asyncio.CancelledError):
    """Neither the run nor a timeout has cancelled the stage: somebody has cancelled its task."""


@types.coroutine
def resume_in_context(
    coroutine: Generator[Any, Any, StageOutput],
    variables: contextvars.Context,
    awaited: Any,
    ctx: StageContext,
) -> Generator[Any, Any, StageOutput]:
    """Run a suspended stage to its end, each step inside the stage's own context variables.

    `awaited` is what its coroutine yielded last. `TaskCancelledError` is raised if the stage has
    let the cancellation of its task pass.
    """
    thrown: BaseException | None = None
    requested: list[BaseException | None] = []
    try:
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                variables.run(coroutine.close)
                raise
            except BaseException as error:
                thrown = error
            else:
                awaited = variables.run(coroutine.send, sent)
                continue
            # Outside of the handler, or `thrown` would be the context of the stage's later errors.
            task = this_task()
            # Without a request, it is what the stage awaits that was cancelled.
            if isinstance(thrown, asyncio.CancelledError) and task.cancelling():
                requested.append(thrown)
            requests = task.cancelling()
            awaited = variables.run(coroutine.throw, thrown)
            # A TaskGroup names no request; anyio names its own, and takes them back itself.
            unnamed = isinstance(thrown, asyncio.CancelledError) and not thrown.args
            left_behind = unnamed and task.cancelling() == requests > 0
            if _LEAVES_REQUESTS and left_behind and not ctx.cancelled:
                task.uncancel()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    except asyncio.CancelledError as error:
        if not ctx.cancelled and any(one in requested for one in (error, error.__context__)):
            raise TaskCancelledError from error
        raise
    finally:
        # The traceback of an error that passes keeps this frame.
        thrown = None
        requested.clear()


@types.coroutine
def yield_once() -> Generator[None, None, None]:
    """Let the loop run once; cheaper than ``asyncio.sleep(0)``, and needs no running task."""
    yield


def this_task() -> asyncio.Task[Any]:
    """Return the task of the driver that calls this."""
    task = asyncio.current_task()
    assert task is not None, "a driver runs in a task"
    return task
