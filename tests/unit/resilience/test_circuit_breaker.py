"""When a circuit breaker opens, lets probes pass and closes, and its policy."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from stageflow import Event, RunResult
from stageflow.errors import CircuitOpenError, InvalidConfigError
from stageflow.interceptors import BreakerInterceptor
from stageflow.resilience import (
    BreakerPolicy,
    BreakerRegistry,
    BreakerState,
    BreakerTransition,
    CircuitBreaker,
)
from tests.utils.assertions import only
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.flaky_service import CLOSED, HALF_OPEN, OPEN, Service
from tests.utils.scripted import ScriptedLLM, Step, asking, context, fails


def changes(result: RunResult) -> list[Event]:
    """The events of a run that tell of a change of the breaker's state."""
    return [event for event in result.events if ".breaker_" in event.type]


@pytest.mark.parametrize("limit", [1, 3, 5])
@pytest.mark.simulate(order="asyncio")
async def test_opens_after_n_failures(limit: int) -> None:
    """The N-th failure in a row opens it, no earlier one does, and the run says so by an event."""
    service = Service(*fails(limit), failures=limit)
    for _ in range(limit - 1):
        assert not changes(await service.turn())
        assert service.state is CLOSED
    last = await service.turn()
    assert service.state is OPEN
    assert service.llm.calls == limit
    assert only(last.events, "stage.llm.breaker_open").data == {
        "provider": "llm",
        "before": "closed",
        "after": "open",
        "reason": f"{limit} failures in a row",
    }


@pytest.mark.simulate(order="asyncio")
async def test_a_success_in_between_starts_the_count_anew() -> None:
    """Failures count in a row only."""
    service = Service(*fails(2), "ok", *fails(2), "ok", *fails(3), failures=3)
    await service.turns(8)
    assert service.state is CLOSED
    await service.turn()
    assert service.state is OPEN


@pytest.mark.simulate(order="asyncio")
async def test_opens_at_a_failure_rate() -> None:
    """More than the share of failures opens it; the share itself does not, nor too few calls."""
    service = Service(
        *fails(1), "ok", "ok", *fails(2), failures=None, failure_rate=0.5, minimum_calls=4
    )
    await service.turns(4)
    assert service.state is CLOSED
    last = await service.turn()
    assert service.state is OPEN
    assert changes(last)[0].data["reason"] == "60% of 5 calls failed"


@pytest.mark.simulate(order="asyncio")
async def test_the_rate_forgets_what_is_older_than_its_window() -> None:
    """Three failures of an hour ago do not count; as many in one window do."""
    service = Service(
        *fails(3), "ok", "ok", *fails(4),
        failures=None, failure_rate=0.6, minimum_calls=4, window_s=60.0,
    )  # fmt: skip
    await service.turns(3)
    await asyncio.sleep(60.0)
    await service.turns(5)
    assert service.state is CLOSED
    await service.turn()
    assert service.state is OPEN


@pytest.mark.simulate(order="asyncio")
async def test_requests_fail_fast_when_open() -> None:
    """The provider is not called, no time passes, and the error says what happened."""
    service = Service(*fails(2), failures=2, cooldown_s=30.0)
    await service.turns(2)
    await asyncio.sleep(10.0)
    result = await service.turn()
    assert service.llm.calls == 2
    assert result.duration_ms == 0.0
    assert result.error is not None
    assert "circuit breaker open" in result.error.lower()
    assert isinstance(result.failure, CircuitOpenError)
    assert result.failure.retry_after_s == 20.0
    assert "try again" in result.failure.user_message
    failed = only(result.events, "stage.llm.failed")
    assert failed.data["error_code"] == "circuit_open"


@pytest.mark.simulate(order="asyncio")
async def test_rejected_calls_are_not_observations() -> None:
    """A thousand rejections while it is open neither prolong the cool-down nor end it."""
    service = Service(*fails(1), failures=1, cooldown_s=17.0)
    await service.turn()
    for _ in range(1024):
        await service.turn()
        await asyncio.sleep(1 / 64)
    assert (service.state, service.llm.calls) == (OPEN, 1)
    await asyncio.sleep(1.0)
    assert (await service.turn()).status == "completed"


@pytest.mark.simulate(order="asyncio")
async def test_half_opens_after_the_cool_down() -> None:
    """Until then every call is rejected; the first one after it is let through as a probe."""
    service = Service(*fails(1), failures=1, cooldown_s=32.0, successes=2)
    await service.turn()
    await asyncio.sleep(31.75)
    assert (await service.turn()).status == "failed"
    assert (service.state, service.llm.calls) == (OPEN, 1)
    await asyncio.sleep(0.25)
    probe = await service.turn()
    assert probe.status == "completed"
    assert (service.state, service.llm.calls) == (HALF_OPEN, 2)
    assert [event.type for event in changes(probe)] == ["stage.llm.breaker_half_open"]


