"""Build the dead letter of a run that failed, and put it into the sink."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from stageflow import errors as err
from stageflow._utils.tasks import shielded
from stageflow.engine.context import PipelineContext, RunScope
from stageflow.engine.dead_letter import DeadLetter, DeadLetterSink, FailureRecord, StageRecord
from stageflow.engine.graph import StageGraph
from stageflow.engine.plan import Plan
from stageflow.engine.result import RunResult
from stageflow.engine.stream import Stream
from stageflow.events.log import COMPLETED, FAILED, SKIPPED, STARTED, TERMINAL, StageStatus
from stageflow.resilience.classification import classify

#: How often a dead letter gets another id because the sink has one with its id.
_SAME_IDS = 100

_log = logging.getLogger("stageflow.dlq")


async def capture(scope: RunScope, plan: Plan, result: RunResult) -> bool:
    """Put a dead letter of a failed run into the sink if one is due, and attach it to the run.

    Never raises; a dead letter that was not stored is logged at the level CRITICAL. Cancelling the
    caller does not stop the write. A sink that takes longer than the grace period is left. Returns
    whether the caller was cancelled meanwhile.
    """
    context, failure = scope.context, result.failure
    sink = plan.dead_letters if plan.dead_letters is not None else context.dead_letters
    if sink is None or failure is None or context.parent is not None:
        return False
    if failure.category is err.ErrorCategory.POLICY:
        return False
    writing, cancelled = await shielded(_put(sink, scope, plan.graph, result))
    stray = err.StageDefectError.stray_cancellation
    error = stray() if writing.cancelled() else writing.exception()
    if error is None:
        result.dead_letter_error = writing.result()
        return cancelled
    _log.critical(
        "DEAD LETTER LOST: run %s of pipeline %r failed (%s), and its dead letter was not kept: %s",
        result.pipeline_run_id,
        result.pipeline,
        result.error,
        err.shown(error, str),
        exc_info=error,
    )
    result.dead_letter_error = classify(error)
    return cancelled


async def _put(
    sink: DeadLetterSink, scope: RunScope, graph: StageGraph, result: RunResult
) -> err.DeadLetterError | None:
    """Put the dead letter of a run; return the error that names the values that it lacks."""
    letter = dead_letter_of_run(scope.context, graph, result)
    for left in reversed(range(_SAME_IDS + 1)):
        try:
            missing = await _put_in_time(sink, letter, scope.context.grace_s)
            break
        except err.DuplicateDeadLetterError:
            if not left:
                raise
            # Simulations may repeat ids and times of dead letters that differ.
            letter = replace(letter, id=_id_from(letter.id))
    scope.context.dlq_entry = letter
    described = [(path, value.shown) for path, value in (missing or {}).items()]
    return err.DeadLetterError.unstorable(letter.id, described) if described else None


async def _put_in_time(
    sink: DeadLetterSink, letter: DeadLetter, grace_s: float
) -> Mapping[str, Any] | None:
    """Put a dead letter; leave a sink that neither ends in time nor when it is cancelled."""
    putting = asyncio.ensure_future(sink.put(letter))
    await asyncio.wait((putting,), timeout=grace_s)
    if not putting.done():
        putting.cancel()
        why, fix = f"not done within {grace_s:g} s", "its storage answers"
        raise err.DeadLetterStoreError("put", type(sink).__name__, why, fix)
    return await putting


def _id_from(text: str) -> str:
    return f"{random.Random(text).getrandbits(128):032x}"


def dead_letter_of_run(
    context: PipelineContext,
    graph: StageGraph,
    result: RunResult,
    restored: Mapping[str, StageRecord] = MappingProxyType({}),
) -> DeadLetter:
    """Return the dead letter of a failed run, the latest run of `context`.

    `restored` has the stages that had finished before the run, and so did not run again.
    """
    failure, events = result.failure, result.events
    assert failure is not None, "a run that has not failed leaves no dead letter"
    failed: str | None = events[-1].data["failed_stage"]
    created_at = events[-1].timestamp
    records = dict(_records(result, graph, failed, context.deadline_s))
    return DeadLetter(
        # Seeded runs may repeat their ids; the time makes the ids of their dead letters differ.
        id=_id_from(f"{result.pipeline_run_id} {created_at.isoformat()}"),
        created_at=created_at,
        pipeline=result.pipeline,
        pipeline_run_id=result.pipeline_run_id,
        correlation_id=context.correlation_id,
        failed_stage=failed,
        error=FailureRecord(
            failure.code,
            str(failure.category),
            err.shown(failure, str),
            failure.user_message,
            failure.retryable,
            None if failed is None else graph[failed].provider,
        ),
        inputs=dict(context.inputs),
        stages={**_without_lost_streams(records, result, graph, restored), **restored},
        events=events,
        seed=context.seed,
        deadline_s=context.deadline_s,
    )


def _records(
    result: RunResult, graph: StageGraph, failed: str | None, deadline_s: float | None
) -> Iterator[tuple[str, StageRecord]]:
    events = result.events
    started = {event.stage for event in events if event.what == STARTED}
    limit_ms = math.inf if deadline_s is None else deadline_s * 1000.0
    stopped = False
    for event in events:
        name, what = event.stage, event.what
        if name is None or what not in TERMINAL:
            continue
        # A stage that fails after the run was stopped was cancelled, and raised another error.
        stopped = stopped or name == failed or (failed is None and event.offset_ms >= limit_ms)
        by_itself = what in (COMPLETED, SKIPPED) or (what == FAILED and not stopped)
        reason = event.data.get("error_message") or event.data.get("reason")
        keys = graph[name].outputs if what == COMPLETED else ()
        streams = [(key, result.bag.get(key)) for key in graph[name].streams]
        kept = [key for key, one in streams if isinstance(one, Stream) and one.whole]
        outputs = {key: result.bag[key] for key in (*keys, *kept)}
        final = by_itself and name in started
        yield name, StageRecord(StageStatus(what), final, reason, outputs)


def _without_lost_streams(
    records: dict[str, StageRecord],
    result: RunResult,
    graph: StageGraph,
    restored: Mapping[str, StageRecord],
) -> dict[str, StageRecord]:
    """Return the records, in which a finished stage that has to run again is not final.

    A stage runs again if it wrote a stream that was not kept and that another stage has yet to
    read. So do the stages of this run that depend on it, because they have read its items.
    """
    done = {name for name, record in records.items() if record.final}.union(restored)
    opened = [(route, result.bag.get(key)) for key, route in graph.streams.items()]
    lost = [route for route, one in opened if isinstance(one, Stream) and not one.whole]
    left = 0
    while left != len(done):  # a stage that runs again may need another lost stream
        left = len(done)
        again = {
            route.producer
            for route in lost
            if route.producer in done
            and not done.issuperset((*route.back_pressured, *route.buffered))
        }
        for number in graph.order:
            spec = graph.specs[number]
            before = {graph.specs[one].name for one in graph.predecessors[number]}
            if again.intersection(before) and spec.name not in restored:
                again.add(spec.name)
        done -= again
    return {name: replace(record, final=name in done) for name, record in records.items()}
