"""One turn of a conversation at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID

from stageflow.errors import ErrorCategory, InvalidConfigError, StageflowError, Traits, shown
from stageflow.errors.data import require_counts

WhenBusy = Literal["wait", "refuse", "replace"]


class TurnLimitError(StageflowError):
    """A turn was refused, or replaced, as another one of its conversation runs."""

    code = "conversation_busy"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "I am still answering. Please try again in a moment."
    codes: ClassVar = {
        "turn_replaced": Traits(
            ErrorCategory.POLICY, False, "Your newer message is answered instead."
        )
    }


class _Turn:
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.may_begin = asyncio.Event()
        self.replaced = False
        self.cancelling = task.cancelling()

    def replace(self) -> None:
        if not self.replaced:
            self.replaced = self.task.cancel()


class TurnLimiter:
    """Lets one turn of a conversation run at a time, within an event loop.

    Args:
        when_busy: What a turn does that begins while another one runs: ``wait`` until all earlier
            ones have ended, ``refuse`` to begin, or ``replace`` the earlier ones (barge-in): it
            cancels them, and begins when they have cleaned up.
        max_waiting: How many turns of a conversation may wait at a time; more are refused.
    """

    def __init__(self, when_busy: WhenBusy = "wait", *, max_waiting: int = 16) -> None:
        if when_busy not in get_args(WhenBusy):
            fix = f"give one of {', '.join(get_args(WhenBusy))}"
            raise InvalidConfigError("TurnLimiter", "when_busy", when_busy, fix)
        require_counts("TurnLimiter", max_waiting=max_waiting)
        self._when_busy = when_busy
        self._most = 1 if when_busy == "refuse" else 1 + max_waiting
        self._turns: dict[Hashable, list[_Turn]] = {}

    @asynccontextmanager
    async def turn(self, conversation: Hashable) -> AsyncIterator[None]:
        """Run the block as a turn of a conversation, such as the user's id.

        42 and ``"42"`` are one user. Turns of anonymous users (None or ``""``) do not wait.

        Raises:
            TurnLimitError: The turn is refused (``conversation_busy``), or a later one has replaced
                it (``turn_replaced``).
        """
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        if conversation in (None, ""):
            yield
            return
        if isinstance(conversation, int | UUID):
            conversation = str(conversation)
        turns = self._turns.get(conversation, [])
        if len(turns) >= self._most or any(earlier.task is task for earlier in turns):
            text = f"a turn of the conversation {shown(conversation)} is running; wait for its end"
            raise TurnLimitError(text)
        if self._when_busy == "replace":
            for earlier in turns:
                earlier.replace()
        mine = _Turn(task)
        self._turns[conversation] = [*turns, mine]
        try:
            if turns:
                await mine.may_begin.wait()
            yield
        except asyncio.CancelledError as error:
            # The limiter cancels a turn once; any further request is of somebody else.
            if not mine.replaced or task.cancelling() > mine.cancelling + 1:
                raise
            text = f"a later turn of the conversation {shown(conversation)} has replaced this one"
            raise TurnLimitError(text, code="turn_replaced") from error
        finally:
            if mine.replaced:
                task.uncancel()
            self._leave(conversation, mine)

    def _leave(self, conversation: Hashable, turn: _Turn) -> None:
        if left := [other for other in self._turns.pop(conversation) if other is not turn]:
            self._turns[conversation] = left
            left[0].may_begin.set()
