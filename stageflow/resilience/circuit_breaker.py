"""Circuit breakers (M. Nygard, "Release It!", 2nd ed., 2018, ch. 5).

A breaker is closed until a provider fails too often, then open for a cool-down, then half-open:
probes close it, or open it again. It takes the clock as an argument; threads may share it.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from stageflow._utils.checks import is_duration
from stageflow._utils.fork import renew_after_fork
from stageflow.errors import CircuitOpenError, ErrorCategory, InvalidConfigError
from stageflow.resilience.classification import classify

#: Error categories that count as failures of a provider; a bug or a refusal does not.
_AGAINST = frozenset({ErrorCategory.TRANSIENT, ErrorCategory.SYSTEMIC})


def speaks_against_provider(error: BaseException) -> bool:
    """Return whether `error` counts as a failure of the provider."""
    # A cancellation or the rejection by a breaker does not.
    if isinstance(error, asyncio.CancelledError | CircuitOpenError):
        return False
    return classify(error).category in _AGAINST


class BreakerState(StrEnum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


# Looking up a member of an enumeration costs several times as much as a global name.
_CLOSED, _OPEN, _HALF_OPEN = BreakerState

Clock: TypeAlias = Callable[[], float]
"""A monotonic time in seconds, such as the ``time`` of an event loop."""

Chance: TypeAlias = Callable[[], float]
"""A source of numbers between 0 and 1, such as ``random.random``."""

_OPTIONAL = ("failures", "failure_rate", "slow_call_s", "slow_call_rate")

#: The checks of a policy's fields, by the last word of their names.
_Check: TypeAlias = tuple[Callable[[Any], bool], str]
_COUNT: _Check = (lambda n: isinstance(n, int) and n >= 1, "give a positive integer")
_SHARE: _Check = (
    lambda n: isinstance(n, int | float) and 0 <= n < 1,
    "give a share of at least 0 and below 1",
)
_CHECKS: dict[str, _Check] = {
    "s": (is_duration, "give a positive number of seconds"),
    "rate": _SHARE,
    "jitter": _SHARE,
    "factor": (lambda n: is_duration(n) and n >= 1, "give a number of at least 1"),
}


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and when it closes again.

    Attributes:
        failures: Failures in a row that open it; None for no such rule.
        failure_rate: Share of failed calls above which it opens, 0 to 1; None for no such rule.
        window_s: Length of the window of the rates, in seconds.
        minimum_calls: Calls in the window from which a rate counts.
        cooldown_s: How long it stays open before it allows probes, in seconds.
        probes: How many calls may run at once while it is half-open.
        successes: Successful probes after which it closes.
        probe_timeout_s: After how many seconds another probe may replace one that has not ended.
        slow_call_s: Seconds from which a call counts as slow; a slow probe counts as failed.
        slow_call_rate: Share of slow calls above which it opens; None for no such rule.
        cooldown_factor: Multiplies the cool-down after each failed probe, until the breaker closes.
        max_cooldown_s: Limit of a multiplied cool-down, in seconds.
        cooldown_jitter: Largest share by which a cool-down is prolonged at random, so that
            processes do not all probe at once.
    """

    failures: int | None = 5
    failure_rate: float | None = None
    window_s: float = 60.0
    minimum_calls: int = 20
    cooldown_s: float = 30.0
    probes: int = 1
    successes: int = 1
    probe_timeout_s: float = 60.0
    slow_call_s: float | None = None
    slow_call_rate: float | None = None
    cooldown_factor: float = 1.0
    max_cooldown_s: float = 600.0
    cooldown_jitter: float = 0.0

    def __post_init__(self) -> None:
        for field in self.__slots__:
            value = getattr(self, field)
            takes, fix = _CHECKS.get(field.rpartition("_")[2], _COUNT)
            if not takes(value) and (value is not None or field not in _OPTIONAL):
                raise InvalidConfigError("BreakerPolicy", field, value, fix)
        for field, other in (("slow_call_s", "slow_call_rate"), ("slow_call_rate", "slow_call_s")):
            if getattr(self, field) is None and getattr(self, other) is not None:
                fix = f"give it together with {other}"
                raise InvalidConfigError("BreakerPolicy", field, None, fix)
        if self.failures is self.failure_rate is self.slow_call_rate is None:
            fix = "give it or failure_rate, or it never opens"
            raise InvalidConfigError("BreakerPolicy", "failures", None, fix)

    @property
    def longest_cooldown_s(self) -> float:
        """The longest cool-down without jitter, in seconds."""
        return max(self.cooldown_s, self.max_cooldown_s if self.cooldown_factor > 1 else 0.0)


