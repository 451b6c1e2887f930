"""Cancellation at every await: six pipelines, bare and with each interceptor around each stage.

A run is begun again and again. Its caller is cancelled before the first callback of the event loop,
before the second, and so on, until a run ends before its cancellation is due. A stage can only be
cancelled where it awaits, and every await takes at least one callback, so none is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    TimeoutInterceptor,
    TracingInterceptor,
    stage,
    subpipeline,
)
from stageflow.errors import CircuitOpenError
from stageflow.interceptors import BreakerInterceptor, InMemoryTracer, RetryInterceptor, RetryPolicy
from stageflow.kernels import KNOWN_USER, chat, default_providers, streaming_voice, voice
from stageflow.providers import Fallback, IdleTimeout, speech_of_text
from stageflow.resilience import BreakerPolicy, BreakerRegistry, BreakerState
from stageflow.testing import SimulationLoop, run_in
from tests.utils.assertions import assert_events_sound
from tests.utils.factories import make_pipeline
from tests.utils.scripted import ASKED, ScriptedLLM

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

PROBES = 50


@dataclass
class Ledger:
    """The calls of providers: how many were begun, and how many cleaned up behind them."""

    begun: int = 0
    cleaned_up: int = 0

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """One call, whose clean-up takes a pass of the loop: it can be cancelled there, too."""
        self.begun += 1
        try:
            yield
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.cleaned_up += 1


@dataclass
class Tracked:
    """A provider whose every call is in the ledger."""

    provider: Any
    ledger: Ledger

    async def _call(self, method: str, *args: Any) -> Any:
        async with self.ledger.call():
            return await getattr(self.provider, method)(*args)

    async def complete(self, *args: Any) -> Any:
        return await self._call("complete", *args)

    async def transcribe(self, *args: Any) -> Any:
        return await self._call("transcribe", *args)

    async def synthesize(self, *args: Any) -> Any:
        return await self._call("synthesize", *args)

    async def play(self, *args: Any) -> None:
        await self._call("play", *args)

    async def get(self, *args: Any) -> Any:
        return await self._call("get", *args)

    async def put(self, *args: Any) -> Any:
        return await self._call("put", *args)

    async def stream(self, *args: Any) -> AsyncIterator[Any]:
        async with self.ledger.call(), aclosing(self.provider.stream(*args)) as pieces:
            async for piece in pieces:
                yield piece


def asks(name: str, *dependencies: str, **fields: Any) -> StageSpec:
    """A stage that asks the language model."""

    async def runner(ctx: StageContext) -> StageOutput:
        await ctx.llm.complete(ASKED)
        return StageOutput.ok()

    return StageSpec(name, runner, dependencies, provider="llm", **fields)


@stage(dependencies=["first"], outputs=["streamed"], provider="llm", timeout_s=60.0)
async def streaming(ctx: StageContext) -> StageOutput:
    """Read a stream whose first provider stalls before its first piece."""
    async with aclosing(ctx.provider("resilient").stream(ASKED)) as pieces:
        return StageOutput.ok(streamed=[piece async for piece in pieces])


@stage(dependencies=["first"], required=False)
async def flaky(ctx: StageContext) -> StageOutput:
    """Fail twice before it succeeds."""
    await ctx.provider("flaky").complete(ASKED)
    return StageOutput.ok()


def fan() -> Pipeline:
    """One stage, four at once, one after them."""
    middle = [asks(f"m{n}", "source", required=n > 1) for n in range(4)]
    return make_pipeline(
        asks("source"), *middle, asks("sink", *(s.name for s in middle), timeout_s=9.0)
    )


def nested() -> Pipeline:
    """A child run beside another stage."""
    child = Pipeline("child", [asks("c1"), asks("c2", "c1")])
    return make_pipeline(asks("first"), subpipeline("inner", child), asks("last", "inner", "first"))


def resilient() -> Pipeline:
    """Providers that fail and stall."""
    return make_pipeline(asks("first"), streaming, flaky, asks("last", "streaming", "flaky"))


@stage(dependencies=["first"], streams=["words"], provider="llm", timeout_s=60.0)
async def says(ctx: StageContext) -> StageOutput:
    """Ask and put, with room for one; its helper task puts, too."""
    words = ctx.open("words", capacity=1)

    async def put(word: str) -> None:
        for _ in range(2):
            await words.put(word)

    async with asyncio.TaskGroup() as group:
        group.create_task(put("aside"))
        await ctx.llm.complete(ASKED)
        await put("said")
    return StageOutput.ok()


@stage(dependencies=["says"], inputs=["words"], streams=["echo"], provider="llm")
async def echoes(ctx: StageContext) -> StageOutput:
    """Pass on what it reads, slowly."""
    echo = ctx.open("echo", capacity=1)
    async for word in ctx["words"]:
        await ctx.llm.complete(ASKED)
        await echo.put(word)
    return StageOutput.ok()


@stage(dependencies=["says", "echoes"], inputs=["words", "echo"], outputs=["heard"])
async def hears(ctx: StageContext) -> StageOutput:
    """Read what was echoed, then what was said."""
    return StageOutput.ok(heard=[word for key in ("echo", "words") async for word in ctx[key]])


@stage(dependencies=["says"], inputs=["words"])
async def leaves(ctx: StageContext) -> StageOutput:
    """Read one item, and no more."""
    await anext(ctx["words"])
    return StageOutput.ok()


def streamed() -> Pipeline:
    """A diamond of streams, and a reader that leaves."""
    return make_pipeline(asks("first"), says, echoes, hears, leaves, asks("last", "hears"))


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "voice": voice,
    "streaming_voice": streaming_voice,
    "chat": chat,
    "fan": fan,
    "nested": nested,
    "resilient": resilient,
    "streamed": streamed,
}


def providers(pipeline: str, ledger: Ledger) -> ProviderRegistry:
    """Fakes for one run, each tracked."""
    if pipeline in ("voice", "streaming_voice", "chat"):
        given = dict(default_providers())
    else:
        first = ScriptedLLM(["x", 9.0, "y"], [5.0, "x"])
        stalls, answers = ScriptedLLM([99.0, "x"]), ScriptedLLM(["a", 0.1, "b"])
        given = {
            "llm": ScriptedLLM(0.5, 0.25, 0.5, 0.75, 1.0),
            "flaky": ScriptedLLM([0.1, ConnectionError()], [0.1, ConnectionError()], 0.1),
            "resilient": Fallback(
                IdleTimeout(Tracked(stalls, ledger), 1.0), Tracked(answers, ledger)
            ),
            "unused": first,
        }
    return ProviderRegistry(**{name: Tracked(given[name], ledger) for name in given})


def half_open_breakers() -> BreakerRegistry:
    """Breakers that are about to let probes through: each permit that gets lost would show."""
    policy = BreakerPolicy(failures=1, cooldown_s=1.0, probes=PROBES, successes=PROBES)
    breakers = BreakerRegistry(policy)
    for name in ("llm", "stt", "tts", "db", "speaker"):
        breakers[name].fail(breakers[name].acquire(long_ago), long_ago)
    return breakers


def long_ago() -> float:
    return -100.0


@dataclass
class Around:
    """One of each interceptor, and what it writes to."""

    breakers: BreakerRegistry = field(default_factory=half_open_breakers)
    tracer: InMemoryTracer = field(default_factory=InMemoryTracer)

    def interceptors(self, name: str) -> list[Interceptor]:
        """The one of that name, all or none of them."""
        every: dict[str, Interceptor] = {
            "tracing": TracingInterceptor(self.tracer),
            "retry": RetryInterceptor(RetryPolicy(base_delay_s=0.2)),
            "breaker": BreakerInterceptor(self.breakers),
            "timeout": TimeoutInterceptor(30.0),
        }
        return list(every.values()) if name == "all" else [every[name]] if name in every else []

    def assert_nothing_is_kept(self) -> None:
        """Every permit is back, and every span closed."""
        for name, breaker in self.breakers.items():
            if breaker.state is BreakerState.HALF_OPEN:
                for _ in range(PROBES):
                    breaker.acquire(long_ago)
                with pytest.raises(CircuitOpenError, match=name):
                    breaker.acquire(long_ago)
        assert all(span.ended for span in self.tracer.spans)


@dataclass
class Ended:
    """How one run ended."""

    untouched: bool
    cancelled_stages: set[str]
    context: PipelineContext


def run_and_cancel(name: str, around_with: str, step: int) -> Ended:
    """Run a pipeline, cancel its caller before that callback, and check what is left."""
    ledger, around, pipeline = Ledger(), Around(), PIPELINES[name]()
    given = {"audio": speech_of_text("hello"), "text": "hello", "user_id": KNOWN_USER}
    inputs = {key: given[key] for key in pipeline.inputs}
    ctx = PipelineContext(inputs, providers=providers(name, ledger), seed=1)
    loop = SimulationLoop()

    async def main() -> bool:
        run = asyncio.create_task(pipeline.run(ctx, interceptors=around.interceptors(around_with)))
        accepted: list[bool] = []
        loop.at_step(step, lambda: accepted.append(run.cancel()))
        await asyncio.wait([run])
        # A task that has ended refuses: only then may the run have come to its end.
        assert run.cancelled() == (accepted == [True]), "a cancellation was swallowed"
        return not run.cancelled()

    untouched = run_in(loop, main())
    assert ledger.begun == ledger.cleaned_up
    events = ctx.get_events()
    assert_events_sound(pipeline, events)
    cancelled = {event.stage for event in events if event.type.endswith(".cancelled")}
    if not untouched:
        assert ctx.status is not RunStatus.RUNNING
    around.assert_nothing_is_kept()
    return Ended(untouched, {stage for stage in cancelled if stage}, ctx)


@pytest.mark.parametrize("around", ["none", "tracing", "retry", "breaker", "timeout", "all"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_run_can_be_cancelled_at_every_await(
    name: str, around: str, pytestconfig: pytest.Config
) -> None:
    """No task is left, clean-ups have run, terminal events are written, permits are returned."""
    # The first callback is the caller, the second begins the run.
    step, ended = 3, run_and_cancel(name, around, 3)
    caught: set[str] = set()
    while not ended.untouched:
        caught |= ended.cancelled_stages
        step += 1
        ended = run_and_cancel(name, around, step)
    assert ended.context.status is RunStatus.COMPLETED
    # The chat's guard awaits nothing, so there is no place to catch it at.
    begun = {event.stage for event in ended.context.get_events() if event.stage}
    instant = {"guard"}
    if pytestconfig.getoption("--loop") == "eager":
        instant.add("leaves")  # its one item is there already
    assert caught == begun - instant
    assert step > 10
