"""Takes turns from a broker, runs them, and puts on record how they end."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from stageflow.cluster.broker import Address, Delivery, Receiver
from stageflow.cluster.errors import (
    PayloadTooLargeError,
    RemoteTurnError,
    TurnAbandonedError,
    TurnCancelledError,
)
from stageflow.cluster.letters import TurnLetterBox
from stageflow.cluster.tasks import cancel_all
from stageflow.cluster.turn import (
    MAX_PAYLOAD_BYTES,
    Turn,
    TurnResult,
    Wire,
    card_of,
    check_counts,
    check_durations,
    check_name,
    encode_card,
    letter_id_of,
    seed_of,
)
from stageflow.context import PipelineContext, RunStatus
from stageflow.dlq.capture import see_through
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.dlq.store import DeadLetterStore
from stageflow.errors import (
    DeadLetterError,
    DeadlineExceededError,
    InvalidConfigError,
    StageflowError,
)
from stageflow.letter import DeadLetter, LetterError
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.providers.registry import ProviderRegistry
from stageflow.result import RunResult

_log = logging.getLogger("stageflow.cluster")

#: How long a worker that is to stop may take to notice, in seconds.
_TAKE_WAIT_S = 0.2


class _Why(Enum):
    """Why a worker cancels a run."""

    CALLED_OFF = "its sender has called it off"
    LOST = "somebody else has taken it over, or ended it"
    STOPPING = "the worker stops"


@dataclass(slots=True, eq=False)
class _Held:
    """A turn that the worker is at."""

    delivery: Delivery
    task: asyncio.Task[None] | None = None
    why: _Why | None = None

    def stop(self, why: _Why) -> None:
        if self.why is None and self.task is not None:
            self.why = why
            self.task.cancel()


class Worker:
    """Runs the turns of some pipelines and queues, several at once, in one event loop.

    A turn is acknowledged when its end is on record, so one whose worker dies is taken over by
    another when its lease has run out. Its run has the turn's key as its correlation id, and an id
    that follows from the key: both are those of every other attempt.
    """

    def __init__(
        self,
        orchestrators: Iterable[PipelineOrchestrator],
        broker: Receiver,
        *,
        queues: Sequence[str] = ("default",),
        concurrency: int = 16,
        providers: ProviderRegistry | None = None,
        dead_letters: DeadLetterStore | None = None,
        name: str | None = None,
        lease_s: float = 10.0,
        max_deliveries: int = 5,
        drain_s: float = 20.0,
        letter_patience_s: float = 60.0,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        codec: LetterCodec = DEFAULT_CODEC,
    ) -> None:
        """Choose what to serve.

        Args:
            orchestrators: What runs each pipeline; turns name it by the name of its graph.
            broker: Where turns come from; it stays the caller's to close.
            queues: The queues to read; name one for each kind of hardware that this machine has.
            concurrency: How many turns to run at once; no more are taken.
            providers: What stages call.
            dead_letters: Where turns that fail for good are kept.
            name: What it is called in results; host, process and a random part if left out.
            lease_s: How long a turn stays its own without a sign of life, in seconds. A stage that
                blocks the event loop for longer loses its turn to another worker.
            max_deliveries: A turn that so many workers did not live to end is given up.
            drain_s: How long `serve` lets turns go on once it is to stop, in seconds.
            letter_patience_s: How long a dead letter waits for a store that fails, in seconds.
            max_payload_bytes: How large a turn, or its answer, may be.
            codec: Knows the types that inputs and outputs hold.

        Raises:
            InvalidConfigError: A number is not positive, a queue's name is none, or two pipelines
                have one name.
        """
        check_counts(
            "Worker",
            concurrency=concurrency,
            max_deliveries=max_deliveries,
            max_payload_bytes=max_payload_bytes,
        )
        check_durations(
            "Worker", lease_s=lease_s, drain_s=drain_s, letter_patience_s=letter_patience_s
        )
        for queue in queues:
            check_name("Worker", "queues", queue)
        self._orchestrators = _by_name(orchestrators)
        self._broker = broker
        self._addresses = [
            Address(q, p) for q in dict.fromkeys(queues) for p in self._orchestrators
        ]
        self._concurrency = concurrency
        self._providers = providers
        self._dead_letters = dead_letters
        self.name = name or f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self._lease_s = lease_s
        self._max_deliveries = max_deliveries
        self._drain_s = drain_s
        self._letter_patience_s = letter_patience_s
        self._wire = Wire(codec, max_payload_bytes=max_payload_bytes)
        graphs = {name: one.graph for name, one in self._orchestrators.items()}
        self._card = encode_card(card_of(tuple(queues), graphs))
        self._held: dict[str, _Held] = {}
        #: Set when a turn may be taken, or none any more.
        self._room = asyncio.Event()
        self._running = 0
        self._stopping = False
        self._failed: asyncio.Future[None] | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Take turns until `stop` is set; then end what runs, or give it back after `drain_s`.

        Raises:
            BrokerUnavailableError: The broker was away for longer than it is waited for.
        """
        await self._join()
        self._failed = asyncio.get_running_loop().create_future()
        stopping = asyncio.create_task(self._stop_taking(stop))
        taking = [asyncio.create_task(work) for work in (self._take(), self._take_over(stop))]
        watching = [asyncio.create_task(work) for work in (self._renew(), self._listen())]
        try:
            ends = (stopping, self._failed, *taking, *watching)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await self._broker.leave(self.name)
                # Not cancelled: what is taken in this moment would wait for its lease to run out.
                await asyncio.wait(taking, timeout=self._drain_s)
                await self._drain()
        finally:
            await cancel_all([stopping, *taking])
            await self._abort()
            await cancel_all(watching)
        for ended in (self._failed, *taking, *watching):
            if ended.done() and not ended.cancelled():
                ended.result()

    async def _stop_taking(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        self._room.set()

    # ── taking ──────────────────────────────────────────────────────────────────────────────

    async def _join(self) -> None:
        # As long as a lease, and a bit: a worker that is late for a moment stays known.
        ttl_s = 3 * self._lease_s
        await self._broker.join(self.name, self._card, self._addresses, ttl_s=ttl_s)

    async def _take(self) -> None:
        while count := await self._slots():
            for delivery in await self._broker.take(
                self.name, self._addresses, count=count, wait_s=_TAKE_WAIT_S
            ):
                self._begin(delivery)

    async def _take_over(self, stop: asyncio.Event) -> None:
        while count := await self._slots():
            for delivery in await self._broker.take_over(
                self.name, self._addresses, count=count, lease_s=self._lease_s
            ):
                _log.warning("turn %s is taken over, time %d", delivery.key, delivery.deliveries)
                self._begin(delivery)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / 4):
                    await stop.wait()

    async def _slots(self) -> int:
        """How many more turns may be taken, once there may be any; 0 when the worker stops.

        This is the wire's back-pressure: what is not taken waits in the broker.
        """
        while self._running >= self._concurrency and not self._stopping:
            self._room.clear()
            await self._room.wait()
        return 0 if self._stopping else self._concurrency - self._running

    def _begin(self, delivery: Delivery) -> None:
        if delivery.key in self._held:
            # This loop was blocked for longer than the lease, and has the turn still.
            return
        held = self._held[delivery.key] = _Held(delivery)
        self._running += 1
        held.task = asyncio.create_task(self._carry(held))

    async def _carry(self, held: _Held) -> None:
        delivery = held.delivery
        try:
            try:
                result = await self._outcome(held)
            finally:
                # The next turn may run while the end of this one is put on record.
                self._running -= 1
                self._room.set()
            if result is not None:
                # Whoever is told to stop now has an end to put on record first.
                settling = self._broker.settle(delivery.key, *self._answer(result))
                settled, _ = await see_through(settling)
                settled.result()
        except Exception as error:
            # A turn must not be lost by an error of ours: the worker ends, and others take over.
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)
        finally:
            del self._held[delivery.key]

    def _answer(self, result: TurnResult) -> tuple[bytes, str]:
        try:
            return self._wire.encode_result(result), str(result.status)
        except PayloadTooLargeError as error:
            small = replace(result, status=RunStatus.FAILED, outputs={}, failure=error)
            return self._wire.encode_result(small), str(small.status)

    # ── one turn ────────────────────────────────────────────────────────────────────────────

    async def _outcome(self, held: _Held) -> TurnResult | None:
        """How a turn ends; None if that is for another worker to say."""
        delivery = held.delivery
        refused = TurnResult(
            delivery.key,
            delivery.address.pipeline,
            RunStatus.FAILED,
            worker=self.name,
            deliveries=delivery.deliveries,
        )
        box = None
        if self._dead_letters is not None:
            patience_s = self._letter_patience_s
            box = TurnLetterBox(self._dead_letters, delivery.key, patience_s=patience_s)
        try:
            turn = self._wire.decode_turn(delivery.key, delivery.address.queue, delivery.body)
            if box is not None and delivery.deliveries > 1 and (letter := await box.earlier()):
                return _failed_before(refused, letter)
            if delivery.cancelled:
                raise TurnCancelledError
            if delivery.deliveries > self._max_deliveries:
                return await self._abandoned(turn, refused, box)
            return await self._run(turn, delivery, refused, box)
        except StageflowError as error:
            cancelled = isinstance(error, TurnCancelledError)
            status = RunStatus.CANCELLED if cancelled else RunStatus.FAILED
            return replace(refused, status=status, failure=error)
        except asyncio.CancelledError:
            if held.why is _Why.CALLED_OFF:
                return replace(refused, status=RunStatus.CANCELLED, failure=TurnCancelledError())
            return None

    async def _run(
        self, turn: Turn, delivery: Delivery, so_far: TurnResult, box: TurnLetterBox | None
    ) -> TurnResult:
        remaining_s = delivery.remaining_s
        if remaining_s is not None and remaining_s <= 0:
            raise DeadlineExceededError(turn.deadline_s or 0.0)
        context = PipelineContext(
            turn.inputs,
            providers=self._providers,
            deadline_s=remaining_s,
            correlation_id=turn.key,
            seed=seed_of(turn.key),
            dead_letters=box,
        )
        result = await self._orchestrators[turn.pipeline].run(context)
        return replace(
            so_far,
            status=result.status,
            outputs=_wanted(turn, result),
            failure=result.failure,
            pipeline_run_id=result.pipeline_run_id,
            duration_ms=result.duration_ms,
            dead_letter=box.kept if box is not None else None,
            dead_letter_error=_text(result.dead_letter_error),
        )

    async def _abandoned(
        self, turn: Turn, so_far: TurnResult, box: TurnLetterBox | None
    ) -> TurnResult:
        """Give up a turn that its workers did not survive; it is kept, to be looked at."""
        error = TurnAbandonedError(so_far.deliveries - 1)
        result = replace(so_far, failure=error)
        if box is None:
            return result
        described = LetterError(error.code, str(error.category), str(error), error.user_message)
        letter = DeadLetter(
            id=letter_id_of(turn.key),
            created_at=datetime.now(UTC),
            pipeline=turn.pipeline,
            pipeline_run_id=PipelineContext(seed=seed_of(turn.key)).new_id(),
            correlation_id=turn.key,
            failed_stage=None,
            error=described,
            inputs=turn.inputs,
            stages={},
            seed=seed_of(turn.key),
        )
        try:
            await box.put(letter)
        except DeadLetterError as problem:
            return replace(result, dead_letter_error=str(problem))
        return replace(result, dead_letter=box.kept)

    # ── watching ────────────────────────────────────────────────────────────────────────────

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            if not self._stopping:
                await self._join()
            held = [one.delivery for one in self._held.values()]
            lost, cancelled = await self._broker.renew(self.name, held)
            for key in lost:
                self._stop(key, _Why.LOST)
            for key in cancelled:
                self._stop(key, _Why.CALLED_OFF)

    async def _listen(self) -> None:
        async with self._broker.cancellations() as keys:
            async for key in keys:
                self._stop(key, _Why.CALLED_OFF)

    def _stop(self, key: str, why: _Why) -> None:
        held = self._held.get(key)
        if held is not None:
            _log.info("turn %s is cancelled: %s", key, why.value)
            held.stop(why)

    # ── stopping ────────────────────────────────────────────────────────────────────────────

    async def _drain(self) -> None:
        tasks = [held.task for held in self._held.values() if held.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._drain_s)

    async def _abort(self) -> None:
        """Cancel what still runs, and let others take it over at once."""
        left = list(self._held.values())
        for held in left:
            held.stop(_Why.STOPPING)
        tasks = [held.task for held in left if held.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        if left and self._stopping:
            await self._broker.give_back(self.name, [held.delivery for held in left])


def _by_name(orchestrators: Iterable[PipelineOrchestrator]) -> dict[str, PipelineOrchestrator]:
    found: dict[str, PipelineOrchestrator] = {}
    for orchestrator in orchestrators:
        name = orchestrator.graph.name
        check_name("Worker", "orchestrators", name)
        if name in found:
            mend = "give each pipeline a name of its own"
            raise InvalidConfigError("Worker", "orchestrators", name, mend)
        found[name] = orchestrator
    if not found:
        raise InvalidConfigError("Worker", "orchestrators", [], "give at least one pipeline")
    return found


def _failed_before(so_far: TurnResult, letter: DeadLetter) -> TurnResult:
    """The end of a turn that failed before, as its letter tells: it is not run once more."""
    error = letter.error
    failure = RemoteTurnError(
        error.code,
        error.category,
        error.message,
        error.user_message,
        stage=letter.failed_stage,
        pipeline_run_id=letter.pipeline_run_id,
    )
    return replace(
        so_far,
        failure=failure,
        pipeline_run_id=letter.pipeline_run_id,
        dead_letter=letter.id,
    )


def _wanted(turn: Turn, result: RunResult) -> Mapping[str, Any]:
    outputs = result.outputs
    if turn.outputs is None:
        return outputs
    return {key: outputs[key] for key in turn.outputs if key in outputs}


def _text(error: StageflowError | None) -> str | None:
    return None if error is None else str(error)