@dataclass(frozen=True, slots=True)
class BreakerTransition:
    """A change of a breaker's state, `at_s` seconds on its clock."""

    provider: str
    before: BreakerState
    after: BreakerState
    at_s: float
    reason: str


class Permit(NamedTuple):
    """The permission for one call, with the change of state that `CircuitBreaker.acquire` made."""

    epoch: int
    change: BreakerTransition | None = None
    began_s: float | None = None
    probe: int = 0


class CircuitBreaker:
    """The circuit breaker of one provider.

    Each call acquires a permit, and returns it by exactly one of `succeed`, `fail` and `release`.
    The outcome of a call that began before the latest change of state is ignored. Each method
    returns the change of state that it makes. An open breaker's `state` becomes half-open by
    `acquire`, after its cool-down; `cooldown_s` is the latest one. Threads may share a
    breaker if their clocks agree, as those of asyncio do.
    """

    def __init__(self, provider: str, policy: BreakerPolicy | None = None) -> None:
        self.provider = provider
        self.policy = policy if policy is not None else BreakerPolicy()
        self.cooldown_s = self._next_cooldown_s = self.policy.cooldown_s
        self.state: BreakerState = _CLOSED
        self._permit = Permit(0)
        self._opens_again_at_s = -math.inf
        self._in_a_row = 0
        self._times_calls = self.policy.slow_call_s is not None
        self._keeps_window = self._times_calls or self.policy.failure_rate is not None
        #: When each call of the window ended, whether it failed, and whether it was slow.
        self._recent: deque[tuple[float, bool, bool]] = deque()
        self._recent_failures = self._recent_slow = 0
        #: When each probe under way began, by its number.
        self._probes: dict[int, float] = {}
        self._last_probe = 0
        self._successes = 0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin unlocked: the thread that held the lock is not in a child process."""
        self._lock = threading.Lock()

    def acquire(self, clock: Clock) -> Permit:
        """Return the permit for a call; raise `CircuitOpenError` if it must not be made."""
        # Read before the state: if another thread changes the state meanwhile, it is outdated.
        permit = self._permit
        if self.state is _CLOSED:
            return Permit(permit.epoch, None, clock()) if self._times_calls else permit
        with self._lock:
            now_s, change = clock(), None
            if self.state is _CLOSED:  # another thread has closed it
                return Permit(self._permit.epoch, None, now_s)
            if self.state is _OPEN:
                if now_s < self._opens_again_at_s:
                    raise CircuitOpenError(self.provider, self._opens_again_at_s - now_s)
                change = self._enter(_HALF_OPEN, now_s, "the cool-down is over")
            overdue_s = now_s - self.policy.probe_timeout_s
            under_way = {n: began_s for n, began_s in self._probes.items() if began_s > overdue_s}
            if len(under_way) >= self.policy.probes:
                raise CircuitOpenError(self.provider, 0.0)
            self._last_probe += 1
            self._probes = {**under_way, self._last_probe: now_s}
            return Permit(self._permit.epoch, change, now_s, self._last_probe)

    def succeed(
        self, permit: Permit, clock: Clock, chance: Chance = random.random
    ) -> BreakerTransition | None:
        """Report that the call succeeded; `chance` draws the jitter of a cool-down."""
        if permit is self._permit and not self._keeps_window:
            # All calls of a closed breaker share this permit, so this is the usual case.
            self._in_a_row = 0
            return None
        with self._lock:
            if permit.epoch != self._permit.epoch:
                return None
            now_s = clock()
            slow = self._is_slow(permit, now_s)
            if self.state is _HALF_OPEN:
                self._probes.pop(permit.probe, None)
                self._successes += 1
                if slow:
                    return self._open(now_s, "a probe was slow", chance)
                if self._successes < self.policy.successes:
                    return None
                return self._enter(_CLOSED, now_s, "the probes were answered")
            self._in_a_row = 0
            self._observe(now_s, failed=False, slow=slow)
            reason = self._slow_reason() if slow else None
            return self._open(now_s, reason, chance) if reason else None

    def fail(
        self, permit: Permit, clock: Clock, chance: Chance = random.random
    ) -> BreakerTransition | None:
        """Report that the call failed because of the provider; see `succeed`."""
        with self._lock:
            if permit.epoch != self._permit.epoch:
                return None
            now_s = clock()
            if self.state is _HALF_OPEN:
                return self._open(now_s, "a probe failed", chance)
            self._in_a_row += 1
            if self._keeps_window:
                self._observe(now_s, failed=True, slow=self._is_slow(permit, now_s))
            reason = self._reason_to_open()
            return self._open(now_s, reason, chance) if reason else None

    def release(self, permit: Permit) -> None:
        """Report that the call was cancelled, or failed for another reason."""
        if permit.probe:
            with self._lock:
                self._probes.pop(permit.probe, None)

    def force_open(self, clock: Clock) -> BreakerTransition | None:
        """Open until `reset`."""
        with self._lock:
            change = self._enter(_OPEN, clock(), "forced open")
            self._opens_again_at_s = math.inf
            return change

    def reset(self, clock: Clock) -> BreakerTransition | None:
        """Close, and forget what was observed."""
        with self._lock:
            return self._enter(_CLOSED, clock(), "reset")

    def follow(self, state: BreakerState, open_s: float, clock: Clock) -> BreakerTransition | None:
        """Enter the state, closed or open for `open_s` seconds, that another process reports."""
        with self._lock:
            if state is self.state is _CLOSED:
                # It keeps the failures that it has observed itself.
                return None
            change = self._enter(state, clock(), "another process reported it")
            if state is _OPEN:
                self._opens_again_at_s = clock() + open_s
                longest_s = min(open_s, self.policy.longest_cooldown_s)
                self._next_cooldown_s = max(self._next_cooldown_s, longest_s)
            return change

    def _is_slow(self, permit: Permit, now_s: float) -> bool:
        limit_s, began_s = self.policy.slow_call_s, permit.began_s
        return limit_s is not None and began_s is not None and now_s - began_s >= limit_s

    def _observe(self, now_s: float, *, failed: bool, slow: bool) -> None:
        recent = self._recent
        recent.append((now_s, failed, slow))
        self._recent_failures += failed
        self._recent_slow += slow
        while recent[0][0] <= now_s - self.policy.window_s:
            _, failed, slow = recent.popleft()
            self._recent_failures -= failed
            self._recent_slow -= slow

    def _reason_to_open(self) -> str | None:
        policy = self.policy
        if policy.failures is not None and self._in_a_row >= policy.failures:
            return f"{self._in_a_row} failures in a row"
        failed = self._excess(self._recent_failures, policy.failure_rate)
        return f"{failed} failed" if failed else self._slow_reason()

    def _slow_reason(self) -> str | None:
        slow = self._excess(self._recent_slow, self.policy.slow_call_rate)
        return f"{slow} were slow" if slow else None

    def _excess(self, count: int, limit: float | None) -> str | None:
        """Return the share of `count` in the calls of the window as text if it is too large."""
        calls = len(self._recent)
        if limit is None or calls < self.policy.minimum_calls or count / calls <= limit:
            return None
        return f"{count / calls:.0%} of {calls} calls"

    def _open(self, now_s: float, reason: str, chance: Chance) -> BreakerTransition | None:
        policy = self.policy
        if self.state is _HALF_OPEN:
            grown_s = self._next_cooldown_s * policy.cooldown_factor
            self._next_cooldown_s = min(grown_s, policy.longest_cooldown_s)
        jitter = policy.cooldown_jitter * chance() if policy.cooldown_jitter else 0.0
        self.cooldown_s = self._next_cooldown_s * (1.0 + jitter)
        change = self._enter(_OPEN, now_s, reason)
        self._opens_again_at_s = now_s + self.cooldown_s
        return change

    def _enter(self, state: BreakerState, now_s: float, reason: str) -> BreakerTransition | None:
        before, self.state = self.state, state
        self._permit = Permit(self._permit.epoch + 1)
        self._in_a_row = self._recent_failures = self._recent_slow = self._successes = 0
        self._recent.clear()
        self._probes = {}
        if state is _CLOSED:
            self._next_cooldown_s = self.policy.cooldown_s
        if before is state:
            return None
        return BreakerTransition(self.provider, before, state, now_s, reason)


class BreakerRegistry(dict[str, CircuitBreaker]):
    """The breakers of providers by name, created when looked up by `policies`, or else `policy`."""

    def __init__(self, policy: BreakerPolicy | None = None, /, **policies: BreakerPolicy) -> None:
        super().__init__()
        self._policy = policy
        self._policies = policies
        _registries[id(self)] = self

    def __missing__(self, provider: str) -> CircuitBreaker:
        # setdefault, as another thread may have made one meanwhile.
        policy = self._policies.get(provider, self._policy)
        return self.setdefault(provider, CircuitBreaker(provider, policy))


_registries = WeakValueDictionary[int, BreakerRegistry]()


def forget_breakers() -> None:
    """Reset all breakers, because a loop with another clock begins."""
    for registry in list(_registries.values()):
        registry.clear()
