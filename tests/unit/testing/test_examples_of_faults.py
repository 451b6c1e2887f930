"""Three short tests of failing providers, as a user may write them, in virtual time.

`pipeline` and `ctx` are globals, created anew for each example. pytest does not collect a class
of this name; the examples are run one by one below.
"""

# A user's tests often have no annotations.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stageflow import PipelineOrchestrator
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.interceptors import BreakerInterceptor
from stageflow.kernels import voice
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from tests.fault.injection import FaultType, inject_fault
from tests.fault.turns import context
from tests.utils.virtual_time import run_virtual

pipeline: Any = None
ctx: Any = None


class FaultInjectionTest:
    """Simulate provider failures and verify graceful degradation."""

    async def test_llm_timeout(self):
        """Pipeline handles LLM timeout gracefully."""
        with inject_fault("llm", FaultType.TIMEOUT, duration_ms=5000):
            result = await pipeline.run(ctx)
            assert result.status == "failed"
            assert "timeout" in result.error.lower()

    async def test_stt_error(self):
        """Pipeline handles STT error gracefully."""
        with inject_fault("stt", FaultType.ERROR, message="Service unavailable"):
            result = await pipeline.run(ctx)
            assert result.status == "failed"
            assert ctx.dlq_entry is not None

    async def test_circuit_breaker_opens(self):
        """Circuit breaker opens after repeated failures."""
        for _ in range(5):
            with inject_fault("llm", FaultType.ERROR):
                await pipeline.run(ctx)

        # Next call should be short-circuited
        result = await pipeline.run(ctx)
        assert "circuit breaker open" in result.error.lower()


EXAMPLES = [
    example for name, example in vars(FaultInjectionTest).items() if name.startswith("test_")
]


@pytest.fixture(autouse=True)
def subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """The voice kernel with a breaker that opens at the fifth failure, and a dead-letter queue."""
    breaker = BreakerInterceptor(BreakerRegistry(BreakerPolicy(failures=5)))
    orchestrator = PipelineOrchestrator(
        voice().build(), interceptors=[breaker], dead_letters=InMemoryDeadLetterStore()
    )
    monkeypatch.setitem(globals(), "pipeline", orchestrator)
    monkeypatch.setitem(globals(), "ctx", context())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_example(example: Callable[..., Any]) -> None:
    """The example passes as it is written."""
    run_virtual(lambda: example(FaultInjectionTest()))


def test_every_example_is_run() -> None:
    """All three examples are collected."""
    assert len(EXAMPLES) == 3
