"""The specification's examples of fault injection, to the letter, in virtual time.

The text speaks of a ``pipeline`` and a ``ctx`` without saying where they come from: here they are
globals, made anew for each example. Its class has no name that pytest collects; its methods are
run one by one below.
"""

# The methods are the specification's own, down to their signatures.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stageflow import PipelineOrchestrator
from stageflow.breaker import BreakerPolicy, BreakerRegistry
from stageflow.dlq.store import InMemoryDeadLetterStore
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.kernels.voice import voice
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
    """The example holds as the specification writes it."""
    run_virtual(lambda: example(FaultInjectionTest()))


def test_every_example_is_run() -> None:
    """The specification gives three."""
    assert len(EXAMPLES) == 3
