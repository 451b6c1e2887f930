"""Taking a dead letter up again: from the failed stage on, and once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from stageflow.context import PipelineContext
from stageflow.dlq.capture import letter_of_run, see_through
from stageflow.dlq.store import Claim, DeadLetterStore
from stageflow.errors import (
    DeadLetterLeaseLostError,
    DeadLetterMismatchError,
    DeadLetterStoreError,
    UnstorableValueError,
)
from stageflow.graph import StageGraph
from stageflow.letter import DeadLetter, StageRecord
from stageflow.providers.registry import ProviderRegistry
from stageflow.result import RunResult

_log = logging.getLogger("stageflow.dlq")

#: How long a replay holds its letter without a sign of life, in seconds.
LEASE_S = 60.0


class Resumable(Protocol):
    """The part of an orchestrator that a replay needs."""

    graph: StageGraph

    async def resume(
        self, ctx: PipelineContext, finished: Mapping[str, StageRecord], *, reason: str
    ) -> RunResult:
        """Run the graph without the stages that have finished before."""


async def replay(
    letter: DeadLetter | str,
    orchestrator: Resumable,
    store: DeadLetterStore,
    *,
    providers: ProviderRegistry | None = None,
    lease_s: float = LEASE_S,
    prepare: Callable[[DeadLetter, ProviderRegistry | None], PipelineContext] | None = None,
) -> RunResult:
    """Resume the run of a dead letter at the stage that failed.

    Stages that had finished are not run again: their outputs are there from the start. A letter
    is replayed once: of several who try at once, one succeeds, and once the run has completed
    nobody can replay it again. If the run fails again the letter waits again, with the new error
    and the outputs of the stages that have finished meanwhile.

    Args:
        letter: The letter, or its id; what the store holds under the id counts.
        orchestrator: Runs the pipeline that the letter names.
        store: Where the letter is.
        providers: What stages call.
        lease_s: How long the letter is held without a sign of life, in seconds. It is renewed
            while the replay runs, and so matters only when the replaying process dies.
        prepare: Makes the context, from the letter and `providers`; `replay_context` if left out.

    Returns:
        How the resumed run ended.

    Raises:
        UnknownDeadLetterError: The store has no such letter.
        DeadLetterMismatchError: The letter is of another pipeline, or of another version of it.
        UnstorableValueError: A value that the run needs could not be stored.
        DeadLetterClaimedError: Somebody else is replaying the letter.
        DeadLetterReplayedError: The letter has been replayed.
        DeadLetterLeaseLostError: The replay stood still for longer than its lease, and somebody
            else took over; the outcome is not recorded.
    """
    letter_id = letter if isinstance(letter, str) else letter.id
    # Before anything is claimed: a letter that cannot be replayed counts no attempt.
    check_fits(await store.get(letter_id), orchestrator.graph)
    claim = await store.claim(letter_id, lease_s=lease_s)
    try:
        # What was claimed may be newer than what was checked.
        check_fits(claim.letter, orchestrator.graph)
        context = (prepare or replay_context)(claim.letter, providers)
        reason = f"restored from dead letter {letter_id}"
        async with _held(store, claim, lease_s):
            result = await orchestrator.resume(context, claim.letter.finished, reason=reason)
    except BaseException as error:
        # Cancelled, or never begun: the letter is as good as before.
        released, _ = await see_through(store.put_back(claim, claim.letter))
        if problem := released.exception():
            error.add_note(f"and dead letter {letter_id} stays claimed for now: {problem}")
        raise
    if result.failure is None:
        recording = store.finish(claim, result.pipeline_run_id)
    else:
        later = updated(claim.letter, context, orchestrator.graph, result)
        recording = store.put_back(claim, later)
    recorded, cancelled = await see_through(recording)
    recorded.result()
    if cancelled:
        raise asyncio.CancelledError
    return result


def check_fits(letter: DeadLetter, graph: StageGraph) -> None:
    """Check that a letter can be taken up by a graph.

    Raises:
        DeadLetterMismatchError: The letter is of another pipeline, or of another version of it.
        UnstorableValueError: A value that the run needs could not be stored.
    """
    problem = _misfit(letter, graph)
    if problem is not None:
        raise DeadLetterMismatchError(letter.id, graph.name, problem)
    check_storable(letter)


def check_storable(letter: DeadLetter) -> None:
    """Check that a letter holds all values that its run needs.

    Raises:
        UnstorableValueError: Some could not be stored.
    """
    unstorable = letter.unstorable()
    if unstorable:
        described = [(path, found.type_name) for path, found in unstorable.items()]
        raise UnstorableValueError(letter.id, described)


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
        if record.outputs and set(record.outputs) - streams != declared:
            return (
                f"stage {name!r} wrote {sorted(record.outputs)} and is now declared to write"
                f" {sorted(declared | streams)}"
            )
    return None


def replay_context(letter: DeadLetter, providers: ProviderRegistry | None) -> PipelineContext:
    """The context in which a letter is replayed: its inputs, limits and correlation id.

    With a seed, chance repeats from one replay of the same attempt to the next, but not from the
    run that failed: two runs shall not have the same id.
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


def updated(
    letter: DeadLetter, context: PipelineContext, graph: StageGraph, result: RunResult
) -> DeadLetter:
    """The letter after a replay in `context` that failed as well."""
    again = letter_of_run(context, graph, result)
    first = [e for e in letter.events if e.pipeline_run_id == letter.pipeline_run_id]
    return replace(
        letter,
        failed_stage=again.failed_stage,
        error=again.error,
        stages={**again.stages, **letter.finished},
        events=(*first, *again.events),
    )


@asynccontextmanager
async def _held(store: DeadLetterStore, claim: Claim, lease_s: float) -> AsyncIterator[None]:
    """Renew the lease while the body runs."""
    renewing = asyncio.ensure_future(_renew(store, claim, lease_s))
    try:
        yield
    finally:
        renewing.cancel()
        await see_through(_ended(renewing))


async def _renew(store: DeadLetterStore, claim: Claim, lease_s: float) -> None:
    while True:
        await asyncio.sleep(lease_s / 3)
        try:
            await store.renew(claim, lease_s=lease_s)
        except DeadLetterStoreError as error:
            # The disk may recover while the lease still holds.
            _log.warning("dead letter %s: %s", claim.letter.id, error)
        except DeadLetterLeaseLostError:
            # The store will refuse the outcome, and that is told to whoever replays.
            return


async def _ended(task: asyncio.Future[None]) -> None:
    await asyncio.wait((task,))
