"""Circuit breakers: stop calling what does not answer, and find out when it does again.

The pattern is M. Nygard's ("Release It!", 2nd ed., 2018, ch. 5). A breaker is a pure state machine:
it is handed the clock, and what it does is returned.

    closed ──too many failures──► open ──cool-down over──► half-open ──enough successes──► closed
                                   ▲                           │
                                   └────────a failure──────────┘
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from stageflow.classification import classify
from stageflow.durations import is_duration
from stageflow.errors import CircuitOpenError, ErrorCategory, InvalidConfigError

#: Errors that speak against a provider. A bug or a refusal says nothing about its health.
_AGAINST = frozenset({ErrorCategory.TRANSIENT, ErrorCategory.SYSTEMIC})


def speaks_against_provider(error: BaseException) -> bool:
    """Whether a call that ended with `error` shows that the provider is not well."""
    # A cancellation says nothing of the provider, nor does the rejection by a breaker.
    if isinstance(error, asyncio.CancelledError | CircuitOpenError):
        return False
    return classify(error).category in _AGAINST


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


# Looking up a member of an enumeration costs several times as much as a global name.
_CLOSED, _OPEN, _HALF_OPEN = BreakerState

#: Tells the time in seconds, and does not go back; the ``time`` of an event loop is one.
Clock: TypeAlias = Callable[[], float]


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
        for field in ("failures", "minimum_calls", "probes", "successes"):
            value = getattr(self, field)
            left_out = value is None and field == "failures"
            if not left_out and (not isinstance(value, int) or value < 1):
                raise InvalidConfigError("BreakerPolicy", field, value, "give a positive integer")
        for field in ("window_s", "cooldown_s"):
            value = getattr(self, field)
            if not is_duration(value):
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
        at_s: When, in seconds of the clock that it was handed.
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
    speaks of a time that is over. Whatever brings about a change of state returns it, and asks the
    clock that it is handed only if it needs to know the time.
    """

    def __init__(self, provider: str, policy: BreakerPolicy | None = None) -> None:
        """Start closed.

        Args:
            provider: Name of the provider; it stands in errors and changes.
            policy: When to open and to close.
        """
        self.provider = provider
        self.policy = policy if policy is not None else BreakerPolicy()
        self._state = _CLOSED
        self._permit = Permit(0)
        self._opens_again_at_s = -math.inf
        self._in_a_row = 0
        self._keeps_window = self.policy.failure_rate is not None
        #: When each call of the window ended, and whether it failed.
        self._recent: deque[tuple[float, bool]] = deque()
        self._recent_failures = 0
        self._under_way = 0
        self._successes = 0

    @property
    def state(self) -> BreakerState:
        """Whether calls pass. An open breaker turns half-open with the first call that asks."""
        return self._state

    def acquire(self, clock: Clock) -> Permit:
        """Ask to make a call.

        Raises:
            CircuitOpenError: The call must not be made. That is no observation of the provider.
        """
        if self._state is _CLOSED:
            return self._permit
        change = None
        if self._state is _OPEN:
            now_s = clock()
            if now_s < self._opens_again_at_s:
                raise CircuitOpenError(self.provider, self._opens_again_at_s - now_s)
            change = self._enter(_HALF_OPEN, now_s, "the cool-down is over")
        if self._under_way >= self.policy.probes:
            raise CircuitOpenError(self.provider, 0.0)
        self._under_way += 1
        return self._permit._replace(change=change)

    def succeed(self, permit: Permit, clock: Clock) -> BreakerChange | None:
        """The call was answered."""
        if permit is self._permit:
            # Every call of a closed breaker has the same one: this is the way of nearly all.
            self._in_a_row = 0
            if self._keeps_window:
                self._observe(clock(), failed=False)
            return None
        if permit.epoch != self._permit.epoch:
            return None
        self._under_way -= 1
        self._successes += 1
        if self._successes < self.policy.successes:
            return None
        return self._enter(_CLOSED, clock(), "the probes were answered")

    def fail(self, permit: Permit, clock: Clock) -> BreakerChange | None:
        """The call failed in a way that speaks against the provider."""
        if permit.epoch != self._permit.epoch:
            return None
        now_s = clock()
        if self._state is _HALF_OPEN:
            return self._enter(_OPEN, now_s, "a probe failed")
        self._in_a_row += 1
        if self._keeps_window:
            self._observe(now_s, failed=True)
        reason = self._reason_to_open()
        return self._enter(_OPEN, now_s, reason) if reason else None

    def release(self, permit: Permit) -> None:
        """The call was cancelled, or failed in a way that says nothing about the provider."""
        if permit.epoch == self._permit.epoch and self._state is _HALF_OPEN:
            self._under_way -= 1

    def force_open(self, clock: Clock) -> BreakerChange | None:
        """Let no call pass until `reset`."""
        change = self._enter(_OPEN, clock(), "forced open")
        self._opens_again_at_s = math.inf
        return change

    def reset(self, clock: Clock) -> BreakerChange | None:
        """Close, and forget what was observed."""
        return self._enter(_CLOSED, clock(), "reset")

    def follow(self, state: BreakerState, open_s: float, clock: Clock) -> BreakerChange | None:
        """Take over what another process has found out about the same provider.

        Args:
            state: Closed, or open.
            open_s: For how many seconds from now it stays open, if it does.
            clock: Tells the time.
        """
        if state is self._state is _CLOSED:
            # Its failures so far are its own observations, and stay.
            return None
        change = self._enter(state, clock(), "another process said so")
        if state is _OPEN:
            self._opens_again_at_s = clock() + open_s
        return change

    def _observe(self, now_s: float, *, failed: bool) -> None:
        recent = self._recent
        recent.append((now_s, failed))
        self._recent_failures += failed
        while recent[0][0] <= now_s - self.policy.window_s:
            self._recent_failures -= recent.popleft()[1]

    def _reason_to_open(self) -> str | None:
        policy = self.policy
        if policy.failures is not None and self._in_a_row >= policy.failures:
            return f"{self._in_a_row} failures in a row"
        calls = len(self._recent)
        if policy.failure_rate is not None and calls >= policy.minimum_calls:
            rate = self._recent_failures / calls
            if rate > policy.failure_rate:
                return f"{rate:.0%} of {calls} calls failed"
        return None

    def _enter(self, state: BreakerState, now_s: float, reason: str) -> BreakerChange | None:
        before, self._state = self._state, state
        self._permit = Permit(self._permit.epoch + 1)
        self._in_a_row = self._recent_failures = self._under_way = self._successes = 0
        self._recent.clear()
        self._opens_again_at_s = now_s + self.policy.cooldown_s
        if before is state:
            return None
        return BreakerChange(self.provider, before, state, now_s, reason)


class BreakerRegistry(dict[str, CircuitBreaker]):
    """The breakers of an application, by name of the provider, made when first asked for."""

    def __init__(self, policy: BreakerPolicy | None = None, /, **policies: BreakerPolicy) -> None:
        """Set the policies.

        Args:
            policy: For every provider that has none of its own.
            policies: By name of the provider.
        """
        super().__init__()
        self._policy = policy
        self._policies = policies

    def __missing__(self, provider: str) -> CircuitBreaker:
        """Make the breaker of a provider that is asked for the first time."""
        breaker = CircuitBreaker(provider, self._policies.get(provider, self._policy))
        self[provider] = breaker
        return breaker
