"""Take jobs from a broker, run them, and store their results."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from stageflow import errors as err
from stageflow._utils.tasks import cancel_all, off_loop, shielded
from stageflow.cluster import job as jobs
from stageflow.cluster.broker import Address, Broker, ClusterError, Delivery
from stageflow.codec import DEFAULT_CODEC, Codec, as_text, is_large, plain_failure
from stageflow.dlq.store import DeadLetterStore
from stageflow.engine import PipelineContext, PipelineOrchestrator, RunStatus, Stream
from stageflow.engine.dead_letter import DeadLetter, FailureRecord, Unstorable
from stageflow.errors.data import require_counts, require_durations
from stageflow.providers.registry import ProviderRegistry

T = TypeVar("T")

_log = logging.getLogger("stageflow.cluster")

#: How long a worker may take to notice that it must stop, in seconds.
_TAKE_WAIT_S = 0.2
#: How long the clean-up of cancelled jobs may take after `drain_s`, in seconds.
_CLEAN_UP_S = 5.0
#: Pauses between attempts to store a dead letter, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_WHY = {
    "cancelled": "its sender has called it off",
    "lost": "another worker has reclaimed or completed it",
    "stopping": "the worker stops",
}
#: Codes of jobs that a worker of another version may run.
_OTHER_VERSION = ("protocol_mismatch", "missing_job_inputs")


@dataclass(slots=True, eq=False)
class _Held:
    delivery: Delivery
    task: asyncio.Task[None] | None = None
    completing: asyncio.Task[None] | None = None
    why: str | None = None

    def stop(self, why: str) -> None:
        if self.why is None and self.task is not None:
            self.why = why
            self.task.cancel()


class Worker:
    """Runs the jobs of some pipelines and queues, several at once, in one event loop.

    A job is acknowledged when its result is stored. If its worker dies, another worker reclaims it
    when the lease has expired. All attempts have the same run id and correlation id.

    Args:
        orchestrators: One for each pipeline, found by the name of its graph.
        broker: Where jobs come from; the caller closes it.
        queues: The queues to read; use one for each kind of hardware of this machine.
        concurrency: How many jobs to take and run at once.
        providers: What stages call.
        dead_letters: Where failed jobs are stored.
        name: Its name in results; host, process and a random part by default.
        lease_s: After this many seconds without a renewal other workers reclaim a job. A stage that
            blocks the event loop for longer loses its job.
        max_deliveries: Give up a job after this many workers have died while they ran it.
        drain_s: How long `serve` lets jobs continue once it must stop, in seconds.
        letter_patience_s: How long to retry to store a dead letter, in seconds.
        max_payload_bytes: Size limit of a job or its answer in bytes.
        codec: Knows the types that inputs and outputs hold.
    """

    def __init__(
        self,
        orchestrators: Iterable[PipelineOrchestrator],
        broker: Broker,
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
        max_payload_bytes: int = jobs.MAX_PAYLOAD_BYTES,
        codec: Codec = DEFAULT_CODEC,
    ) -> None:
        require_counts("Worker", concurrency=concurrency, max_deliveries=max_deliveries)
        require_counts("Worker", max_payload_bytes=max_payload_bytes)
        require_durations("Worker", lease_s=lease_s, drain_s=drain_s)
        require_durations("Worker", letter_patience_s=letter_patience_s)
        for queue in queues:
            jobs.check_name("Worker", "queues", queue)
        self._orchestrators = _by_name(orchestrators)
        self._broker = broker
        served, read = self._orchestrators, dict.fromkeys(queues)
        self._addresses = [Address(queue, pipeline) for queue in read for pipeline in served]
        self._concurrency, self._max_deliveries = concurrency, max_deliveries
        self._providers, self._dead_letters = providers, dead_letters
        self.name = name or f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self._lease_s, self._drain_s = lease_s, drain_s
        self._letter_patience_s = letter_patience_s
        self._wire = jobs.Wire(codec, max_payload_bytes=max_payload_bytes)
        inputs = {name: tuple(one.graph.inputs) for name, one in self._orchestrators.items()}
        self._info = jobs.encode_worker_info(jobs.WorkerInfo(tuple(queues), inputs))
        self._held: dict[str, _Held] = {}
        #: Set when a job has ended or the worker must stop.
        self._room = asyncio.Event()
        self._registering = asyncio.Lock()
        self._running = 0
        self._stopping = False
        self._failed: asyncio.Future[None] | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Take jobs until `stop` is set; then finish them, or return them after `drain_s`."""
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        stopping = asyncio.create_task(self._stop_taking(stop))
        taking = [asyncio.create_task(work) for work in (self._take(), self._reclaim(stop))]
        watching = [asyncio.create_task(work) for work in (self._renew(), self._listen())]
        try:
            ends = (stopping, self._failed, *taking, *watching)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                until = loop.time() + self._drain_s
                taking.append(asyncio.create_task(self._leave()))
                # Not cancelled: a job taken at this moment would wait until its lease expires.
                await asyncio.wait(taking, timeout=self._drain_s)
                if tasks := [held.task for held in self._held.values() if held.task is not None]:
                    await asyncio.wait(tasks, timeout=max(0.0, until - loop.time()))
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

    async def _join(self) -> None:
        # Longer than a lease, so that a worker that is briefly late stays registered.
        ttl_s = 3 * self._lease_s
        async with self._registering:
            if not self._stopping:
                await self._broker.join(self.name, self._info, self._addresses, ttl_s=ttl_s)

    async def _leave(self) -> None:
        # After a join under way, which would register the worker again.
        async with self._registering:
            await self._broker.leave(self.name)

    async def _take(self) -> None:
        await self._join()
        while count := await self._slots():
            for delivery in await self._broker.take(
                self.name, self._addresses, count=count, wait_s=_TAKE_WAIT_S
            ):
                self._begin(delivery)

    async def _reclaim(self, stop: asyncio.Event) -> None:
        while count := await self._slots():
            for delivery in await self._broker.reclaim(
                self.name, self._addresses, count=count, lease_s=self._lease_s
            ):
                _log.warning("reclaimed job %s, delivery %d", delivery.key, delivery.deliveries)
                self._begin(delivery)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / 4):
                    await stop.wait()

    async def _slots(self) -> int:
        """Wait until a job may be taken; return how many may, or 0 when the worker stops."""
        while self._running >= self._concurrency and not self._stopping:
            self._room.clear()
            await self._room.wait()
        return 0 if self._stopping else self._concurrency - self._running

    def _begin(self, delivery: Delivery) -> None:
        if delivery.key in self._held:
            return  # the loop was blocked for longer than the lease, and still runs the job
        held = self._held[delivery.key] = _Held(delivery)
        self._running += 1
        held.task = asyncio.create_task(self._run_and_complete(held))

    async def _run_and_complete(self, held: _Held) -> None:
        delivery = held.delivery
        try:
            try:
                result = await self._outcome(held)
            finally:
                # The next job may start while the result of this one is stored.
                self._running -= 1
                self._room.set()
            if result is not None:
                # A cancellation must not interrupt storing the result.
                held.completing = asyncio.create_task(self._complete(result, delivery))
                completed, _ = await shielded(held.completing)
                if not completed.cancelled():
                    completed.result()
        except Exception as error:
            # An error of the worker must not lose the job: end, so that another reclaims it.
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)
        finally:
            del self._held[delivery.key]

    async def _complete(self, result: jobs.JobResult, delivery: Delivery) -> None:
        encode = partial(self._wire.encode_result, result)
        try:
            answer = await off_loop(encode, large=is_large(result.outputs))
        except ClusterError as error:  # an output, or a text, that cannot be sent
            result = replace(result, status=RunStatus.FAILED, outputs={}, failure=error)
            answer = self._wire.encode_result(replace(result, dead_letter_error=None))
        await self._broker.complete(result.key, answer, str(result.status), delivery=delivery)

    async def _outcome(self, held: _Held) -> jobs.JobResult | None:
        """Return the result of a job; None if another worker has to run it."""
        delivery = held.delivery
        key, taken, pipeline = delivery.key, delivery.deliveries, delivery.address.pipeline
        refused = jobs.JobResult(
            key, pipeline, RunStatus.FAILED, worker=self.name, deliveries=taken
        )
        sink = job = None
        if (store := self._dead_letters) is not None:
            sink = JobDeadLetterSink(store, key, patience_s=self._letter_patience_s)
        try:
            decode = partial(self._wire.decode_job, key, delivery.address, delivery.body)
            job = await off_loop(decode, large=is_large(delivery.body))
            needed = self._orchestrators[job.pipeline].graph.inputs
            if missing := [key for key in needed if key not in job.inputs]:
                raise jobs.missing_inputs(f"worker {self.name}", job, missing)
            if sink is not None and taken > 1 and (letter := await sink.earlier()):
                return _failed_before(refused, letter)
            if delivery.cancelled:
                raise _cancelled()
            if taken > self._max_deliveries:
                return await self._abandoned(job, refused, sink)
            return await self._run(job, delivery, refused, sink)
        except err.StageflowError as error:
            if error.code in _OTHER_VERSION and await self._hand_over(delivery, job):
                return None
            status = "cancelled" if error.code == "job_cancelled" else "failed"
            return replace(refused, status=RunStatus(status), failure=error)
        except asyncio.CancelledError:
            called_off = replace(refused, status=RunStatus.CANCELLED, failure=_cancelled())
            return called_off if held.why == "cancelled" else None

    async def _hand_over(self, delivery: Delivery, job: jobs.Job | None) -> bool:
        """Return a job that a live worker of another version can run, so that it reclaims it."""
        if delivery.cancelled or _is_over(delivery):
            return False
        wanted = (
            (None, json.loads(delivery.body)["protocol"])
            if job is None
            else (job.inputs, jobs.PROTOCOL)
        )
        workers = map(jobs.decode_worker_info, (await self._broker.workers()).values())
        if not any(worker.runs(delivery.address, *wanted) for worker in workers):
            return False
        _log.info("job %s is left to a worker of another version", delivery.key)
        await self._broker.give_back(self.name, [delivery])
        return True

    async def _run(
        self,
        job: jobs.Job,
        delivery: Delivery,
        so_far: jobs.JobResult,
        sink: JobDeadLetterSink | None,
    ) -> jobs.JobResult:
        if _is_over(delivery):
            raise err.DeadlineExceededError(job.deadline_s or 0.0)
        context = PipelineContext(
            job.inputs,
            providers=self._providers,
            deadline_s=delivery.remaining_s,
            correlation_id=job.key,
            seed=jobs.seed_of(job.key),
            dead_letters=sink,
        )
        result = await self._orchestrators[job.pipeline].run(context)
        outputs = result.outputs
        # A stream that has dropped items cannot be sent.
        whole = [k for k, v in outputs.items() if not isinstance(v, Stream) or v.whole]
        wanted = whole if job.outputs is None else job.outputs
        outputs = {key: outputs[key] for key in wanted if key in outputs}
        return replace(
            so_far,
            status=result.status,
            outputs=outputs,
            failure=result.failure,
            pipeline_run_id=result.pipeline_run_id,
            duration_ms=result.duration_ms,
            dead_letter=sink.kept if sink is not None else None,
            dead_letter_error=as_text(result.dead_letter_error),
            refusal=result.refusal,
        )

    async def _abandoned(
        self, job: jobs.Job, so_far: jobs.JobResult, sink: JobDeadLetterSink | None
    ) -> jobs.JobResult:
        """Give up a job whose workers died; store it as a dead letter."""
        text = (
            f"{so_far.deliveries - 1} workers took the job and died or hung, each for longer than"
            " its lease; see in their logs whether the job kills them (memory, native code), or"
            " give a longer lease"
        )
        error, seed = ClusterError(text, code="job_abandoned"), jobs.seed_of(job.key)
        result = replace(so_far, failure=error)
        if sink is None:
            return result
        letter = DeadLetter(
            id=jobs.dead_letter_id_of(job.key),
            created_at=datetime.now(UTC),
            pipeline=job.pipeline,
            pipeline_run_id=PipelineContext(seed=seed).new_id(),
            correlation_id=job.key,
            failed_stage=None,
            error=FailureRecord(**plain_failure(error)),
            inputs=job.inputs,
            stages={},
            seed=seed,
        )
        try:
            await sink.put(letter)
        except err.DeadLetterError as problem:
            return replace(result, dead_letter_error=str(problem))
        return replace(result, dead_letter=sink.kept)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            await self._join()
            held = [one.delivery for one in self._held.values()]
            for key, why in (await self._broker.renew(self.name, held)).items():
                self._stop(key, why)

    async def _listen(self) -> None:
        async for key in self._broker.cancellations():
            self._stop(key, "cancelled")

    def _stop(self, key: str, why: str) -> None:
        held = self._held.get(key)
        if held is not None:
            _log.info("job %s is cancelled: %s", key, _WHY[why])
            held.stop(why)

    async def _abort(self) -> None:
        """Cancel what still runs and let other workers reclaim it at once."""
        left = list(self._held.values())
        for held in left:
            held.stop("stopping")
        tasks = [held.task for held in left if held.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEAN_UP_S)
            # An answer that a broker does not take in time: another worker runs the job again.
            await cancel_all([one.completing for one in left if one.completing is not None])
        if left and self._stopping:
            with suppress(TimeoutError, ClusterError):
                async with asyncio.timeout(_CLEAN_UP_S):
                    await self._broker.give_back(self.name, [held.delivery for held in left])


