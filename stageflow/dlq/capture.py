"""From a run that failed to its dead letter, and the letter to its store, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from stageflow.classification import classify
from stageflow.context import PipelineContext, RunScope
from stageflow.errors import DuplicateDeadLetterError, StageflowError, StrayCancellationError
from stageflow.events import COMPLETED, FAILED, SKIPPED, STARTED, TERMINAL, Event, StageStatus
from stageflow.graph import StageGraph
from stageflow.letter import DeadLetter, LetterBox, LetterError, StageRecord
from stageflow.result import RunResult
from stageflow.stream import Stream

T = TypeVar("T")

#: How many other letters may have the id that a letter would get.
_SAME_IDS = 100

_log = logging.getLogger("stageflow.dlq")


class Burial(NamedTuple):
    """What became of an attempt to keep a letter.

    Attributes:
        error: Why it could not be kept; None if it was.
        cancelled: Whether the caller was cancelled meanwhile.
    """

    error: StageflowError | None
    cancelled: bool


async def bury(box: LetterBox, scope: RunScope, graph: StageGraph, result: RunResult) -> Burial:
    """Put a dead letter of a run that failed into `box`, and hang it to the run.

    It never raises: the run ends with its own failure whatever becomes of the letter, and says
    at the level CRITICAL that it could not be kept. A cancellation of the caller does not keep
    the letter from being written.
    """
    writing, cancelled = await see_through(_put(box, scope, graph, result))
    if writing.cancelled():
        return Burial(_lost(result, StrayCancellationError()), cancelled)
    error = writing.exception()
    return Burial(None if error is None else _lost(result, error), cancelled)


async def _put(box: LetterBox, scope: RunScope, graph: StageGraph, result: RunResult) -> None:
    letter = letter_of_run(scope.context, graph, result)
    for _ in range(_SAME_IDS):
        try:
            await box.put(letter)
        except DuplicateDeadLetterError:
            # Simulations may repeat ids and moments; the letters differ all the same.
            letter = replace(letter, id=_id_from(letter.id))
        else:
            break
    else:
        await box.put(letter)
    scope.dead_letter = letter


def _id_from(text: str) -> str:
    return f"{random.Random(text).getrandbits(128):032x}"


def _lost(result: RunResult, error: BaseException) -> StageflowError:
    _log.critical(
        "DEAD LETTER LOST: run %s of pipeline %r failed (%s), and could not be kept: %s",
        result.pipeline_run_id,
        result.pipeline,
        result.error,
        error,
        exc_info=error,
    )
    return classify(error)


async def see_through(work: Coroutine[Any, Any, T]) -> tuple[asyncio.Future[T], bool]:
    """Wait for `work` to end even if the caller is cancelled meanwhile.

    Returns:
        The ended work, and whether the caller was cancelled; it is up to them to go on with that.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    return task, cancelled


def letter_of_run(context: PipelineContext, graph: StageGraph, result: RunResult) -> DeadLetter:
    """The dead letter of a run that has failed; the latest of `context`."""
    failure, events = result.failure, result.events
    assert failure is not None, "a run that has not failed leaves no dead letter"
    failed = _failed_stage(events, graph, failure)
    created_at = events[-1].timestamp
    return DeadLetter(
        # Seeded runs may repeat their ids; the moment tells their letters apart.
        id=_id_from(f"{result.pipeline_run_id} {created_at.isoformat()}"),
        created_at=created_at,
        pipeline=result.pipeline,
        pipeline_run_id=result.pipeline_run_id,
        correlation_id=context.correlation_id,
        failed_stage=failed,
        error=LetterError(
            failure.code,
            str(failure.category),
            str(failure),
            failure.user_message,
            failure.retryable,
            None if failed is None else graph[failed].provider,
        ),
        inputs=dict(context.inputs),
        stages=_without_lost_streams(
            dict(_records(result, graph, failed, context.deadline_s)), result, graph
        ),
        events=events,
        seed=context.seed,
        deadline_s=context.deadline_s,
    )


def _failed_stage(
    events: tuple[Event, ...], graph: StageGraph, failure: StageflowError
) -> str | None:
    """The first required stage that failed: an error can carry the name of a child's stage."""
    if failure.stage is None:
        return None
    failures = (event.stage for event in events if event.what == FAILED)
    return next((name for name in failures if name is not None and graph[name].required), None)


def _records(
    result: RunResult, graph: StageGraph, failed: str | None, deadline_s: float | None
) -> Iterator[tuple[str, StageRecord]]:
    events = result.events
    started = {event.stage for event in events if event.what == STARTED}
    limit_ms = (deadline_s or 0.0) * 1000.0
    stopped = False
    for event in events:
        name, what = event.stage, event.what
        if name is None or what not in TERMINAL:
            continue
        # What fails after the run was stopped was cancelled, and answered with an error.
        stopped = stopped or name == failed or (failed is None and event.offset_ms >= limit_ms)
        by_itself = what in (COMPLETED, SKIPPED) or (what == FAILED and not stopped)
        reason = event.data.get("error_message") or event.data.get("reason")
        keys = graph[name].outputs if what == COMPLETED else ()
        kept = [key for key in graph[name].streams if _is_kept(result.bag.get(key))]
        yield (
            name,
            StageRecord(
                StageStatus(what),
                final=by_itself and name in started,
                reason=reason,
                outputs={key: result.bag[key] for key in (*keys, *kept)},
            ),
        )


def _is_kept(stream: object) -> bool:
    return isinstance(stream, Stream) and stream.whole


def _without_lost_streams(
    records: dict[str, StageRecord], result: RunResult, graph: StageGraph
) -> dict[str, StageRecord]:
    """The records, in which whoever has to write a stream once more is not final.

    That is a stage with a stream that some stage has yet to read and that was not kept; and with
    it all that depends on it, as that has read or written what will now be another.
    """
    again: set[str] = set()
    for key, route in graph.streams.items():
        unread = any(not _is_final(records, name) for name in (*route.live, *route.late))
        if unread and key in result.bag and not _is_kept(result.bag[key]):
            again.add(route.producer)
    for number in graph.order:
        spec = graph.specs[number]
        if again.intersection(spec.dependencies):
            again.add(spec.name)
    return {
        name: replace(record, final=False) if name in again else record
        for name, record in records.items()
    }


def _is_final(records: dict[str, StageRecord], name: str) -> bool:
    return name in records and records[name].final
