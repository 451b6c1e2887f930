"""Workloads: whole pipelines as data, and the strategy that draws them.

A workload holds only what JSON can hold, so the token of a failure can hold it.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from stageflow import (
    Interceptor,
    Pipeline,
    ProviderRegistry,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.engine.stream import CAPACITY, StreamWriter
from stageflow.errors import StageflowError
from stageflow.interceptors import BreakerInterceptor, RetryInterceptor, TimeoutInterceptor
from stageflow.providers import Message
from stageflow.resilience import BreakerPolicy, BreakerRegistry, RetryPolicy
from stageflow.testing import ScriptedStage
from stageflow.testing.strategies import stage_names


def _never(ctx: object) -> bool:
    """Return False, as the condition of a stage that is always skipped."""
    return False


#: How a stage may end: "raise" raises a permanent error, "transient" one that a retry may fix,
#: "fail" returns a failure, and "stubborn" completes although it was cancelled.
ENDINGS = ("ok", "raise", "transient", "fail", "skip", "stubborn")


@dataclass(frozen=True)
class WorkStage:
    """One stage of a workload. It opens its streams first, then sleeps, reads, calls and puts."""

    name: str
    dependencies: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    items: int = 0  # that it puts into each stream
    capacity: int = CAPACITY
    reads: tuple[str, ...] = ()  # one after another; for each item that it reads it puts one
    takes: int | None = None  # items that it reads of a stream; None for all
    leaves: bool = False  # closes its reader then; else it blocks the producer until its own end
    naps_s: tuple[float, ...] = ()  # seconds of each sleep; 0 only yields to the loop
    calls: int = 0  # of the language model
    ending: str = "ok"  # one of ENDINGS
    recovers_at: int = 0  # the first attempt that completes whatever `ending` says; 0 for none
    required: bool = True
    runs: bool = True  # the value of its condition
    timeout_s: float | None = None
    cleanup_s: float = 0.0  # of its clean-up when it is cancelled


@dataclass(frozen=True)
class Workload:
    """Stages, and the policies around them."""

    stages: tuple[WorkStage, ...]
    call_s: float = 1.0  # of a call of the language model
    deadline_s: float | None = None
    attempts: int = 1  # of a stage at most
    failures: int | None = None  # in a row that open the model's breaker; None for no breaker
    cooldown_s: float = 1.0  # for which the breaker stays open
    attempt_timeout_s: float | None = None

    def pipeline(self, record: Record | None = None) -> Pipeline:
        """Return a pipeline of these stages; `record` keeps what they do."""
        kept = record if record is not None else Record()
        makers = {key: one.name for one in self.stages for key in (*one.outputs, *one.streams)}
        specs = [
            StageSpec(
                stage.name,
                _Runner(stage, kept),
                # Every other stage leaves it to the engine to know whose outputs it reads.
                tuple(
                    name
                    for name in stage.dependencies
                    if number % 2 or name not in {makers.get(key) for key in stage.reads}
                ),
                inputs=stage.reads,
                outputs=stage.outputs,
                streams=stage.streams,
                required=stage.required,
                timeout_s=stage.timeout_s,
                condition=None if stage.runs else _never,
                provider="llm" if stage.calls else None,
            )
            for number, stage in enumerate(self.stages)
        ]
        return Pipeline("workload", specs)

    def providers(self) -> ProviderRegistry:
        """Return a registry with the model that the stages call."""
        return ProviderRegistry(llm=_TimedLLM(self.call_s))

    def interceptors(self) -> list[Interceptor]:
        """Return new interceptors for retries, the breaker and the timeout."""
        chosen: list[Interceptor] = []
        if self.attempts > 1:
            chosen.append(RetryInterceptor(RetryPolicy(attempts=self.attempts, base_delay_s=0.5)))
        if self.failures is not None:
            policy = BreakerPolicy(failures=self.failures, cooldown_s=self.cooldown_s)
            chosen.append(BreakerInterceptor(BreakerRegistry(policy)))
        if self.attempt_timeout_s is not None:
            chosen.append(TimeoutInterceptor(self.attempt_timeout_s))
        return chosen


@dataclass
class Reading:
    """The progress of one attempt of a stage with one stream."""

    stage: str
    key: str
    items: list[Any] = field(default_factory=list)
    finished: bool = False  # at the stream's end
    failure: StageflowError | None = None  # that it got instead of an item
    left: bool = False  # has closed its reader


@dataclass
class Record:
    """The record that the stages of a run write themselves."""

    #: The stage of each attempt, and how many events the run had by then.
    begun: list[tuple[str, int]] = field(default_factory=list)
    #: The stages that continued although they were cancelled; once for each attempt.
    swallowed: list[str] = field(default_factory=list)
    #: The items that streams accepted, and how many they refused.
    put: dict[str, list[Any]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    #: What was read, by attempt and stream, in the order in which they began.
    readings: list[Reading] = field(default_factory=list)
    #: For each item that was put: its stream, by how many items that is ahead of each reader (None
    #: for one that has left), and how many events the run had by then.
    ahead: list[tuple[str, dict[str, int | None], int]] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        for kept in vars(self).values():
            kept.clear()

    def was_put(self, key: str, item: Any, events: int) -> None:
        """Record an item that was accepted."""
        put = self.put.setdefault(key, [])
        put.append(item)
        latest = {one.stage: one for one in self.readings if one.key == key}
        behind = {
            name: None if one.left else len(put) - len(one.items) for name, one in latest.items()
        }
        self.ahead.append((key, behind, events))


@dataclass(frozen=True)
class _Runner:
    stage: WorkStage
    record: Record = field(compare=False)

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        stage = self.stage
        self.record.begun.append((stage.name, len(ctx.scope.log)))
        attempt = sum(name == stage.name for name, _ in self.record.begun)
        writers = {key: ctx.open(key, capacity=stage.capacity) for key in stage.streams}
        writing = self._written(ctx, writers)
        try:
            await self._work(ctx, writing)
        except asyncio.CancelledError:
            if stage.ending != "stubborn":
                raise
            self.record.swallowed.append(stage.name)
        finally:
            await writing.aclose()
        ending = "ok" if 0 < stage.recovers_at <= attempt else stage.ending
        if ending == "transient":
            raise ConnectionResetError(f"{stage.name} is cut off as its workload says")
        return await ScriptedStage(stage.outputs, (), ending).execute(ctx)

    async def _work(self, ctx: StageContext, writing: AsyncIterator[None]) -> None:
        try:
            for nap_s in self.stage.naps_s:
                await asyncio.sleep(nap_s)
            for key in self.stage.reads:
                await self._read(ctx, key, writing)
            for _ in range(self.stage.calls):
                await ctx.llm.complete([Message("user", self.stage.name)])
            async for _ in writing:
                pass
        except asyncio.CancelledError:
            if self.stage.cleanup_s:
                await asyncio.sleep(self.stage.cleanup_s)
            raise

    async def _written(
        self, ctx: StageContext, writers: Mapping[str, StreamWriter]
    ) -> AsyncGenerator[None, None]:
        """Put the stage's items; yield after each."""
        for number in range(self.stage.items):
            for key, writer in writers.items():
                item = f"{key}#{number}"
                if await writer.put(item):
                    self.record.was_put(key, item, len(ctx.scope.log))
                else:
                    self.record.refused[key] += 1
                yield

    async def _read(self, ctx: StageContext, key: str, writing: AsyncIterator[None]) -> None:
        reader = ctx.get(key)
        if reader is None:  # its producer was skipped, or failed before it opened it
            return
        reading = Reading(self.stage.name, key)
        self.record.readings.append(reading)
        try:
            while len(reading.items) != self.stage.takes:
                item = await anext(reader, _END)
                if item is _END:
                    reading.finished = True
                    break
                reading.items.append(item)
                await anext(writing, None)
        except StageflowError as error:
            reading.failure = error
            raise
        if self.stage.leaves:
            reading.left = True
            await reader.aclose()


