"""Sends turns to workers, and waits for how they end."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stageflow.closing import AsyncClosing
from stageflow.cluster.broker import Address, Parcel, Sender
from stageflow.cluster.errors import (
    BrokerUnavailableError,
    ClusterError,
    MissingInputsError,
    NoWorkerError,
    ProtocolMismatchError,
    UnservedPipelineError,
)
from stageflow.cluster.tasks import cancel_all
from stageflow.cluster.turn import (
    MAX_PAYLOAD_BYTES,
    PROTOCOL,
    Turn,
    TurnResult,
    Wire,
    check_counts,
    check_durations,
    decode_card,
)
from stageflow.context import RunStatus
from stageflow.dlq.capture import see_through
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.errors import DeadlineExceededError

_log = logging.getLogger("stageflow.cluster")

_HANDSHAKE_PAUSE_S = 0.2
#: What is left of a deadline that has passed: the turn is sent, and refused as too late.
_LEAST_S = 0.001


@dataclass(slots=True)
class _Waiting:
    parcel: Parcel
    sent_at: float
    end: asyncio.Future[bytes]
    #: Several may send one key, and then wait for the one end.
    callers: int = 0


class Dispatcher(AsyncClosing):
    """Sends turns over a broker; an async context manager, of one event loop.

    Back-pressure has two sides: at most `max_outstanding` turns of this dispatcher are under way,
    further ones wait; and a queue in which `max_queued` turns of a pipeline wait or run takes no
    more, whoever sends them.
    """

    def __init__(
        self,
        broker: Sender,
        *,
        max_outstanding: int = 1_000,
        max_queued: int = 100_000,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        worker_patience_s: float = 10.0,
        grace_s: float = 2.0,
        codec: LetterCodec = DEFAULT_CODEC,
    ) -> None:
        """Choose the broker, which stays the caller's to close.

        Args:
            broker: Carries the turns.
            max_outstanding: How many turns of this dispatcher may be under way at once.
            max_queued: How many turns of one pipeline may wait or run in one queue.
            max_payload_bytes: How large a turn may be.
            worker_patience_s: How long to wait for a first worker of a queue, in seconds.
            grace_s: How long after its deadline a turn's end is waited for, in seconds.
            codec: Knows the types that inputs and outputs hold.

        Raises:
            InvalidConfigError: A number is not positive.
        """
        check_counts(
            "Dispatcher",
            max_outstanding=max_outstanding,
            max_queued=max_queued,
            max_payload_bytes=max_payload_bytes,
        )
        check_durations("Dispatcher", worker_patience_s=worker_patience_s, grace_s=grace_s)
        self._broker = broker
        self._slots = asyncio.Semaphore(max_outstanding)
        self._max_queued = max_queued
        self._worker_patience_s = worker_patience_s
        self._grace_s = grace_s
        self._wire = Wire(codec, max_payload_bytes=max_payload_bytes)
        self._name = uuid.uuid4().hex
        #: Turns whose end is waited for, by key.
        self._waiting: dict[str, _Waiting] = {}
        self._inputs_of: dict[Address, tuple[str, ...]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop listening for answers; turns that were sent go on."""
        if self._reader is not None:
            await cancel_all((self._reader,))
            self._reader = None

    async def run(
        self,
        pipeline: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        queue: str = "default",
        deadline_s: float | None = None,
        outputs: Sequence[str] | None = None,
    ) -> TurnResult:
        """Have a turn run by some worker, and wait for its end.

        When the caller is cancelled the worker is told to cancel the run, which then ends there;
        it is not waited for.

        Args:
            pipeline: Name of the pipeline.
            inputs: Inputs of the run.
            key: Idempotency key, by which the turn can be sent again; a new one if left out.
            queue: Which workers may run it.
            deadline_s: Seconds that it may take, waiting included; None for no limit.
            outputs: Which outputs are wanted; all if left out.

        Returns:
            How the turn ended. A failure is a result, not an exception.

        Raises:
            ClusterError: It was not sent, for one of these reasons.
            NoWorkerError: No worker reads the queue.
            UnservedPipelineError: The workers do not know the pipeline.
            ProtocolMismatchError: They speak another version of the protocol.
            MissingInputsError: The pipeline needs more inputs.
            IncompatiblePayloadError: An input is of a type that cannot be sent.
            PayloadTooLargeError: The turn is too large.
            KeyConflictError: The key belongs to another turn.
            QueueFullError: The queue takes no more.
            BrokerUnavailableError: The broker is away. What was sent may run all the same: send it
                again under its key.
        """
        wanted = None if outputs is None else tuple(outputs)
        name = key if key is not None else uuid.uuid4().hex
        turn = Turn(pipeline, dict(inputs or {}), name, queue, deadline_s, wanted)
        return await self.send(turn)

    async def send(self, turn: Turn) -> TurnResult:
        """The same for a turn that is at hand."""
        body, digest = self._wire.encode_turn(turn)
        address = Address(turn.queue, turn.pipeline)
        loop = asyncio.get_running_loop()
        ends_at = None if turn.deadline_s is None else loop.time() + turn.deadline_s
        try:
            async with asyncio.timeout_at(ends_at):
                await self._slots.acquire()
        except TimeoutError:
            return self._too_late(turn)
        try:
            async with asyncio.timeout_at(ends_at):
                await self._shake_hands(address, turn.inputs)
            remaining_s = None if ends_at is None else max(ends_at - loop.time(), _LEAST_S)
            parcel = Parcel(turn.key, address, body, digest, remaining_s)
            return await self._sent(turn, parcel, ends_at)
        except TimeoutError:
            return self._too_late(turn)
        finally:
            self._slots.release()

    async def _sent(self, turn: Turn, parcel: Parcel, ends_at: float | None) -> TurnResult:
        try:
            answer = await self._answer(parcel, ends_at)
        except TimeoutError:
            return await self._expire(turn, parcel)
        except asyncio.CancelledError:
            await self._call_off(turn.key)
            raise
        return self._wire.decode_result(turn.key, answer)

    async def cancel(self, key: str) -> None:
        """Have the turn of that key cancelled, whoever has sent it; one that has ended stays so.

        Raises:
            BrokerUnavailableError: The broker is away.
        """
        await self._broker.cancel(key)

    # ── before ──────────────────────────────────────────────────────────────────────────────

    async def _shake_hands(self, address: Address, inputs: Mapping[str, Any]) -> None:
        """Make sure, once for an address, that its workers can run what is to be sent."""
        if address not in self._inputs_of:
            self._inputs_of[address] = await self._served(address)
        missing = [key for key in self._inputs_of[address] if key not in inputs]
        if missing:
            raise MissingInputsError(address.pipeline, missing, inputs)

    async def _served(self, address: Address) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._worker_patience_s
        while True:
            cards = [decode_card(body) for body in (await self._broker.cards()).values()]
            readers = [card for card in cards if address.queue in card.queues]
            for card in readers:
                if address.pipeline in card.inputs:
                    return card.inputs[address.pipeline]
            if readers:
                served = {name for card in readers for name in card.inputs}
                raise UnservedPipelineError(address.pipeline, address.queue, served)
            for card in cards:
                if card.protocol != PROTOCOL:
                    who = f"a worker (stageflow {card.version})"
                    raise ProtocolMismatchError(who, PROTOCOL, card.protocol)
            if loop.time() >= give_up_at:
                raise NoWorkerError(address.queue, address.pipeline, self._worker_patience_s)
            await asyncio.sleep(_HANDSHAKE_PAUSE_S)

    # ── meanwhile ───────────────────────────────────────────────────────────────────────────

    async def _answer(self, parcel: Parcel, ends_at: float | None) -> bytes:
        loop = asyncio.get_running_loop()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        fresh = _Waiting(parcel, loop.time(), loop.create_future())
        waiting = self._waiting.setdefault(parcel.key, fresh)
        waiting.callers += 1
        try:
            patience = None if ends_at is None else ends_at + self._grace_s
            async with asyncio.timeout_at(patience):
                answer = await self._broker.submit(parcel, self._name, limit=self._max_queued)
                return answer if answer is not None else await asyncio.shield(waiting.end)
        finally:
            waiting.callers -= 1
            if not waiting.callers:
                del self._waiting[parcel.key]

    async def _read(self) -> None:
        try:
            async for said in self._broker.answers(self._name):
                if said is None:
                    await self._send_again()
                    continue
                key, answer = said
                self._ended(key, answer)
        except BrokerUnavailableError as error:
            for waiting in self._waiting.values():
                if not waiting.end.done():
                    waiting.end.set_exception(error)

    async def _send_again(self) -> None:
        """After an outage: what is known is not kept twice, and what has ended is told again."""
        loop = asyncio.get_running_loop()
        for waiting in list(self._waiting.values()):
            parcel = waiting.parcel
            if parcel.remaining_s is not None:
                left_s = parcel.remaining_s - (loop.time() - waiting.sent_at)
                parcel = parcel._replace(remaining_s=max(left_s, _LEAST_S))
            with suppress(ClusterError):
                # Whatever is wrong with it, `submit` has told whoever sent it first.
                answer = await self._broker.submit(parcel, self._name, limit=self._max_queued)
                if answer is not None:
                    self._ended(parcel.key, answer)

    def _ended(self, key: str, answer: bytes) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.end.done():
            waiting.end.set_result(answer)

    # ── afterwards ──────────────────────────────────────────────────────────────────────────

    def _too_late(self, turn: Turn) -> TurnResult:
        assert turn.deadline_s is not None, "only a deadline can pass"
        failure = DeadlineExceededError(turn.deadline_s)
        return TurnResult(turn.key, turn.pipeline, RunStatus.FAILED, failure=failure)

    async def _expire(self, turn: Turn, parcel: Parcel) -> TurnResult:
        """Nobody has ended a turn in time: end it here, unless somebody is faster."""
        result = self._too_late(turn)
        await self._broker.cancel(turn.key)
        ours = self._wire.encode_result(result)
        if await self._broker.settle(turn.key, ours, str(result.status)):
            return result
        # Only to ask for that end: a broker that has lost the turn shall not have it run.
        late = parcel._replace(remaining_s=_LEAST_S)
        theirs = await self._broker.submit(late, self._name, limit=self._max_queued)
        return result if theirs is None else self._wire.decode_result(turn.key, theirs)

    async def _call_off(self, key: str) -> None:
        called_off, _ = await see_through(self._cancel_in_time(key))
        if error := called_off.exception():
            _log.warning("turn %s was not called off: %s", key, error)

    async def _cancel_in_time(self, key: str) -> None:
        async with asyncio.timeout(self._grace_s):
            await self._broker.cancel(key)
