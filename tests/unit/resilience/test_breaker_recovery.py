"""How a circuit breaker recovers: hanging probes, slow calls, growing cool-downs, threads."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stageflow.errors import CircuitOpenError, InvalidConfigError
from stageflow.resilience import BreakerPolicy, BreakerRegistry, CircuitBreaker, Permit
from tests.utils.flaky_service import CLOSED, HALF_OPEN, OPEN, Service
from tests.utils.scripted import Step, fails


class Clock:
    """A clock that is set by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock, **policy: Any) -> CircuitBreaker:
    """A breaker that one failure has opened."""
    breaker = CircuitBreaker("llm", BreakerPolicy(failures=1, **policy))
    breaker.fail(breaker.acquire(clock), clock)
    return breaker


@pytest.mark.simulate(order="asyncio")
async def test_the_place_of_a_hanging_probe_is_taken_back() -> None:
    """A stage without a timeout may hang for ever; a later caller becomes the probe."""
    service = Service(*fails(1), 1e9, failures=1, cooldown_s=5.0, probe_timeout_s=20.0)
    await service.turn()
    await asyncio.sleep(5.0)
    hanging = asyncio.create_task(service.turn())
    await asyncio.sleep(19.0)
    assert isinstance((await service.turn()).failure, CircuitOpenError)
    await asyncio.sleep(1.0)
    assert (await service.turn()).status == "completed"
    assert service.state is CLOSED
    hanging.cancel()
    await asyncio.wait([hanging])
    assert service.state is CLOSED


def test_only_the_place_that_is_overdue_is_taken_back() -> None:
    """Of two probes, the older one loses its place first."""
    clock = Clock()
    breaker = opened(clock, cooldown_s=5.0, probes=2, successes=2, probe_timeout_s=10.0)
    clock.now_s = 5.0
    breaker.acquire(clock)
    clock.now_s = 10.0
    breaker.acquire(clock)
    clock.now_s = 15.0
    breaker.acquire(clock)
    with pytest.raises(CircuitOpenError):
        breaker.acquire(clock)
    clock.now_s = 20.0
    breaker.acquire(clock)


@pytest.mark.parametrize(("outcome", "after"), [("succeed", CLOSED), ("fail", OPEN)])
def test_what_becomes_of_an_overdue_probe_counts(outcome: str, after: object) -> None:
    """A provider that always answers after the time for a probe is well, and may be called."""
    clock = Clock()
    breaker = opened(clock, cooldown_s=5.0, probe_timeout_s=10.0)
    clock.now_s = 5.0
    late = breaker.acquire(clock)
    clock.now_s = 16.0
    second = breaker.acquire(clock)
    getattr(breaker, outcome)(late, clock)
    assert breaker.state is after
    breaker.release(second)
    assert breaker.state is after


SLOW: list[Step] = [3.0, 1.0, 3.0, 1.0, 3.0]
SLOW_FAILURE: Step = [3.0, ConnectionError()]
SLOW_REFUSAL: Step = [3.0, ValueError()]


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (SLOW, OPEN),
        (SLOW[:4], CLOSED),
        ([1.9] * 9, CLOSED),
        ([SLOW_FAILURE, 1.0, 1.0, SLOW_FAILURE, 3.0], OPEN),
        ([SLOW_REFUSAL, *SLOW[:4]], CLOSED),
    ],
    ids=["above the rate", "at the rate", "below the limit", "failed ones too", "not of refusals"],
)
@pytest.mark.simulate(order="asyncio")
async def test_opens_at_a_rate_of_slow_calls(script: list[Step], state: object) -> None:
    """Answers that come too late are a failure of their own kind."""
    service = Service(*script, failures=None, slow_call_s=2.0, slow_call_rate=0.5, minimum_calls=4)
    await service.turns(len(script) - 1)
    assert service.state is CLOSED
    last = await service.turn()
    assert service.state is state
    reasons = [e.data["reason"] for e in last.events if e.type == "stage.llm.breaker_open"]
    assert reasons == (["60% of 5 calls were slow"] if state is OPEN else [])


@pytest.mark.simulate(order="asyncio")
async def test_a_slow_probe_is_a_failed_one() -> None:
    """A provider that still takes too long is not well again."""
    service = Service(
        *fails(1), 3.0, 1.0, failures=1, cooldown_s=5.0, slow_call_s=2.0, slow_call_rate=0.5
    )
    await service.turn()
    await asyncio.sleep(5.0)
    probe = await service.turn()
    assert (service.state, probe.events[-3].data["reason"]) == (OPEN, "a probe was slow")
    await asyncio.sleep(5.0)
    assert (await service.turn()).status == "completed"
    assert service.state is CLOSED


def waits_s(breaker: CircuitBreaker, clock: Clock, chance: Any, probes: int) -> Iterator[float]:
    """How long the breaker stays open each time, while so many probes fail."""
    for _ in range(probes):
        with pytest.raises(CircuitOpenError) as rejected:
            breaker.acquire(clock)
        wait_s = rejected.value.retry_after_s
        assert wait_s is not None
        yield wait_s
        clock.now_s += wait_s
        breaker.fail(breaker.acquire(clock), clock, chance)