_END = object()


@dataclass(frozen=True)
class _TimedLLM:
    call_s: float

    async def complete(self, messages: Sequence[Message]) -> str:
        await asyncio.sleep(self.call_s)
        return "ok"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield await self.complete(messages)


_SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])


#: How many steps back its dependencies are; how many keys it writes, streams it writes and streams
#: it reads; and all else.
_Drawn = tuple[list[int], int, int, int, WorkStage]


@functools.cache
def _stages(streams: bool) -> st.SearchStrategy[_Drawn]:
    """Stages with streams, of which fewer fail, or without."""
    trouble = 2 if streams else 1
    streaming: dict[str, st.SearchStrategy[Any]] = {
        "items": st.sampled_from([0, 5, 3, 5]),
        "capacity": st.sampled_from([16, 1, 2, 1]),
        "takes": st.sampled_from([None, 1, None, 2]),
        "leaves": st.sampled_from([False, False, True]),
    }
    stage = st.builds(
        WorkStage,
        stage_names(),
        naps_s=st.lists(_SECONDS, max_size=2 // trouble).map(tuple),
        calls=st.sampled_from([0, 0, 0, 1] if streams else [0, 1, 1, 2]),
        ending=st.sampled_from([*["ok"] * 6 * trouble, *ENDINGS[1:], "stubborn", "transient"]),
        recovers_at=st.integers(0, 3),
        required=st.sampled_from([True, False]),
        runs=st.sampled_from([*[True] * 4 * trouble, False]),
        timeout_s=st.sampled_from([*[None] * 3 * trouble**2, 1.5, 4.0]),
        cleanup_s=st.sampled_from([0.0, 0.0, 0.25, 3.0]),
        **streaming if streams else {},
    )
    steps_back: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 4), max_size=2, unique=True)
    if streams:
        steps_back = st.sampled_from([[], [0], [1], [0, 1], [0], [2, 0]])
    return st.tuples(
        steps_back,
        st.integers(0, 2),
        st.sampled_from([0, 1, 2, 1]) if streams else st.just(0),
        st.sampled_from([0, 1, 4, 4]) if streams else st.just(0),
        stage,
    )