class JobDeadLetterSink:
    """Stores one dead letter for all runs of a job, and waits for a store that is down."""

    def __init__(self, store: DeadLetterStore, key: str, *, patience_s: float) -> None:
        self._store = store
        self._id = jobs.dead_letter_id_of(key)
        self._patience_s = patience_s
        #: Id of the stored dead letter; None if there is none.
        self.kept: str | None = None

    async def put(self, letter: DeadLetter) -> Mapping[str, Unstorable] | None:
        """See `DeadLetterSink`; keep the dead letter of an earlier attempt if there is one."""
        ours, lost = replace(letter, id=self._id), None
        try:
            lost = await self._retry_while_unavailable(lambda: self._store.put(ours))
        except err.DuplicateDeadLetterError:
            _log.info("an earlier attempt has stored the dead letter %s", self._id)
        self.kept = self._id
        return lost

    async def earlier(self) -> DeadLetter | None:
        """Return the dead letter of an earlier attempt whose worker died after storing it."""
        try:
            return await self._retry_while_unavailable(lambda: self._store.get(self._id))
        except err.UnknownDeadLetterError:
            pass
        except err.DeadLetterStoreError as error:
            _log.warning("cannot look up the dead letter %s: %s", self._id, error)
        return None

    async def _retry_while_unavailable(self, call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except err.DeadLetterStoreError as error:
                if loop.time() + pause_s > give_up_at:
                    raise
                _log.warning("cannot store the dead letter %s yet: %s", self._id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _is_over(delivery: Delivery) -> bool:
    return delivery.remaining_s is not None and delivery.remaining_s <= 0


def _cancelled() -> ClusterError:
    return ClusterError("the job was cancelled by its sender", code="job_cancelled")


def _by_name(orchestrators: Iterable[PipelineOrchestrator]) -> dict[str, PipelineOrchestrator]:
    found: dict[str, PipelineOrchestrator] = {}
    for orchestrator in orchestrators:
        name = orchestrator.graph.name
        jobs.check_name("Worker", "orchestrators", name)
        if name in found:
            fix = "give each pipeline its own name"
            raise err.InvalidConfigError("Worker", "orchestrators", name, fix)
        found[name] = orchestrator
    if not found:
        raise err.InvalidConfigError("Worker", "orchestrators", [], "give at least one pipeline")
    return found


def _failed_before(so_far: jobs.JobResult, letter: DeadLetter) -> jobs.JobResult:
    """Return the result of a job that failed before from its dead letter, without a new run."""
    run_id = letter.pipeline_run_id
    failure = err.RecordedError(
        **plain_failure(letter.error), stage=letter.failed_stage, pipeline_run_id=run_id
    )
    return replace(so_far, failure=failure, pipeline_run_id=run_id, dead_letter=letter.id)
