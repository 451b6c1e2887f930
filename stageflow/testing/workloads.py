"""Pipelines as data: what each stage takes, calls, writes and how it ends.

A workload says nothing that JSON cannot hold, so it travels in the token of a failure.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stageflow.breaker import BreakerPolicy, BreakerRegistry
from stageflow.context import StageContext
from stageflow.errors import InvalidConfigError, StageflowError
from stageflow.interceptors.base import Interceptor
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.interceptors.retry import RetryInterceptor, RetryPolicy
from stageflow.interceptors.timeout import TimeoutInterceptor
from stageflow.pipeline import Pipeline
from stageflow.providers.ports import Message
from stageflow.providers.registry import ProviderRegistry
from stageflow.stage import StageOutput, StageSpec
from stageflow.stream import CAPACITY, StreamWriter
from stageflow.testing.scripted import ScriptedError

#: How a stage may end once it has done its work: well, or by a permanent error, an error that a
#: retry may mend, a returned failure, a skip; "stubborn" ends well although it was cancelled.
ENDINGS = ("ok", "raise", "transient", "fail", "skip", "stubborn")


@dataclass(frozen=True)
class WorkStage:
    """One stage of a workload.

    Attributes:
        name: Its name.
        dependencies: The stages before it.
        outputs: The keys that it writes.
        streams: The streams that it opens, before anything else.
        items: How many items it puts into each of them, in turn.
        capacity: How many items it may be ahead of the slowest live reader.
        reads: The streams of its dependencies that it reads, one after another; for each item that
            it reads it puts one of its own, and the rest at the end.
        takes: How many items it takes of a stream that it reads; None for all.
        leaves: Whether it closes its reader then; else it holds the producer back until its end.
        naps_s: Seconds that it sleeps, one after another; 0 only lets others go on.
        calls: How often it calls the language model.
        ending: One of `ENDINGS`.
        recovers_at: From which attempt on it ends well whatever its ending says; 0 for never.
        required: Whether its failure is the run's.
        runs: What its condition says.
        timeout_s: Its limit in seconds; None for none.
        cleanup_s: Seconds that its clean-up takes when it is cancelled.
    """

    name: str
    dependencies: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    items: int = 0
    capacity: int = CAPACITY
    reads: tuple[str, ...] = ()
    takes: int | None = None
    leaves: bool = False
    naps_s: tuple[float, ...] = ()
    calls: int = 0
    ending: str = "ok"
    recovers_at: int = 0
    required: bool = True
    runs: bool = True
    timeout_s: float | None = None
    cleanup_s: float = 0.0


@dataclass(frozen=True)
class Workload:
    """Stages, and the policies around them.

    Attributes:
        stages: The stages.
        call_s: Seconds that a call of the language model takes.
        deadline_s: Limit of the run in seconds; None for none.
        attempts: How often a stage is tried in all; 1 for no retry.
        failures: So many failures in a row open the model's breaker; None for no breaker.
        cooldown_s: How long it stays open, in seconds.
        attempt_timeout_s: Limit of one attempt in seconds; None for none.
    """

    stages: tuple[WorkStage, ...]
    call_s: float = 1.0
    deadline_s: float | None = None
    attempts: int = 1
    failures: int | None = None
    cooldown_s: float = 1.0
    attempt_timeout_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The workload as plain values, ready for JSON; what is as usual is left out."""
        plain = _unusual(self)
        return plain | {"stages": [_unusual(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Workload:
        """The workload that `to_dict` has written."""
        stages = tuple(WorkStage(**_tuples(stage)) for stage in plain["stages"])
        return cls(**{**plain, "stages": stages})

    def pipeline(self, record: Record | None = None) -> Pipeline:
        """A pipeline of these stages, whose work is put on `record`."""
        kept = record if record is not None else Record()
        return Pipeline(
            "workload",
            [
                StageSpec(
                    stage.name,
                    _Runner(stage, kept),
                    stage.dependencies,
                    inputs=stage.reads,
                    outputs=stage.outputs,
                    streams=stage.streams,
                    required=stage.required,
                    timeout_s=stage.timeout_s,
                    condition=None if stage.runs else _never,
                    provider="llm" if stage.calls else None,
                )
                for stage in self.stages
            ],
        )

    def providers(self) -> ProviderRegistry:
        """A registry with the model that the stages call."""
        return ProviderRegistry(llm=_TimedLLM(self.call_s))

    def interceptors(self) -> list[Interceptor]:
        """Retry, breaker and timeout, as the policies say, with a breaker of their own."""
        chosen: list[Interceptor] = []
        if self.attempts > 1:
            chosen.append(RetryInterceptor(RetryPolicy(attempts=self.attempts, base_delay_s=0.5)))
        if self.failures is not None:
            policy = BreakerPolicy(failures=self.failures, cooldown_s=self.cooldown_s)
            chosen.append(BreakerInterceptor(BreakerRegistry(policy)))
        if self.attempt_timeout_s is not None:
            chosen.append(TimeoutInterceptor(self.attempt_timeout_s))
        return chosen

    def critical_path_s(self) -> float:
        """How long a run takes in which all goes well, in seconds of virtual time.

        Raises:
            InvalidConfigError: Stages stream: how long that takes depends on who waits for whom.
        """
        streaming = [stage.name for stage in self.stages if stage.streams]
        if streaming:
            raise InvalidConfigError(
                "Workload", "stages", streaming, "ask it of a workload without streams"
            )
        ends: dict[str, float] = {}
        left = list(self.stages)
        while left:
            stage = next(s for s in left if all(d in ends for d in s.dependencies))
            left.remove(stage)
            at_s = max((ends[name] for name in stage.dependencies), default=0.0)
            if stage.runs:
                for takes_s in (*stage.naps_s, *[self.call_s] * stage.calls):
                    at_s += takes_s
            ends[stage.name] = at_s
        return max(ends.values(), default=0.0)


@dataclass
class Reading:
    """How far one attempt of a stage has come with one stream.

    Attributes:
        stage: Who reads.
        key: The stream.
        items: What it has read.
        finished: Whether it has come to the stream's end.
        failure: What it met instead of an item, if it met an error.
        left: Whether it has closed its reader.
    """

    stage: str
    key: str
    items: list[Any] = field(default_factory=list)
    finished: bool = False
    failure: StageflowError | None = None
    left: bool = False


@dataclass
class Record:
    """What stages did, as they saw it themselves.

    Attributes:
        begun: For each attempt its stage, and how many events the run had by then.
        swallowed: The stages that went on although they were cancelled; once for each attempt.
        put: The items that were taken from a stage, by stream.
        refused: How many were not, by stream.
        readings: What was read, by attempt and stream, in the order in which they began.
        ahead: For each item that was put its stream, how far that is ahead of each stage that has
            begun to read it (None for one that has left), and how many events the run had by then.
    """

    begun: list[tuple[str, int]] = field(default_factory=list)
    swallowed: list[str] = field(default_factory=list)
    put: dict[str, list[Any]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    readings: list[Reading] = field(default_factory=list)
    ahead: list[tuple[str, dict[str, int | None], int]] = field(default_factory=list)

    def was_put(self, key: str, item: Any, events: int) -> None:
        """Note an item that was taken."""
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
        recovered = 0 < stage.recovers_at <= attempt
        return self._end("ok" if recovered else stage.ending)

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
        """Put the stage's items; gives way after each."""
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

    def _end(self, ending: str) -> StageOutput:
        name = self.stage.name
        if ending == "raise":
            raise ScriptedError(f"{name} raises as its workload says")
        if ending == "transient":
            raise ConnectionResetError(f"{name} is cut off as its workload says")
        if ending == "fail":
            return StageOutput.fail("as its workload says")
        if ending == "skip":
            return StageOutput.skip("as its workload says")
        return StageOutput.ok({key: f"{key} by {name}" for key in self.stage.outputs})


_END = object()


@dataclass(frozen=True)
class _TimedLLM:
    call_s: float

    async def complete(self, messages: Sequence[Message]) -> str:
        await asyncio.sleep(self.call_s)
        return "ok"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield await self.complete(messages)


def _never(ctx: object) -> bool:
    return False


def _unusual(record: Any) -> dict[str, Any]:
    return {
        one.name: getattr(record, one.name)
        for one in dataclasses.fields(record)
        if getattr(record, one.name) != one.default
    }


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