@pytest.mark.parametrize(
    ("policy", "expected_s"),
    [
        ({}, [10.0] * 5),
        ({"cooldown_factor": 2.0}, [10.0, 20.0, 40.0, 80.0, 160.0]),
        ({"cooldown_factor": 3, "max_cooldown_s": 60.0}, [10.0, 30.0, 60.0, 60.0, 60.0]),
        ({"cooldown_factor": 2.0, "max_cooldown_s": 5.0}, [10.0] * 5),
        ({"cooldown_factor": 1e308, "max_cooldown_s": 50.0}, [10.0, 50.0, 50.0, 50.0, 50.0]),
    ],
)
def test_each_failed_probe_prolongs_the_cool_down(
    policy: dict[str, Any], expected_s: list[float]
) -> None:
    """Up to a longest one, and until the breaker closes."""
    clock = Clock()
    breaker = opened(clock, cooldown_s=10.0, **policy)
    assert list(waits_s(breaker, clock, None, 5)) == expected_s
    clock.now_s += 1e6
    breaker.succeed(breaker.acquire(clock), clock)
    breaker.fail(breaker.acquire(clock), clock)
    assert breaker.cooldown_s == 10.0


def test_a_cool_down_is_made_longer_at_random() -> None:
    """By no more than the share that the policy names, and not by what the next one grows from."""
    clock = Clock()
    breaker = opened(clock, cooldown_s=10.0, cooldown_factor=2.0, cooldown_jitter=0.5)
    drawn = iter([0.0, 1.0, 0.5, 0.0])
    first, *others = waits_s(breaker, clock, lambda: next(drawn), 4)
    assert 10.0 <= first <= 15.0
    assert others == pytest.approx([20.0, 60.0, 100.0])


@pytest.mark.simulate(order="asyncio")
async def test_the_jitter_of_a_run_repeats_with_its_seed() -> None:
    """Chance comes from the stage's context; processes with other seeds draw other cool-downs."""
    drawn = []
    for seed in (7, 7, 8):
        service = Service(*fails(1), failures=1, cooldown_jitter=0.9)
        await service.turn(seed=seed)
        drawn.append(service.breakers["llm"].cooldown_s)
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(30.0 <= cooldown_s <= 60.0 for cooldown_s in drawn)


def test_a_breaker_that_follows_another_grows_from_there() -> None:
    """The other process's failures count, up to the longest cool-down of the own policy."""
    clock = Clock()
    breaker = opened(clock, cooldown_s=10.0, cooldown_factor=2.0, max_cooldown_s=100.0)
    breaker.follow(OPEN, 40.0, clock)
    assert list(waits_s(breaker, clock, None, 3)) == [40.0, 80.0, 100.0]


@pytest.fixture
def _busy_switching() -> Iterator[None]:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


@pytest.mark.usefixtures("_busy_switching")
def test_threads_at_half_open_get_one_permit() -> None:
    """Of all the loops that share a breaker, one may probe, and it is counted once."""
    threads = 4
    ready = threading.Barrier(threads)
    clock = Clock()

    def ask(breaker: CircuitBreaker) -> Permit | None:
        ready.wait()
        try:
            return breaker.acquire(clock)
        except CircuitOpenError:
            return None

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(500):
            breaker = opened(clock)
            clock.now_s += 30.0
            permits = [p for p in pool.map(ask, [breaker] * threads) if p is not None]
            assert len(permits) == 1
            assert breaker.state is HALF_OPEN


@pytest.mark.usefixtures("_busy_switching")
def test_threads_lose_no_call_of_a_window() -> None:
    """Each failure is counted once, whichever thread reports it."""
    threads, calls = 4, 500
    ready = threading.Barrier(threads)
    clock = Clock()
    policy = BreakerPolicy(failures=threads * calls + 1, failure_rate=0.0, minimum_calls=10**9)
    breakers = BreakerRegistry(policy)

    def fail(_: int) -> CircuitBreaker:
        ready.wait()
        breaker = breakers["llm"]
        for _ in range(calls):
            breaker.fail(breaker.acquire(clock), clock)
        return breaker

    with ThreadPoolExecutor(threads) as pool:
        (breaker,) = set(pool.map(fail, range(threads)))
    assert breaker.state is CLOSED
    change = breaker.fail(breaker.acquire(clock), clock)
    assert change is not None
    assert change.reason == "2001 failures in a row"


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"slow_call_s": 1.0}, "slow_call_rate"), ({"slow_call_rate": 0.5}, "slow_call_s")],
)
def test_half_a_limit_of_slow_calls_is_refused(given: dict[str, float], missing: str) -> None:
    """One without the other would count nothing."""
    with pytest.raises(InvalidConfigError, match=f"{missing} is None; give it together with"):
        BreakerPolicy(**given)  # type: ignore[arg-type]
