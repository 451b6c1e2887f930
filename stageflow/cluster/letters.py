"""Dead letters of turns: one a turn, however often it runs, also if the store is away."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from stageflow.cluster.turn import letter_id_of
from stageflow.errors import DeadLetterStoreError, DuplicateDeadLetterError
from stageflow.letter import DeadLetter, LetterBox

_log = logging.getLogger("stageflow.cluster")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class TurnLetterBox:
    """A `LetterBox` for one turn: its letter has an id that follows from the turn's key."""

    def __init__(self, box: LetterBox, key: str, *, patience_s: float) -> None:
        """Choose where letters go.

        Args:
            box: Keeps them.
            key: Idempotency key of the turn.
            patience_s: How long to try a box that fails, in seconds.
        """
        self._box = box
        self._id = letter_id_of(key)
        self._patience_s = patience_s
        #: Id of the letter that was kept; None if none was.
        self.kept: str | None = None

    async def put(self, letter: DeadLetter) -> None:
        """See `LetterBox`; tries again as long as one has patience.

        A letter that an earlier attempt at the turn has left stays as it is.
        """
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                await self._box.put(replace(letter, id=self._id))
            except DuplicateDeadLetterError:
                _log.info("an earlier attempt has left the dead letter %s", self._id)
            except DeadLetterStoreError as error:
                if loop.time() + pause_s > give_up_at:
                    raise
                _log.warning("the dead letter %s has to wait: %s", self._id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self.kept = self._id
            return
