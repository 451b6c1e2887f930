"""Which outcomes of a call count as failures of the provider."""

from __future__ import annotations

import asyncio

import pytest

from stageflow import StageContext, StageOutput, TimeoutInterceptor
from stageflow.errors import CircuitOpenError
from stageflow.interceptors import RetryInterceptor, RetryPolicy
from tests.utils.assertions import only
from tests.utils.flaky_service import CLOSED, HALF_OPEN, OPEN, Service
from tests.utils.scripted import ASKED, fails

pytestmark = pytest.mark.simulate(order="asyncio")


class HttpError(Exception):
    """The error of an HTTP client."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ConnectionError(), True),
        (TimeoutError(), True),
        (HttpError(500), True),
        (HttpError(503), True),
        (HttpError(429), True),
        (HttpError(401), True),
        (HttpError(400), False),
        (HttpError(422), False),
        (ValueError("a bug"), False),
        (CircuitOpenError("another", 1.0), False),
    ],
    ids=repr,
)
async def test_what_speaks_against_a_provider(error: Exception, counts: bool) -> None:
    """Failures of the service do; refusals, bugs and the word of another breaker do not."""
    service = Service(error, failures=1)
    await service.turn()
    assert service.state is (OPEN if counts else CLOSED)


@pytest.mark.parametrize("limit", ["of the stage", "of an interceptor"])
async def test_a_timeout_speaks_against_a_provider(limit: str) -> None:
    """Whichever limit strikes."""
    service = Service(
        9.0,
        failures=1,
        fields={"timeout_s": 1.0} if limit == "of the stage" else {},
        inside=(TimeoutInterceptor(1.0),) if limit == "of an interceptor" else (),
    )
    result = await service.turn()
    assert result.duration_ms == 1000.0
    assert service.state is OPEN


@pytest.mark.parametrize("ending", ["answers", "raises"])
async def test_a_timeout_counts_whatever_the_stage_makes_of_it(ending: str) -> None:
    """A stage that swallows its cancellation, or raises a bug instead, has timed out."""

    async def stubborn(ctx: StageContext) -> StageOutput:
        try:
            await ctx.llm.complete(ASKED)
        except asyncio.CancelledError:
            if ending == "raises":
                raise ValueError("while cleaning up") from None
        return StageOutput.ok(answer="too late")

    service = Service(9.0, failures=1, fields={"runner": stubborn, "timeout_s": 1.0})
    result = await service.turn()
    assert service.state is OPEN
    assert only(result.events, "stage.llm.breaker_open").data["reason"] == "1 failures in a row"
    assert result.failure is not None
    assert result.failure.code == "stage_timeout"


async def test_the_deadline_of_the_run_says_nothing_of_a_provider() -> None:
    """A run may be late for reasons of its own."""
    service = Service(9.0, failures=1)
    assert (await service.turn(deadline_s=1.0)).status == "failed"
    assert service.state is CLOSED


async def test_a_stage_that_skips_has_proved_nothing() -> None:
    """Its probe has no say, and its place is free again."""

    async def skip_if_asked(ctx: StageContext) -> StageOutput:
        answer = await ctx.llm.complete(ASKED)
        return StageOutput.skip("asked to") if answer == "skip" else StageOutput.ok(answer=answer)

    service = Service(
        *fails(1), "skip", failures=1, cooldown_s=1.0, fields={"runner": skip_if_asked}
    )
    await service.turn()
    await asyncio.sleep(1.0)
    await service.turn()
    assert service.state is HALF_OPEN
    await service.turn()
    assert service.state is CLOSED


async def test_inside_of_a_retry_each_attempt_is_a_call() -> None:
    """Three attempts of one run open it, and the retry does not run against the open breaker."""
    retry = RetryInterceptor(RetryPolicy(attempts=9, base_delay_s=0.1))
    service = Service(*fails(9), failures=3, outside=(retry,))
    result = await service.turn()
    assert service.llm.calls == 3
    assert isinstance(result.failure, CircuitOpenError)
    assert [e.type for e in result.events if e.stage and "retry" in e.type] == [
        "stage.llm.retrying"
    ] * 3
