"""Report to the sinks which dead letters are put and replayed.

This takes events of its own, since a dead letter is written after the last event of its run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from stageflow.dlq.store import Claim, DeadLetterStore
from stageflow.engine.dead_letter import DeadLetter, Unstorable
from stageflow.events import EventDispatcher, EventLog

DEAD_LETTER_WAITING = "dead_letter.waiting"
DEAD_LETTER_REPLAYED = "dead_letter.replayed"


class ObservedDeadLetterStore:
    """A `DeadLetterStore` around another one.

    A letter that was put is an event ``dead_letter.waiting`` with the id of its run, and one that
    was replayed an event ``dead_letter.replayed``, with sequence 1 and no stage. ``data`` holds
    ``dead_letter_id``, ``created_at`` (ISO 8601), ``pipeline``, ``failed_stage``, ``provider``,
    ``error_code`` and, of the latter, ``replay_run_id``.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        dispatcher: EventDispatcher,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Wrap a store; `wall_clock` returns seconds since the epoch."""
        self._store = store
        self._dispatcher = dispatcher
        self._wall_clock = wall_clock
        self.get, self.letters, self.unreadable = store.get, store.letters, store.unreadable
        self.delete = store.delete
        self.claim, self.renew, self.put_back = store.claim, store.renew, store.put_back

    async def put(self, letter: DeadLetter) -> Mapping[str, Unstorable] | None:
        lost = await self._store.put(letter)
        self._report(DEAD_LETTER_WAITING, letter)
        return lost

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        await self._store.finish(claim, replay_run_id)
        self._report(DEAD_LETTER_REPLAYED, claim.letter, replay_run_id=replay_run_id)

    def _report(self, kind: str, letter: DeadLetter, **more: Any) -> None:
        now = self._wall_clock()
        log = EventLog(letter.pipeline_run_id, now, now)
        self._dispatcher.attach(log)
        data = {
            "dead_letter_id": letter.id,
            "created_at": letter.created_at.isoformat(),
            "pipeline": letter.pipeline,
            "failed_stage": letter.failed_stage,
            "provider": letter.error.provider,
            "error_code": letter.error.code,
        }
        log.append((kind, now, None, {**data, **more}))
