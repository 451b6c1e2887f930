"""A dead-letter store that tells the sinks what comes into it, and what is replayed.

A run's own events end with the run, and its dead letter is written after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from stageflow.dispatch import EventDispatcher
from stageflow.dlq.store import Claim, DeadLetterStore
from stageflow.events import EventLog
from stageflow.letter import DeadLetter, LetterState

LETTER_WAITING = "dead_letter.waiting"
LETTER_REPLAYED = "dead_letter.replayed"


class ObservedLetterStore:
    """A `DeadLetterStore` around another one.

    A letter that has been put is an event ``dead_letter.waiting`` with the id of its run, and one
    that has been replayed an event ``dead_letter.replayed``; ``data`` holds ``letter_id``,
    ``created_at`` (ISO 8601), ``pipeline``, ``failed_stage``, ``provider`` and ``error_code``, and
    the latter ``replay_run_id`` besides. Events of letters have sequence 1 and no stage.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        dispatcher: EventDispatcher,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Choose the two.

        Args:
            store: Keeps the letters.
            dispatcher: Where the events go.
            wall_clock: Seconds since the epoch.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._wall_clock = wall_clock

    async def put(self, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        await self._store.put(letter)
        self._tell(LETTER_WAITING, letter)

    async def get(self, letter_id: str) -> DeadLetter:
        """See `DeadLetterStore`."""
        return await self._store.get(letter_id)

    async def letters(self, state: LetterState | None = None) -> tuple[DeadLetter, ...]:
        """See `DeadLetterStore`."""
        return await self._store.letters(state)

    async def claim(self, letter_id: str, *, lease_s: float) -> Claim:
        """See `DeadLetterStore`."""
        return await self._store.claim(letter_id, lease_s=lease_s)

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        """See `DeadLetterStore`."""
        await self._store.renew(claim, lease_s=lease_s)

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        """See `DeadLetterStore`."""
        await self._store.finish(claim, replay_run_id)
        self._tell(LETTER_REPLAYED, claim.letter, replay_run_id=replay_run_id)

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        await self._store.put_back(claim, letter)

    def _tell(self, kind: str, letter: DeadLetter, **more: Any) -> None:
        now = self._wall_clock()
        log = EventLog(letter.pipeline_run_id, now, now)
        self._dispatcher.attach(log)
        data = {
            "letter_id": letter.id,
            "created_at": letter.created_at.isoformat(),
            "pipeline": letter.pipeline,
            "failed_stage": letter.failed_stage,
            "provider": letter.error.provider,
            "error_code": letter.error.code,
        }
        log.append((kind, now, None, {**data, **more}))
