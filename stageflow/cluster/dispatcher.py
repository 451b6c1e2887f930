"""Send jobs to workers and wait for their results."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from stageflow._utils.closing import AsyncClosing
from stageflow._utils.tasks import cancel_all, off_loop, shielded
from stageflow.cluster import job as jobs
from stageflow.cluster.broker import Address, Broker, ClusterError, Envelope
from stageflow.codec import DEFAULT_CODEC, Codec, is_large
from stageflow.engine import RunStatus, StageContext, StageKind, StageOutput, StageSpec
from stageflow.errors import ChildRunError, DeadlineExceededError, InvalidConfigError, did_you_mean
from stageflow.errors.data import require_counts, require_durations

_log = logging.getLogger("stageflow.cluster")

_LOOK_AGAIN_S = 0.2
#: How long the list of workers is used before it is read again, in seconds.
_FRESH_S = 1.0
#: Sent as the time left when a deadline has passed: the worker then refuses the job.
_LEAST_S = 0.001
#: Name of the provider that holds the dispatcher of remote stages.
_PROVIDER = "cluster"


@dataclass(slots=True)
class _Waiting:
    envelope: Envelope
    sent_at: float
    end: asyncio.Future[bytes]
    #: How many callers wait for this key.
    callers: int = 0


class Dispatcher(AsyncClosing):
    """Sends jobs over a broker; an async context manager for one event loop.

    Beyond `max_outstanding` jobs under way, further ones wait here. A queue that holds `max_queued`
    jobs of a pipeline refuses more.

    Args:
        broker: Carries the jobs; the caller closes it.
        max_outstanding: How many jobs of this dispatcher may be under way at once.
        max_queued: How many jobs of one pipeline may wait or run in one queue.
        max_payload_bytes: Size limit of a job in bytes.
        worker_patience_s: How long to wait for a worker if none reads the queue, in seconds.
        grace_s: How long to wait for a job's result after its deadline, in seconds.
        codec: Knows the types that inputs and outputs hold.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        max_outstanding: int = 1_000,
        max_queued: int = 100_000,
        max_payload_bytes: int = jobs.MAX_PAYLOAD_BYTES,
        worker_patience_s: float = 10.0,
        grace_s: float = 2.0,
        codec: Codec = DEFAULT_CODEC,
    ) -> None:
        require_counts("Dispatcher", max_outstanding=max_outstanding, max_queued=max_queued)
        require_counts("Dispatcher", max_payload_bytes=max_payload_bytes)
        require_durations("Dispatcher", worker_patience_s=worker_patience_s, grace_s=grace_s)
        self._broker = broker
        self._slots = asyncio.Semaphore(max_outstanding)
        self._max_queued = max_queued
        self._worker_patience_s = worker_patience_s
        self._grace_s = grace_s
        self._wire = jobs.Wire(codec, max_payload_bytes=max_payload_bytes)
        self._name = uuid.uuid4().hex
        #: Jobs whose end is waited for, by key.
        self._waiting: dict[str, _Waiting] = {}
        #: The inputs that each worker of an address needs; versions of a pipeline may differ.
        self._inputs_of: dict[Address, list[tuple[str, ...]]] = {}
        self._outdated_at: dict[Address, float] = {}
        self._reader: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop listening for answers; jobs that were sent go on."""
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
    ) -> jobs.JobResult:
        """Run a job on a worker and return its result, which may be a failure.

        If the caller is cancelled, the worker cancels the run, whose clean-up is not awaited.

        Args:
            pipeline: Name of the pipeline.
            inputs: Inputs of the run.
            key: Idempotency key, under which the job can be sent again; a new one by default.
            queue: Which workers may run it.
            deadline_s: Limit in seconds, time in the queue included; None for no limit.
            outputs: Which outputs to return; by default all but streams that were not kept.

        Raises:
            ClusterError: The job was not sent; the code says why.
            BrokerUnavailableError: The broker cannot be reached. The job may still run: send it
                again under its key.
        """
        if isinstance(outputs, str):
            raise InvalidConfigError("Dispatcher.run", "outputs", outputs, "give a list of keys")
        wanted = None if outputs is None else tuple(outputs)
        key = uuid.uuid4().hex if key is None else key
        return await self.send(
            jobs.Job(pipeline, dict(inputs or {}), key, queue, deadline_s, wanted)
        )

    async def send(self, job: jobs.Job) -> jobs.JobResult:
        """Run a `Job`; see `run`."""
        encode = partial(self._wire.encode_job, job)
        body, digest = await off_loop(encode, large=is_large(job.inputs))
        address = Address(job.queue, job.pipeline)
        loop = asyncio.get_running_loop()
        ends_at = None if job.deadline_s is None else loop.time() + job.deadline_s
        try:
            async with asyncio.timeout_at(ends_at):
                await self._slots.acquire()
            try:
                async with asyncio.timeout_at(ends_at):
                    await self._check_inputs(address, job)
                remaining_s = None if ends_at is None else max(ends_at - loop.time(), _LEAST_S)
                envelope = Envelope(job.key, address, body, digest, remaining_s)
                return await self._sent(job, envelope, ends_at)
            finally:
                self._slots.release()
        except TimeoutError:
            return self._too_late(job)

    async def _sent(
        self, job: jobs.Job, envelope: Envelope, ends_at: float | None
    ) -> jobs.JobResult:
        try:
            answer = await self._answer(envelope, ends_at)
        except TimeoutError:
            return await self._expire(job, envelope)
        except asyncio.CancelledError:
            stopping = asyncio.wait_for(self._broker.cancel(job.key), self._grace_s)
            cancelling, _ = await shielded(stopping)
            if error := cancelling.exception():
                _log.warning("job %s was not cancelled on its worker: %s", job.key, error)
            raise
        decode = partial(self._wire.decode_result, job.key, answer)
        return await off_loop(decode, large=is_large(answer))

    async def cancel(self, key: str) -> None:
        """Cancel the job with this key, from any dispatcher, unless it has ended."""
        await self._broker.cancel(key)

    async def _check_inputs(self, address: Address, job: jobs.Job) -> None:
        """Raise unless a worker can run the job."""

        def lacking(needed: list[tuple[str, ...]]) -> list[str]:
            return min(([key for key in keys if key not in job.inputs] for keys in needed), key=len)

        known, now = self._inputs_of.get(address), asyncio.get_running_loop().time()
        if known is None or lacking(known) or now >= self._outdated_at[address]:
            self._outdated_at[address] = now + _FRESH_S  # one caller reads, the others go on
            known = self._inputs_of[address] = await self._served(address)
        if missing := lacking(known):
            raise jobs.missing_inputs("each of its workers", job, missing)

    async def _served(self, address: Address) -> list[tuple[str, ...]]:
        loop, (queue, pipeline) = asyncio.get_running_loop(), address
        give_up_at = loop.time() + self._worker_patience_s
        warned = address not in self._inputs_of  # at the start, workers may be about to register
        while True:
            workers = [
                jobs.decode_worker_info(body) for body in (await self._broker.workers()).values()
            ]
            of_protocol = [worker for worker in workers if worker.protocol == jobs.PROTOCOL]
            readers = [worker.inputs for worker in of_protocol if queue in worker.queues]
            if found := [inputs[pipeline] for inputs in readers if pipeline in inputs]:
                return found
            if readers:
                served = sorted({name for inputs in readers for name in inputs})
                text = (
                    f"no worker of queue {queue!r} serves pipeline {pipeline!r}; they serve"
                    f" {', '.join(map(repr, served))}{did_you_mean(pipeline, served)}"
                )
                raise ClusterError(text, code="unserved_pipeline")
            if loop.time() >= give_up_at:
                for worker in workers:
                    if worker.protocol != jobs.PROTOCOL:
                        who = f"a worker (stageflow {worker.version})"
                        raise jobs.protocol_mismatch(who, worker.protocol)
                text = (
                    f"no worker has read queue {queue!r} for {self._worker_patience_s:g} s; start"
                    f" one: stageflow worker {pipeline} --queue {queue} --broker URL"
                )
                raise ClusterError(text, code="no_worker")
            if not warned:
                _log.warning("no worker reads queue %r any more; %r waits", queue, pipeline)
                warned = True
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _answer(self, envelope: Envelope, ends_at: float | None) -> bytes:
        loop = asyncio.get_running_loop()
        fresh = _Waiting(envelope, loop.time(), loop.create_future())
        waiting = self._waiting.setdefault(envelope.key, fresh)
        waiting.callers += 1
        try:
            if self._reader is None or self._reader.done():
                # An eager task may fail before it is returned, and notifies only present waiters.
                self._reader = asyncio.create_task(self._read())
            patience = None if ends_at is None else ends_at + self._grace_s
            async with asyncio.timeout_at(patience):
                answer = await self._broker.submit(envelope, self._name, limit=self._max_queued)
                return answer if answer is not None else await asyncio.shield(waiting.end)
        finally:
            waiting.callers -= 1
            if not waiting.callers:
                del self._waiting[envelope.key]

    async def _read(self) -> None:
        try:
            async for answer in self._broker.answers(self._name):
                if answer is None:
                    await self._send_again()
                else:
                    self._resolve(*answer)
        except Exception as error:
            for waiting in self._waiting.values():
                if not waiting.end.done():
                    waiting.end.set_exception(error)

    async def _send_again(self) -> None:
        """Submit pending jobs again: results may have been missed during an outage."""
        loop = asyncio.get_running_loop()
        for waiting in list(self._waiting.values()):
            envelope = waiting.envelope
            if envelope.remaining_s is not None:
                left_s = envelope.remaining_s - (loop.time() - waiting.sent_at)
                envelope = envelope._replace(remaining_s=max(left_s, _LEAST_S))
            with suppress(ClusterError):
                # The first `submit` has reported any such error to its caller.
                answer = await self._broker.submit(envelope, self._name, limit=self._max_queued)
                if answer is not None:
                    self._resolve(envelope.key, answer)

    def _resolve(self, key: str, answer: bytes) -> None:
        if (waiting := self._waiting.get(key)) and not waiting.end.done():
            waiting.end.set_result(answer)

    def _too_late(self, job: jobs.Job) -> jobs.JobResult:
        assert job.deadline_s is not None, "only a deadline can pass"
        failure = DeadlineExceededError(job.deadline_s)
        return jobs.JobResult(job.key, job.pipeline, RunStatus.FAILED, failure=failure)

    async def _expire(self, job: jobs.Job, envelope: Envelope) -> jobs.JobResult:
        """Complete a job whose deadline has passed, unless a worker completes it first."""
        result = self._too_late(job)
        await self._broker.cancel(job.key)
        ours = self._wire.encode_result(result)
        if await self._broker.complete(job.key, ours, str(result.status)):
            return result
        # Submitted only to fetch that result: if the broker lost the job, it must not run now.
        late = envelope._replace(remaining_s=_LEAST_S)
        theirs = await self._broker.submit(late, self._name, limit=self._max_queued)
        return result if theirs is None else self._wire.decode_result(job.key, theirs)


def remote_pipeline(
    name: str,
    pipeline: str,
    *,
    queue: str,
    dependencies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    streams: Sequence[str] = (),
    kind: StageKind = StageKind.WORK,
    required: bool = True,
    timeout_s: float | None = None,
) -> StageSpec:
    """Return a stage that runs another pipeline on the workers of a queue, such as GPU workers.

    This is `stageflow.subpipeline` across processes, and takes the same arguments. The stage uses
    the dispatcher that is registered as the provider ``cluster``. The job's key is derived from the
    run and the stage, so a worker that reclaims the run finds the job that the first worker sent.

    Raises:
        InvalidConfigError: `streams` are given: only outputs come back from another process.
    """
    if streams:
        fix = "read them where the pipeline runs, or give outputs=[…]"
        raise InvalidConfigError("remote_pipeline", "streams", streams, fix)

    async def dispatch(ctx: StageContext) -> StageOutput:
        dispatcher: Dispatcher = ctx.provider(_PROVIDER)
        absent = object()
        given = {key: ctx.get(key, absent) for key in inputs}
        limits = [limit for limit in (ctx.remaining_s(), timeout_s) if limit is not None]
        result = await dispatcher.run(
            pipeline,
            {key: value for key, value in given.items() if value is not absent},
            key=f"{ctx.pipeline_run_id}/{name}",
            queue=queue,
            deadline_s=max(min(limits), _LEAST_S) if limits else None,
            outputs=outputs,
        )
        if result.failure is not None:
            raise ChildRunError(pipeline, result.pipeline_run_id or result.key, result.failure)
        if result.refusal is not None:
            return StageOutput.refuse(result.refusal)
        return StageOutput.ok(result.outputs)

    return StageSpec(
        name,
        dispatch,
        dependencies=tuple(dependencies),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        kind=kind,
        required=required,
        timeout_s=timeout_s,
    )
