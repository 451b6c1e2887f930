"""Ending tasks that talk to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

_PAUSE_S = 0.1


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended.

    They are cancelled again and again: the client does not always let a cancellation through.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_PAUSE_S)
