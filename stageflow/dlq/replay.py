"""Replay a dead letter once, from the failed stage on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from stageflow._utils.tasks import off_loop, shielded
from stageflow.codec import is_large
from stageflow.dlq.store import Claim, DeadLetterStore
from stageflow.engine import DeadLetter, PipelineContext, PipelineOrchestrator, StageGraph
from stageflow.engine.capture import dead_letter_of_run
from stageflow.engine.result import RunResult
from stageflow.errors import DeadLetterError, DeadLetterLeaseLostError, DeadLetterStoreError
from stageflow.errors.data import require_durations, require_methods
from stageflow.events.log import StageStatus
from stageflow.providers.registry import ProviderRegistry

_log = logging.getLogger("stageflow.dlq")

#: How long a replay holds its letter without renewing its lease, in seconds.
LEASE_S = 60.0


async def replay(
    letter: DeadLetter | str,
    orchestrator: PipelineOrchestrator,
    store: DeadLetterStore,
    *,
    providers: ProviderRegistry | None = None,
    lease_s: float = LEASE_S,
    prepare: Callable[[DeadLetter, ProviderRegistry | None], PipelineContext] | None = None,
) -> RunResult:
    """Resume the run of a dead letter at the stage that failed, and return its result.

    Stages that had finished do not run again. Of several replays at once one succeeds, and a
    letter whose replay has completed cannot be replayed again. If the run fails again, the letter
    waits again, with the new error and the outputs of the stages that have finished since.

    Args:
        letter: The letter, or its id; the content comes from the store.
        orchestrator: Runs the pipeline that the letter names.
        store: Where the letter is.
        providers: What stages call.
        lease_s: How long the letter is held if the replaying process dies, in seconds.
        prepare: Makes the context from the letter and `providers`; default `replay_context`.

    Raises:
        InvalidConfigError: The lease is not a positive, finite number.
        UnknownDeadLetterError: The store has no such letter.
        DeadLetterError: See `check_fits`.
        DeadLetterClaimedError: Another process is replaying the letter.
        DeadLetterReplayedError: The letter has been replayed.
        DeadLetterLeaseLostError: The replay was blocked for longer than its lease, and another one
            took over; the outcome is not recorded.
    """
    require_durations("replay", lease_s=lease_s)
    require_methods(
        "replay", "store", store, awaited=("get", "claim", "renew", "finish", "put_back")
    )
    dead_letter_id = letter if isinstance(letter, str) else letter.id
    # Before anything is claimed: a letter that cannot be replayed counts no attempt.
    await _check(await store.get(dead_letter_id), orchestrator.graph)
    claim = await store.claim(dead_letter_id, lease_s=lease_s)
    try:
        # What was claimed may be newer than what was checked.
        await _check(claim.letter, orchestrator.graph)
        context = (prepare or replay_context)(claim.letter, providers)
        context.resumes = claim.letter
        reason = f"restored from dead letter {dead_letter_id}"
        async with _held(store, claim, lease_s):
            result = await orchestrator.resume(context, claim.letter.finished, reason=reason)
    except BaseException as error:
        # Cancelled, or never started: the letter has not changed.
        released, _ = await shielded(store.put_back(claim, claim.letter))
        if problem := released.exception():
            error.add_note(f"and dead letter {dead_letter_id} stays claimed for now: {problem}")
        raise
    if result.failure is None:
        recording = store.finish(claim, result.pipeline_run_id)
    else:
        first, finished = claim.letter, claim.letter.finished
        again = dead_letter_of_run(context, orchestrator.graph, result, finished)
        events = [e for e in first.events if e.pipeline_run_id == first.pipeline_run_id]
        later = replace(
            first,
            failed_stage=again.failed_stage,
            error=again.error,
            stages=again.stages,
            events=(*events, *again.events),
        )
        recording = store.put_back(claim, later)
    recorded, cancelled = await shielded(recording)
    recorded.result()
    if cancelled:
        raise asyncio.CancelledError
    return result


async def _check(letter: DeadLetter, graph: StageGraph) -> None:
    await off_loop(lambda: check_fits(letter, graph), large=is_large(letter))


def check_fits(letter: DeadLetter, graph: StageGraph) -> None:
    """Raise `DeadLetterError` if a graph cannot resume a letter.

    The letter is of another pipeline or version, or a value that the run needs was not stored.
    """
    if (problem := _misfit(letter, graph)) is not None:
        raise DeadLetterError.mismatch(letter.id, graph.name, problem)
    check_storable(letter)


def check_storable(letter: DeadLetter) -> None:
    """Raise `DeadLetterError` if a value that the run needs could not be stored."""
    unstorable = letter.unstorable()
    for path, found in unstorable.items():
        if found.plain is not None:
            problem = f"{path}: {found.description}"
            raise DeadLetterError.mismatch(letter.id, letter.pipeline, problem)
    if unstorable:
        described = [(path, found.shown) for path, found in unstorable.items()]
        raise DeadLetterError.unstorable(letter.id, described)


def _misfit(letter: DeadLetter, graph: StageGraph) -> str | None:
    if letter.pipeline != graph.name:
        return f"it is of pipeline {letter.pipeline!r}"
    known = {spec.name: spec for spec in graph.specs}
    for key in graph.inputs:
        if key not in letter.inputs:
            return f"the pipeline needs the input {key!r}, which the letter lacks"
    if letter.failed_stage is not None and letter.failed_stage not in known:
        return f"the pipeline has no stage {letter.failed_stage!r}, which failed"
    for name, record in letter.finished.items():
        if name not in known:
            return f"the pipeline has no stage {name!r}, which had finished"
        declared, streams = set(known[name].outputs), set(known[name].streams)
        completed = record.ending is StageStatus.COMPLETED
        if completed and record.outputs and set(record.outputs) - streams != declared:
            return (
                f"stage {name!r} wrote {sorted(record.outputs)} and is now declared to write"
                f" {sorted(declared | streams)}"
            )
    return None


def replay_context(letter: DeadLetter, providers: ProviderRegistry | None) -> PipelineContext:
    """Return a context with a letter's inputs, limits and correlation id.

    The seed depends on the attempt, because two runs must not have the same id.
    """
    seed = None
    if letter.seed is not None:
        seed = random.Random(f"{letter.seed}/{letter.id}/{letter.attempts}").getrandbits(64)
    return PipelineContext(
        letter.inputs,
        providers=providers,
        deadline_s=letter.deadline_s,
        correlation_id=letter.correlation_id,
        seed=seed,
    )


@asynccontextmanager
async def _held(store: DeadLetterStore, claim: Claim, lease_s: float) -> AsyncIterator[None]:
    """Renew the lease while the block runs."""

    async def renew() -> None:
        # After a lost lease the store refuses the outcome, which the caller of `replay` sees.
        with suppress(DeadLetterLeaseLostError):
            while True:
                await asyncio.sleep(lease_s / 3)
                try:
                    await store.renew(claim, lease_s=lease_s)
                except DeadLetterStoreError as error:
                    # The disk may recover while the lease still holds.
                    _log.warning("dead letter %s: %s", claim.letter.id, error)

    renewing = asyncio.ensure_future(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await shielded(asyncio.wait((renewing,)))