@pytest.mark.simulate(order="asyncio")
async def test_closes_after_a_successful_probe() -> None:
    """The probe's answer closes it, an event says so, and calls pass as before."""
    service = Service(*fails(2), failures=2, cooldown_s=30.0)
    await service.turns(2)
    await asyncio.sleep(30.0)
    probe = await service.turn()
    assert service.state is CLOSED
    assert [(e.type, e.data["reason"]) for e in changes(probe)] == [
        ("stage.llm.breaker_half_open", "the cool-down is over"),
        ("stage.llm.breaker_closed", "the probes were answered"),
    ]
    assert await service.turns(3) == ["completed"] * 3


@pytest.mark.simulate(order="asyncio")
async def test_it_forgets_old_failures_when_it_closes() -> None:
    """After a recovery it takes the full number of failures again."""
    service = Service(*fails(2), "ok", *fails(2), failures=2, cooldown_s=1.0)
    await service.turns(2)
    await asyncio.sleep(1.0)
    await service.turns(2)
    assert service.state is CLOSED
    await service.turn()
    assert service.state is OPEN


@pytest.mark.simulate(order="asyncio")
async def test_opens_again_when_a_probe_fails() -> None:
    """One failed probe, and the whole cool-down begins anew."""
    service = Service(*fails(4), failures=3, cooldown_s=30.0)
    await service.turns(3)
    await asyncio.sleep(30.0)
    probe = await service.turn()
    assert service.state is OPEN
    assert changes(probe)[-1].data["reason"] == "a probe failed"
    await asyncio.sleep(29.0)
    await service.turn()
    assert (service.state, service.llm.calls) == (OPEN, 4)
    await asyncio.sleep(1.0)
    assert (await service.turn()).status == "completed"


@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.simulate(order="asyncio")
async def test_of_1000_callers_at_half_open_only_the_probes_pass(probes: int) -> None:
    """All others are rejected at once, and none of these rejections counts."""
    service = Service(
        *fails(1), *[1.0] * probes, failures=1, cooldown_s=5.0, probes=probes, successes=probes
    )
    await service.turn()
    await asyncio.sleep(5.0)
    results = await asyncio.gather(*(service.turn() for _ in range(1000)))
    assert service.llm.calls == 1 + probes
    passed = [result for result in results if result.status == "completed"]
    rejected = [r for r in results if isinstance(r.failure, CircuitOpenError)]
    assert (len(passed), len(rejected)) == (probes, 1000 - probes)
    assert {result.duration_ms for result in rejected} == {0.0}
    assert service.state is CLOSED


@pytest.mark.simulate(order="asyncio")
async def test_a_cancelled_probe_frees_its_place() -> None:
    """While a probe is under way nobody else passes; once it is cancelled, the next one does."""
    service = Service(*fails(1), 60.0, failures=1, cooldown_s=5.0)
    await service.turn()
    await asyncio.sleep(5.0)
    probe = asyncio.create_task(service.turn())
    await asyncio.sleep(1.0)
    assert isinstance((await service.turn()).failure, CircuitOpenError)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert service.state is HALF_OPEN
    assert (await service.turn()).status == "completed"
    assert service.state is CLOSED


@pytest.mark.parametrize("outcome", ["answer", "failure", "refusal", "cancellation"])
@pytest.mark.simulate(order="asyncio")
async def test_calls_admitted_before_a_change_of_state_have_no_say(outcome: str) -> None:
    """A call from the closed time that ends in the half-open one moves nothing, frees nothing."""
    ending: dict[str, list[Step]] = {
        "answer": [9.0, "late"],
        "failure": [9.0, ConnectionError()],
        "refusal": [9.0, ValueError()],
        "cancellation": [99.0],
    }

    service = Service(ending[outcome], *fails(1), 20.0, failures=1, cooldown_s=5.0)
    late = asyncio.create_task(service.turn())
    await asyncio.sleep(1.0)
    await service.turn()
    await asyncio.sleep(5.0)
    probe = asyncio.create_task(service.turn())
    await asyncio.sleep(2.0)
    if outcome == "cancellation":
        late.cancel()
    await asyncio.wait([late])
    await asyncio.sleep(2.0)
    assert service.state is HALF_OPEN
    assert isinstance((await service.turn()).failure, CircuitOpenError)
    assert (await probe).status == "completed"
    assert service.state is CLOSED


