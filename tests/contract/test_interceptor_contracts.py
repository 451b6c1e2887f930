"""Every interceptor of this package passes on what is behind it; wrong ones are found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stageflow import Interceptor, StageContext, StageOutput, TimeoutInterceptor, TracingInterceptor
from stageflow.interceptors import BreakerInterceptor, CallNext, InMemoryTracer, RetryInterceptor
from stageflow.telemetry import OpenTelemetryTracer
from stageflow.testing import InterceptorContractTest, LeftBehindError


def opentelemetry_tracing() -> Interceptor:
    """Spans of the real SDK, up to its exporter."""
    provider = TracerProvider(shutdown_on_exit=False, resource=Resource.get_empty())
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return TracingInterceptor(OpenTelemetryTracer(provider.get_tracer("test")))


MAKERS: dict[str, Callable[[], Interceptor]] = {
    "tracing": lambda: TracingInterceptor(InMemoryTracer()),
    "opentelemetry tracing": opentelemetry_tracing,
    "retry": RetryInterceptor,
    "breaker": BreakerInterceptor,
    "timeout": lambda: TimeoutInterceptor(50.0),
}


@pytest.fixture(autouse=True)
def quiet_opentelemetry(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """OpenTelemetry logs misuse, such as a span closed elsewhere, instead of raising it."""
    yield
    said = [record.getMessage() for record in caplog.records if "opentelemetry" in record.name]
    assert said == []


class TestEach(InterceptorContractTest):
    @pytest.fixture(params=MAKERS, autouse=True)
    def chosen(self, request: pytest.FixtureRequest) -> None:
        self.make = MAKERS[request.param]

    def make_interceptors(self) -> list[Interceptor]:
        return [self.make()]


class TestAllTogether(InterceptorContractTest):
    def make_interceptors(self) -> list[Interceptor]:
        return [make() for make in MAKERS.values()]


class TestEachOnARealLoop(TestEach):
    real_io = True


class TestAllTogetherOnARealLoop(TestAllTogether):
    real_io = True


class Counting(Interceptor):
    """Asks the real world first: a limit that several processes share would do so."""

    def __init__(self) -> None:
        self.calls = 0

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        self.calls += await asyncio.to_thread(int, "1")
        return await call_next(ctx)


class TestOneThatDoesRealIO(InterceptorContractTest):
    real_io = True

    def make_interceptors(self) -> list[Interceptor]:
        return [Counting()]


class Wrong(Interceptor):
    """Loses outputs, hides errors and skips, swallows cancellations, and mixes runs up."""

    last: Any = None

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        try:
            output = await call_next(ctx)
        except asyncio.CancelledError:
            return StageOutput.ok(k="swallowed")
        except Exception:
            return StageOutput.ok(k="hidden")
        mixed, Wrong.last = Wrong.last, output.outputs.get("k")
        return StageOutput.ok(k=mixed)


TESTS = sorted(name for name in vars(InterceptorContractTest) if name.startswith("test_"))


both_loops = pytest.mark.parametrize("real_io", [True, False], ids=["real", "simulated"])


def contract(interceptor: Interceptor, **fields: Any) -> Any:
    """The contract of one interceptor."""
    maker = {"make_interceptors": lambda self: [interceptor]}
    return type("Made", (InterceptorContractTest,), {**maker, **fields})()


@both_loops
@pytest.mark.parametrize("name", TESTS)
def test_a_wrong_interceptor_is_found(name: str, real_io: bool) -> None:
    """By each test of the contract, on a real loop and in simulated time."""
    Wrong.last = None
    with pytest.raises(AssertionError):
        getattr(contract(Wrong(), real_io=real_io), name)()


class Slow(Interceptor):
    """Swallows no cancellation, and takes a minute to clean up."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        try:
            return await call_next(ctx)
        except asyncio.CancelledError:
            await asyncio.sleep(60.0)
            raise


def test_an_interceptor_that_hangs_is_found() -> None:
    """On a real loop, by the patience that the test has."""
    with pytest.raises(AssertionError, match=r"goes on after 0\.2 s:\n(.*\n)*.*in Slow\.around"):
        contract(Slow(), real_io=True, patience_s=0.2).test_a_cancellation_passes()


class Untidy(Interceptor):
    """Leaves a task behind at each stage."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        self.left = asyncio.ensure_future(asyncio.sleep(60.0))
        return await call_next(ctx)


@both_loops
def test_an_interceptor_that_leaves_a_task_behind_is_found(real_io: bool) -> None:
    """By whichever test runs it."""
    with pytest.raises(LeftBehindError):
        contract(Untidy(), real_io=real_io).test_a_completed_stage_stays_completed()
