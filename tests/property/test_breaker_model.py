"""The circuit breaker against a naive model: random histories, and a crowd at half-open."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow.errors import CircuitOpenError
from stageflow.resilience import BreakerPolicy, BreakerTransition, CircuitBreaker, Permit

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

STEPS = 20_000
STEPS_AN_EXAMPLE = 50
COOLDOWN_S = 2.0

#: Every way from one state to another that there is.
TRANSITIONS = {
    ("closed", "open", "failures in a row"),
    ("closed", "open", "calls failed"),
    ("closed", "open", "forced open"),
    ("open", "half_open", "the cool-down is over"),
    ("open", "closed", "reset"),
    ("half_open", "closed", "the probes were answered"),
    ("half_open", "closed", "reset"),
    ("half_open", "open", "a probe failed"),
    ("half_open", "open", "forced open"),
}


@dataclass
class Call:
    """A call under way: what the breaker gave for it, and in which period and when it began."""

    permit: Permit
    period: int
    began_s: float


@dataclass
class Model:
    """The expected breaker, computed from all that happened since its state last changed.

    Attributes:
        period: How many changes of state, forced ones and resets included, there have been.
        ended: The calls of this period that ended with an outcome: when, and whether well.
        probes: When each call of this period began that has not ended.
        forced: Whether it was opened by hand.
    """

    policy: BreakerPolicy
    state: str = "closed"
    period: int = 0
    since_s: float = 0.0
    forced: bool = False
    ended: list[tuple[float, bool]] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)

    def enter(self, state: str, now_s: float, *, forced: bool = False) -> None:
        self.state, self.since_s, self.forced = state, now_s, forced
        self.period += 1
        self.ended, self.probes = [], []

    def cooled_down(self, now_s: float) -> bool:
        return not self.forced and now_s >= self.since_s + self.policy.cooldown_s

    def admits(self, now_s: float) -> bool:
        if self.state == "open":
            return self.cooled_down(now_s)
        overdue_s = now_s - self.policy.probe_timeout_s
        under_way = [began_s for began_s in self.probes if began_s > overdue_s]
        return self.state == "closed" or len(under_way) < self.policy.probes

    def why_open(self, now_s: float) -> str | None:
        """Why the outcomes of a closed period open it, if they do."""
        limit = self.policy.failures
        if limit is not None and [well for _, well in self.ended[-limit:]] == [False] * limit:
            return "failures in a row"
        window = [well for at_s, well in self.ended if at_s > now_s - self.policy.window_s]
        rate = self.policy.failure_rate
        if rate is None or len(window) < self.policy.minimum_calls:
            return None
        above = Fraction(window.count(False), len(window)) > Fraction(rate)
        return "calls failed" if above else None


@st.composite
def policies(draw: st.DrawFn) -> BreakerPolicy:
    """Small numbers, so that every limit is met soon."""
    failures = draw(st.sampled_from([None, 1, 2, 3]))
    rate = draw(st.sampled_from([0.0, 0.25, 0.5]))
    return BreakerPolicy(
        failures=failures,
        failure_rate=rate if failures is None or draw(st.booleans()) else None,
        window_s=8.0,
        minimum_calls=draw(st.integers(1, 4)),
        cooldown_s=COOLDOWN_S,
        probes=draw(st.integers(1, 3)),
        successes=draw(st.integers(1, 3)),
        probe_timeout_s=draw(st.sampled_from([4.0, 60.0])),
    )


class History:
    """Drives a breaker and its model through the same history.

    A step is one byte: Hypothesis draws, cuts and simplifies many of them at once, and one rule of
    a state machine takes it as long as a hundred steps here.
    """

    steps = 0
    seen: ClassVar[Counter[tuple[str, str, str]]] = Counter()
    rejected = 0
    without_a_say = 0

    def __init__(self, policy: BreakerPolicy) -> None:
        self.now_s = 0.0
        self.quiet_steps = 0
        self.policy = policy
        self.breaker = CircuitBreaker("llm", self.policy)
        self.model = Model(self.policy)
        self.calls: list[Call] = []

    def step(self, number: int) -> None:
        """Do what a byte says; where that is not possible, ask."""
        choice, what = divmod(number, 8)
        if what in (1, 2, 3) and self.calls:
            (self.succeed, self.fail, self.cancel)[what - 1](choice)
        elif what == 4:
            self.fail_at_once(1 + choice % 3)
        elif what == 5 and self.model.state == "open":
            self.wait_and_ask()
        elif what == 6:
            self.now_s += (0.5, 2.0, 8.0)[choice % 3]
        elif what == 7 and self.quiet_steps >= 12:
            # By hand, but not so often that nothing happens by itself.
            self.interfere(force_open=choice % 2 == 1)
        else:
            self.ask()
        type(self).steps += 1
        self.quiet_steps += 1
        assert self.breaker.state == self.model.state

    def clock(self) -> float:
        return self.now_s

    def expect(self, change: BreakerTransition | None, after: str | None, why: str = "") -> None:
        """Check a reported change against the one that is due, and make it in the model."""
        before = self.model.state
        if after is None or after == before:
            assert change is None
            return
        assert change is not None
        assert (change.provider, change.at_s) == ("llm", self.now_s)
        assert (change.before, change.after) == (before, after)
        assert why in change.reason
        self.seen[before, after, why] += 1

    def ask(self) -> None:
        model = self.model
        if not model.admits(self.now_s):
            with pytest.raises(CircuitOpenError) as rejection:
                self.breaker.acquire(self.clock)
            wait_s = 0.0
            if model.state == "open":
                wait_s = math.inf if model.forced else model.since_s + COOLDOWN_S - self.now_s
            assert rejection.value.retry_after_s == wait_s
            type(self).rejected += 1
            return
        permit = self.breaker.acquire(self.clock)
        if model.state == "open":
            self.expect(permit.change, "half_open", "the cool-down is over")
            model.enter("half_open", self.now_s)
        else:
            assert permit.change is None
        model.probes.append(self.now_s)
        self.calls.append(Call(permit, model.period, self.now_s))

    def take(self, choice: int) -> tuple[Permit, bool]:
        """One of the calls under way, and whether what becomes of it counts."""
        call = self.calls.pop(choice % len(self.calls))
        current = call.period == self.model.period
        if current:
            self.model.probes.remove(call.began_s)
        type(self).without_a_say += not current
        return call.permit, current

    def succeed(self, choice: int) -> None:
        permit, current = self.take(choice)
        change = self.breaker.succeed(permit, self.clock)
        model = self.model
        if current:
            model.ended.append((self.now_s, True))
        enough = len(model.ended) >= self.policy.successes
        if current and model.state == "half_open" and enough:
            self.expect(change, "closed", "the probes were answered")
            model.enter("closed", self.now_s)
        else:
            self.expect(change, None)

    def fail(self, choice: int) -> None:
        permit, current = self.take(choice)
        change = self.breaker.fail(permit, self.clock)
        model = self.model
        why: str | None = None
        if current:
            model.ended.append((self.now_s, False))
            half_open = model.state == "half_open"
            why = "a probe failed" if half_open else model.why_open(self.now_s)
        if why is None:
            self.expect(change, None)
        else:
            self.expect(change, "open", why)
            model.enter("open", self.now_s)

    def cancel(self, choice: int) -> None:
        permit, _ = self.take(choice)
        self.breaker.release(permit)

    def fail_at_once(self, times: int) -> None:
        """Some calls that fail before anything else happens."""
        for _ in range(times):
            under_way = len(self.calls)
            self.ask()
            if len(self.calls) > under_way:
                self.fail(under_way)

    def wait_and_ask(self) -> None:
        """Just until the cool-down is over."""
        self.now_s += COOLDOWN_S
        self.ask()

    def interfere(self, *, force_open: bool) -> None:
        self.quiet_steps = 0
        if force_open:
            self.expect(self.breaker.force_open(self.clock), "open", "forced open")
            self.model.enter("open", self.now_s, forced=True)
        else:
            self.expect(self.breaker.reset(self.clock), "closed", "reset")
            self.model.enter("closed", self.now_s)


def test_it_does_what_the_model_does() -> None:
    """Over 20,000 random steps, in which every way from state to state is gone, and counted."""
    History.steps = History.rejected = History.without_a_say = 0
    History.seen = Counter()

    @settings(max_examples=math.ceil(STEPS / STEPS_AN_EXAMPLE), database=None)
    @given(policies(), st.binary(min_size=STEPS_AN_EXAMPLE, max_size=STEPS_AN_EXAMPLE))
    def agree(policy: BreakerPolicy, steps: bytes) -> None:
        history = History(policy)
        for number in steps:
            history.step(number)

    agree()
    # Shown by -rP.
    print(f"{History.steps} steps, {History.rejected} calls rejected")
    print(*sorted(History.seen.items()), sep="\n")
    assert History.steps >= STEPS
    assert set(History.seen) == TRANSITIONS
    assert min(History.seen.values()) >= 3, History.seen
    assert History.rejected >= 100
    assert History.without_a_say >= 100


@pytest.mark.parametrize("probes", [1, 7])
@pytest.mark.simulate(order="asyncio")
async def test_a_crowd_at_half_open(probes: int) -> None:
    """Of 1,000 tasks at once only the permitted probes pass, and a cancelled one frees its place.

    None of the rejections is an observation: they neither open nor close anything.
    """
    policy = BreakerPolicy(failures=1, cooldown_s=5.0, probes=probes, successes=probes)
    breaker = CircuitBreaker("llm", policy)
    under_way: set[asyncio.Task[None]] = set()
    most = passed = rejected = 0

    async def call(takes_s: float) -> None:
        nonlocal most, passed, rejected
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(0)
        try:
            permit = breaker.acquire(clock)
        except CircuitOpenError:
            rejected += 1
            return
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        passed += 1
        most = max(most, len(under_way))
        try:
            await asyncio.sleep(takes_s)
        except asyncio.CancelledError:
            breaker.release(permit)
            raise
        finally:
            under_way.discard(task)
        breaker.succeed(permit, clock)

    clock = asyncio.get_running_loop().time
    breaker.fail(breaker.acquire(clock), clock)
    await asyncio.sleep(5.0)
    crowd = [asyncio.create_task(call(60.0)) for _ in range(1000)]
    await asyncio.sleep(1.0)
    assert (passed, rejected, most) == (probes, 1000 - probes, probes)
    assert str(breaker.state) == "half_open"
    for task in tuple(under_way):
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    assert str(breaker.state) == "half_open"
    await asyncio.gather(*(call(1.0) for _ in range(1000)))
    assert (passed, rejected, most) == (2 * probes, 2000 - 2 * probes, probes)
    assert str(breaker.state) == "closed"