@pytest.mark.simulate(order="asyncio")
async def test_forced_open_it_stays_open_until_reset() -> None:
    """No cool-down ends it; the reset lets calls pass at once."""
    service = Service(cooldown_s=1.0)
    clock = asyncio.get_running_loop().time
    change = service.breakers["llm"].force_open(clock)
    assert change is not None
    assert (change.before, change.after, change.reason) == (CLOSED, OPEN, "forced open")
    await asyncio.sleep(1e6)
    rejected = await service.turn()
    assert isinstance(rejected.failure, CircuitOpenError)
    assert (service.state, service.llm.calls) == (OPEN, 0)
    assert service.breakers["llm"].force_open(clock) is None
    change = service.breakers["llm"].reset(clock)
    assert change is not None
    assert (change.after, change.at_s) == (CLOSED, 1e6)
    assert (await service.turn()).status == "completed"


@pytest.mark.simulate(order="asyncio")
async def test_a_reset_forgets_failures() -> None:
    """Also of a breaker that was not open."""
    service = Service(*fails(3), failures=2)
    await service.turn()
    assert service.breakers["llm"].reset(asyncio.get_running_loop().time) is None
    await service.turn()
    assert service.state is CLOSED
    await service.turn()
    assert service.state is OPEN


@pytest.mark.simulate(order="asyncio")
async def test_each_provider_has_a_breaker_of_its_own() -> None:
    """One that is open stops no stage of another provider, nor one that names none."""
    breakers = BreakerRegistry(llm=BreakerPolicy(failures=1))
    pipeline = make_pipeline(
        asking(required=False), make_spec("a", provider="stt"), make_spec("b", "a")
    )
    for _ in range(2):
        ctx = context(ScriptedLLM(*fails(1)))
        result = await pipeline.run(ctx, interceptors=[BreakerInterceptor(breakers)])
    assert {name: str(end.status) for name, end in result.stages.items()} == {
        "llm": "failed",
        "a": "completed",
        "b": "completed",
    }
    assert {name: str(breaker.state) for name, breaker in breakers.items()} == {
        "llm": "open",
        "stt": "closed",
    }


@pytest.mark.simulate(order="asyncio")
async def test_runs_share_a_breaker_through_the_registry_alone() -> None:
    """Two interceptors of one registry see one state; one with its own sees another."""
    service, llm = Service(failures=1), ScriptedLLM(*fails(1))
    await service.pipeline.run(context(llm), interceptors=[BreakerInterceptor(service.breakers)])
    assert isinstance((await service.turn()).failure, CircuitOpenError)
    alone = await service.pipeline.run(context(llm), interceptors=[BreakerInterceptor()])
    assert alone.status == "completed"


@pytest.mark.simulate(order="asyncio")
async def test_five_failed_turns_and_the_next_is_short_circuited() -> None:
    """By default, the breaker opens at the fifth failure."""
    breaker = BreakerInterceptor()
    pipeline = make_pipeline(asking())
    for _ in range(5):
        await pipeline.run(context(ScriptedLLM(*fails(1))), interceptors=[breaker])
    result = await pipeline.run(context(ScriptedLLM()), interceptors=[breaker])
    assert result.error is not None
    assert "circuit breaker open" in result.error.lower()


@pytest.mark.simulate(order="asyncio")
async def test_without_the_interceptor_there_is_no_breaker() -> None:
    """However often a provider fails."""
    pipeline = make_pipeline(asking())
    for _ in range(10):
        result = await pipeline.run(context(ScriptedLLM(*fails(1))))
        assert result.failure is not None
        assert result.failure.code == "connection_failed"


_WHOLE = "give a positive integer"
_SECONDS = "give a positive number of seconds"
_FACTOR = "give a number of at least 1"
_SHARE = "give a share of at least 0 and below 1"


