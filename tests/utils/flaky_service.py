"""A service that fails as a test says, and what its breaker reports."""

from __future__ import annotations

from typing import Any

from stageflow import Interceptor, RunResult
from stageflow.interceptors import BreakerInterceptor
from stageflow.resilience import BreakerPolicy, BreakerRegistry, BreakerState
from tests.utils.factories import make_pipeline
from tests.utils.scripted import ScriptedLLM, Step, asking, context

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Service:
    """A pipeline of one stage that asks a language model, with a breaker around it."""

    def __init__(
        self,
        *script: Step,
        inside: tuple[Interceptor, ...] = (),
        outside: tuple[Interceptor, ...] = (),
        fields: dict[str, Any] | None = None,
        **policy: Any,
    ) -> None:
        self.llm = ScriptedLLM(*script)
        self.breakers = BreakerRegistry(BreakerPolicy(**policy))
        self.pipeline = make_pipeline(asking(**(fields or {})))
        self.interceptors = (*outside, BreakerInterceptor(self.breakers), *inside)

    @property
    def state(self) -> BreakerState:
        return self.breakers["llm"].state

    async def turn(self, **fields: Any) -> RunResult:
        ctx = context(self.llm, **fields)
        return await self.pipeline.run(ctx, interceptors=self.interceptors)

    async def turns(self, count: int) -> list[str]:
        """The status of so many turns, one after another."""
        return [(await self.turn()).status for _ in range(count)]
