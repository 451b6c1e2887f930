"""Dead letters of turns: one a turn, however often it runs, also if the store is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from stageflow.cluster.turn import letter_id_of
from stageflow.dlq.store import DeadLetterStore
from stageflow.errors import (
    DeadLetterStoreError,
    DuplicateDeadLetterError,
    UnknownDeadLetterError,
)
from stageflow.letter import DeadLetter

T = TypeVar("T")

_log = logging.getLogger("stageflow.cluster")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class TurnLetterBox:
    """A `LetterBox` for one turn: its letter has an id that follows from the turn's key."""

    def __init__(self, store: DeadLetterStore, key: str, *, patience_s: float) -> None:
        """Choose where letters go.

        Args:
            store: Keeps them.
            key: Idempotency key of the turn.
            patience_s: How long to try a store that fails, in seconds.
        """
        self._store = store
        self._id = letter_id_of(key)
        self._patience_s = patience_s
        #: Id of the letter that was kept; None if none was.
        self.kept: str | None = None

    async def put(self, letter: DeadLetter) -> None:
        """See `LetterBox`; a letter that an earlier attempt at the turn has left stays as it is."""
        try:
            await self._patiently(lambda: self._store.put(replace(letter, id=self._id)))
        except DuplicateDeadLetterError:
            _log.info("an earlier attempt has left the dead letter %s", self._id)
        self.kept = self._id

    async def earlier(self) -> DeadLetter | None:
        """The letter of an earlier attempt, which failed for good and whose worker then died."""
        try:
            return await self._patiently(lambda: self._store.get(self._id))
        except UnknownDeadLetterError:
            return None
        except DeadLetterStoreError as error:
            _log.warning("whether there is a dead letter %s cannot be told: %s", self._id, error)
            return None

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except DeadLetterStoreError as error:
                if loop.time() + pause_s > give_up_at:
                    raise
                _log.warning("the dead letter %s has to wait: %s", self._id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