@pytest.mark.parametrize(
    ("field", "values", "fix"),
    [
        ("failures", [0, 1.5], _WHOLE),
        ("failures", [None], "give it or failure_rate, or it never opens"),
        ("minimum_calls", [0, "1"], _WHOLE),
        ("probes", [0, None], _WHOLE),
        ("successes", [0, -1], _WHOLE),
        ("window_s", [0, -1, float("nan")], _SECONDS),
        ("cooldown_s", [0, "1", float("inf")], _SECONDS),
        ("probe_timeout_s", [0, None], _SECONDS),
        ("max_cooldown_s", [float("inf")], _SECONDS),
        ("slow_call_s", [-1], _SECONDS),
        ("failure_rate", [1, -0.1, "half"], _SHARE),
        ("slow_call_rate", [1], _SHARE),
        ("cooldown_jitter", [-0.1, 1.5], _SHARE),
        ("cooldown_factor", [0.5, float("inf")], _FACTOR),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(field: str, values: list[Any], fix: str) -> None:
    """Where it is made, word for word: what was set up, its field, the value, and what to give."""
    for value in values:
        with pytest.raises(InvalidConfigError) as refused:
            BreakerPolicy(**{field: value})
        assert str(refused.value) == f"BreakerPolicy: {field} is {value!r}; {fix}"
        assert (refused.value.field, refused.value.found) == (field, value)


def test_the_policy_that_is_given_to_nobody_is_the_documented_one() -> None:
    """Five in a row and no rate; a minute, twenty calls; half a minute, one probe, one success."""
    assert BreakerPolicy() == BreakerPolicy(
        failures=5,
        failure_rate=None,
        window_s=60.0,
        minimum_calls=20,
        cooldown_s=30.0,
        probes=1,
        successes=1,
    )
    least = BreakerPolicy(failures=1, failure_rate=0, minimum_calls=1, probes=1, successes=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        least.failures = 2  # type: ignore[misc]


def test_each_change_says_what_when_and_why() -> None:
    """From closed to open, half-open, open again, half-open and closed, on a clock by hand."""
    now_s = 100.0

    def clock() -> float:
        return now_s

    breaker = CircuitBreaker("llm", BreakerPolicy(failures=1, cooldown_s=10.0, successes=2))
    changes = [breaker.fail(breaker.acquire(clock), clock)]
    with pytest.raises(CircuitOpenError) as rejected:
        breaker.acquire(clock)
    assert (rejected.value.provider, rejected.value.retry_after_s) == ("llm", 10.0)
    for answers in ("fail", "succeed"):
        now_s += 10.0
        permit = breaker.acquire(clock)
        changes.append(permit.change)
        with pytest.raises(CircuitOpenError) as rejected:
            breaker.acquire(clock)
        assert (rejected.value.provider, rejected.value.retry_after_s) == ("llm", 0.0)
        changes.append(getattr(breaker, answers)(permit, clock))
    again = breaker.acquire(clock)
    assert again.change is None
    changes.append(breaker.succeed(again, clock))
    assert changes == [
        BreakerTransition("llm", CLOSED, OPEN, 100.0, "1 failures in a row"),
        BreakerTransition("llm", OPEN, HALF_OPEN, 110.0, "the cool-down is over"),
        BreakerTransition("llm", HALF_OPEN, OPEN, 110.0, "a probe failed"),
        BreakerTransition("llm", OPEN, HALF_OPEN, 120.0, "the cool-down is over"),
        None,
        BreakerTransition("llm", HALF_OPEN, CLOSED, 120.0, "the probes were answered"),
    ]
    breaker.force_open(clock)
    assert breaker.reset(clock) == BreakerTransition("llm", OPEN, CLOSED, 120.0, "reset")
    with pytest.raises(dataclasses.FrozenInstanceError):
        changes[0].reason = "none"  # type: ignore[misc,union-attr]
    assert [str(state) for state in BreakerState] == ["closed", "open", "half_open"]


def test_a_window_forgets_a_call_when_it_is_as_old_as_the_window() -> None:
    """And keeps it until then; a success is forgotten like a failure."""
    now_s = 0.0

    def clock() -> float:
        return now_s

    policy = BreakerPolicy(failures=None, failure_rate=0.5, window_s=10.0, minimum_calls=3)
    for later_s, state in ((9.5, CLOSED), (10.0, OPEN)):
        now_s = 0.0
        breaker = CircuitBreaker("llm", policy)
        breaker.succeed(breaker.acquire(clock), clock)
        now_s = 1.0
        for answer in (breaker.succeed, breaker.fail):
            answer(breaker.acquire(clock), clock)
        now_s = later_s
        breaker.fail(breaker.acquire(clock), clock)
        assert breaker.state is state


def test_a_permit_of_an_earlier_time_has_no_say_ever_again() -> None:
    """A probe that is late by two changes of state closes nothing and opens nothing."""
    now_s = 0.0

    def clock() -> float:
        return now_s

    breaker = CircuitBreaker("llm", BreakerPolicy(failures=1, cooldown_s=10.0, probes=2))
    breaker.fail(breaker.acquire(clock), clock)
    now_s = 10.0
    late, probe = breaker.acquire(clock), breaker.acquire(clock)
    breaker.fail(probe, clock)
    now_s = 20.0
    breaker.acquire(clock)
    for answer in (breaker.fail, breaker.succeed):
        assert answer(late, clock) is None
        assert breaker.state is HALF_OPEN


def test_a_reset_forgets_the_window() -> None:
    """Calls from before do not help to make up the least number of calls."""
    policy = BreakerPolicy(failures=None, failure_rate=0.4, minimum_calls=3)
    breaker = CircuitBreaker("llm", policy)

    def clock() -> float:
        return 0.0

    for answer in (breaker.succeed, breaker.succeed):
        answer(breaker.acquire(clock), clock)
    breaker.reset(clock)
    for _ in range(2):
        breaker.fail(breaker.acquire(clock), clock)
    assert breaker.state is CLOSED
    breaker.fail(breaker.acquire(clock), clock)
    assert breaker.state is OPEN
