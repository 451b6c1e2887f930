"""Every interceptor of this package passes on what is behind it; wrong ones are found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    LoggingInterceptor,
    MetricsInterceptor,
    StageContext,
    StageOutput,
    TimeoutInterceptor,
    TracingInterceptor,
)
from stageflow.interceptors.base import CallNext
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.interceptors.metrics import InMemoryMetrics
from stageflow.interceptors.retry import RetryInterceptor
from stageflow.interceptors.tracing import InMemoryTracer
from stageflow.testing.contracts import InterceptorContractTest

MAKERS: dict[str, Callable[[], Interceptor]] = {
    "logging": LoggingInterceptor,
    "metrics": lambda: MetricsInterceptor(InMemoryMetrics()),
    "tracing": lambda: TracingInterceptor(InMemoryTracer()),
    "retry": RetryInterceptor,
    "breaker": BreakerInterceptor,
    "timeout": lambda: TimeoutInterceptor(50.0),
}


class TestEach(InterceptorContractTest):
    @pytest.fixture(params=MAKERS, autouse=True)
    def chosen(self, request: pytest.FixtureRequest) -> None:
        self.make = MAKERS[request.param]

    def make_interceptors(self) -> list[Interceptor]:
        return [self.make()]


class TestAllTogether(InterceptorContractTest):
    def make_interceptors(self) -> list[Interceptor]:
        return [make() for make in MAKERS.values()]


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


@pytest.mark.parametrize("name", TESTS)
def test_a_wrong_interceptor_is_found(name: str) -> None:
    """By each test of the contract."""
    Wrong.last = None
    made = type("Made", (InterceptorContractTest,), {"make_interceptors": lambda self: [Wrong()]})()
    with pytest.raises(AssertionError):
        getattr(made, name)()


def test_a_subclass_has_to_say_which_interceptor() -> None:
    """With the method to write."""
    with pytest.raises(NotImplementedError, match="make_interceptors"):
        InterceptorContractTest().test_what_raises_fails_alike()
