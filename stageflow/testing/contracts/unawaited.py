"""Calls that nobody awaits: named where they are made, and not when Python collects them."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from stageflow.context import StageContext
from stageflow.interceptors.base import Interceptor


class ClosesCalls(Interceptor):
    """Closes the calls that a failed stage has made and not come to await.

    The error keeps the stage's frames, and they the calls: Python would complain of each in the
    middle of whatever runs when the error is dropped, and so bury it.
    """

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Close what the stage's frames hold; after a cancellation nothing excuses it."""
        if not isinstance(error, Exception):
            return
        begin_soon = {id(task.get_coro()) for task in asyncio.all_tasks()}
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for held in frame.f_locals.values():
                if (
                    inspect.iscoroutine(held)
                    and inspect.getcoroutinestate(held) == inspect.CORO_CREATED
                    and id(held) not in begin_soon
                ):
                    held.close()


@contextmanager
def every_call_awaited() -> Iterator[None]:
    """Take note of coroutines that are dropped within a block before anybody awaited them.

    Raises:
        AssertionError: There were some, and the block has not raised anything else.
    """
    depth = sys.get_coroutine_origin_tracking_depth()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", "coroutine .* was never awaited", RuntimeWarning)
            sys.set_coroutine_origin_tracking_depth(1)
            yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
        dropped = [warning for warning in caught if inspect.iscoroutine(warning.source)]
        for other in (warning for warning in caught if warning not in dropped):
            warnings.warn_explicit(
                other.message, other.category, other.filename, other.lineno, source=other.source
            )
    calls = dict.fromkeys(_told(warning.source) for warning in dropped)
    if calls:
        raise AssertionError("write await before the call: nobody awaited " + ", ".join(calls))


def _told(call: object) -> str:
    (file, line, function), *_ = getattr(call, "cr_origin", None) or [("an unknown place", 0, "?")]
    return f"{getattr(call, '__qualname__', call)}(…), called at {file}:{line} in {function}"