def workloads(*, max_size: int = 8, streams: bool = False) -> st.SearchStrategy[Workload]:
    """Workloads of few stages, some with retries, a breaker, timeouts and a deadline.

    Shrinks to one stage that does nothing, without any policy.

    Args:
        max_size: How many stages at most.
        streams: Whether stages stream to each other; fewer fail then.
    """
    unlimited: list[float | None] = [None] * (8 if streams else 2)
    return st.builds(
        _workload,
        st.lists(_stages(streams), min_size=1, max_size=max_size),
        call_s=st.sampled_from([1.0, 0.0, 3.0]),
        deadline_s=st.sampled_from([*unlimited, 100.0, 6.0, 2.0]),
        attempts=st.sampled_from([1, 3, 2, 4]),
        failures=st.sampled_from([None, 1, 1, 2, 3]),
        cooldown_s=st.sampled_from([1.0, 0.25, 0.25, 30.0]),
        attempt_timeout_s=st.sampled_from([*unlimited, 1.25]),
    )


def _workload(drawn: list[_Drawn], **policies: Any) -> Workload:
    stages: dict[str, WorkStage] = {}
    for steps_back, writes, streams, reads, stage in drawn:
        taken = list(stages)
        name = stage.name
        while name in stages:
            name += "_"
        dependencies = tuple(taken[-1 - n] for n in steps_back if n < len(taken))
        offered = [key for before in dependencies for key in stages[before].streams]
        stages[name] = replace(
            stage,
            name=name,
            dependencies=dependencies,
            outputs=tuple(f"{name}.{n}" for n in range(writes)),
            streams=tuple(f"{name}:{n}" for n in range(streams)),
            reads=tuple(offered[:reads]),
        )
    return Workload(tuple(stages.values()), **policies)
