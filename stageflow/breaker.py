"""Circuit breakers: stop calling what does not answer, and find out when it does again.

The pattern is M. Nygard's ("Release It!", 2nd ed., 2018, ch. 5). A breaker is a pure state machine:
it is told the time, and what it does is returned.

    closed ──too many failures──► open ──cool-down over──► half-open ──enough successes──► closed
                                   ▲                           │
                                   └────────a failure──────────┘
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stageflow.errors import CircuitOpenError, InvalidConfigError


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and when it closes again.

    Attributes:
        failures: So many failures in a row open it; None to go by the rate alone.
        failure_rate: A share of failed calls above which it opens, between 0 and 1; None to go by
            failures in a row alone.
        window_s: Over how many of the last seconds the rate is taken.
        minimum_calls: How many calls the window must hold before the rate counts.
        cooldown_s: How long it stays open before it lets probes through, in seconds.
        probes: How many calls may be under way at once while it is half-open.
        successes: How many of them must succeed for it to close.
    """

    failures: int | None = 5
    failure_rate: float | None = None
    window_s: float = 60.0
    minimum_calls: int = 20
    cooldown_s: float = 30.0
    probes: int = 1
    successes: int = 1

    def __post_init__(self) -> None:
        for field, low in (("failures", 1), ("minimum_calls", 1), ("probes", 1), ("successes", 1)):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < low):
                raise InvalidConfigError("BreakerPolicy", field, value, "give a positive integer")
        for field in ("window_s", "cooldown_s"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InvalidConfigError(
                    "BreakerPolicy", field, value, "give a positive number of seconds"
                )
        rate = self.failure_rate
        if rate is not None and (not isinstance(rate, int | float) or not 0 <= rate < 1):
            raise InvalidConfigError(
                "BreakerPolicy", "failure_rate", rate, "give a share of at least 0 and below 1"
            )
        if self.failures is None and rate is None:
            raise InvalidConfigError(
                "BreakerPolicy", "failures", None, "give it or failure_rate, or it never opens"
            )


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A breaker went from one state to another.

    Attributes:
        provider: Name of the provider that it guards.
        before: The state that it left.
        after: The state that it entered.
        at_s: When, in seconds of the clock that it is told.
        reason: Why, in a few words.
    """

    provider: str
    before: BreakerState
    after: BreakerState
    at_s: float
    reason: str


class Permit(NamedTuple):
    """The right to make one call.

    Attributes:
        epoch: How many changes of state the breaker had seen.
        change: The change that asking for it brought about, if any.
    """

    epoch: int
    change: BreakerChange | None = None


class CircuitBreaker:
    """Guards one provider.

    Every call asks for a permit by `acquire` and gives it back by exactly one of `succeed`, `fail`
    and `release`. What is said of a permit from before the latest change of state is ignored: it
    speaks of a time that is over. All times are seconds of any clock that does not go back.
    Whatever brings about a change of state returns it.
    """

    def __init__(self, provider: str, policy: BreakerPolicy | None = None) -> None:
        """Start closed.

        Args:
            provider: Name of the provider; it stands in errors and changes.
            policy: When to open and to close.
        """
        self.provider = provider
        self.policy = policy if policy is not None else BreakerPolicy()
        self._state = BreakerState.CLOSED
        self._permit = Permit(0)
        self._opened_at_s = -math.inf
        self._in_a_row = 0
        self._recent: deque[tuple[float, bool]] = deque()
        self._under_way = 0
        self._successes = 0

    @property
    def state(self) -> BreakerState:
        """Whether calls pass. An open breaker turns half-open with the first call that asks."""
        return self._state

    def acquire(self, now_s: float) -> Permit:
        """Ask to make a call.

        Raises:
            CircuitOpenError: The call must not be made. That is no observation of the provider.
        """
        if self._state is BreakerState.CLOSED:
            return self._permit
        change = None
        if self._state is BreakerState.OPEN:
            wait_s = self._opened_at_s + self.policy.cooldown_s - now_s
            if wait_s > 0:
                raise CircuitOpenError(self.provider, wait_s)
            change = self._enter(BreakerState.HALF_OPEN, now_s, "the cool-down is over")
        if self._under_way >= self.policy.probes:
            raise CircuitOpenError(self.provider, 0.0)
        self._under_way += 1
        return self._permit._replace(change=change)

    def succeed(self, permit: Permit, now_s: float) -> BreakerChange | None:
        """The call was answered."""
        if permit.epoch != self._permit.epoch:
            return None
        if self._state is BreakerState.HALF_OPEN:
            self._under_way -= 1
            self._successes += 1
            if self._successes >= self.policy.successes:
                return self._enter(BreakerState.CLOSED, now_s, "the probes were answered")
        else:
            self._in_a_row = 0
            self._observe(now_s, failed=False)
        return None

    def fail(self, permit: Permit, now_s: float) -> BreakerChange | None:
        """The call failed in a way that speaks against the provider."""
        if permit.epoch != self._permit.epoch:
            return None
        if self._state is BreakerState.HALF_OPEN:
            return self._enter(BreakerState.OPEN, now_s, "a probe failed")
        self._in_a_row += 1
        self._observe(now_s, failed=True)
        reason = self._reason_to_open()
        return self._enter(BreakerState.OPEN, now_s, reason) if reason else None

    def release(self, permit: Permit) -> None:
        """The call was cancelled, or failed in a way that says nothing about the provider."""
        if permit.epoch == self._permit.epoch and self._state is BreakerState.HALF_OPEN:
            self._under_way -= 1

    def force_open(self, now_s: float) -> BreakerChange | None:
        """Let no call pass until `reset`."""
        change = self._enter(BreakerState.OPEN, now_s, "forced open")
        self._opened_at_s = math.inf
        return change

    def reset(self, now_s: float) -> BreakerChange | None:
        """Close, and forget what was observed."""
        return self._enter(BreakerState.CLOSED, now_s, "reset")

    def _observe(self, now_s: float, *, failed: bool) -> None:
        if self.policy.failure_rate is None:
            return
        self._recent.append((now_s, failed))
        while self._recent and self._recent[0][0] <= now_s - self.policy.window_s:
            self._recent.popleft()

    def _reason_to_open(self) -> str | None:
        policy = self.policy
        if policy.failures is not None and self._in_a_row >= policy.failures:
            return f"{self._in_a_row} failures in a row"
        calls = len(self._recent)
        if policy.failure_rate is not None and calls >= policy.minimum_calls:
            rate = sum(failed for _, failed in self._recent) / calls
            if rate > policy.failure_rate:
                return f"{rate:.0%} of {calls} calls failed"
        return None

    def _enter(self, state: BreakerState, now_s: float, reason: str) -> BreakerChange | None:
        before, self._state = self._state, state
        self._permit = Permit(self._permit.epoch + 1)
        self._in_a_row = self._under_way = self._successes = 0
        self._recent.clear()
        self._opened_at_s = now_s
        if before is state:
            return None
        return BreakerChange(self.provider, before, state, now_s, reason)


class BreakerRegistry(Mapping[str, CircuitBreaker]):
    """The breakers of an application, one a provider, made when they are first asked for."""

    def __init__(self, policy: BreakerPolicy | None = None, **policies: BreakerPolicy) -> None:
        """Set the policies.

        Args:
            policy: For every provider that has none of its own.
            policies: By name of the provider.
        """
        self._policy = policy if policy is not None else BreakerPolicy()
        self._policies = policies
        self._breakers: dict[str, CircuitBreaker] = {}

    def __getitem__(self, provider: str) -> CircuitBreaker:
        breaker = self._breakers.get(provider)
        if breaker is None:
            breaker = CircuitBreaker(provider, self._policies.get(provider, self._policy))
            self._breakers[provider] = breaker
        return breaker

    def __iter__(self) -> Iterator[str]:
        return iter(self._breakers)

    def __len__(self) -> int:
        return len(self._breakers)

    def __contains__(self, provider: object) -> bool:
        return provider in self._breakers
