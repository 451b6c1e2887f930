"""Circuit breakers around the stages that call a provider."""

from __future__ import annotations

import asyncio

from stageflow.breaker import BreakerChange, BreakerRegistry, CircuitBreaker, Permit
from stageflow.classification import classify
from stageflow.context import StageContext
from stageflow.errors import CircuitOpenError, ErrorCategory
from stageflow.interceptors.base import Interceptor
from stageflow.stage import StageOutput, StageSpec

#: Errors that speak against the provider. A bug or a refusal says nothing about its health.
_AGAINST = frozenset({ErrorCategory.TRANSIENT, ErrorCategory.SYSTEMIC})


class BreakerInterceptor(Interceptor):
    """Keeps stages from calling a provider that does not answer.

    It stands around the stages whose spec names a ``provider``. A stage that it rejects fails with
    `CircuitOpenError`. Each change of a breaker's state becomes an event of the stage that brought
    it about: ``stage.<name>.breaker_open``, ``…breaker_half_open``, ``…breaker_closed``. Inside of
    a retry, each attempt is a call.
    """

    def __init__(self, breakers: BreakerRegistry | None = None) -> None:
        """Choose the breakers; those of a registry are shared by all that use it."""
        self.breakers = breakers if breakers is not None else BreakerRegistry()
        self._permits: dict[StageContext, Permit] = {}

    def applies_to(self, spec: StageSpec) -> bool:
        """Only to stages that name their provider."""
        return spec.provider is not None

    def before(self, ctx: StageContext, /) -> None:
        """Ask for a permit; raise `CircuitOpenError` if there is none."""
        permit = self._breaker(ctx).acquire(ctx.now())
        self._permits[ctx] = permit
        if permit.change is not None:
            _report(ctx, permit.change)

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """The provider answered."""
        change = self._breaker(ctx).succeed(self._permits.pop(ctx), ctx.now())
        if change is not None:
            _report(ctx, change)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """The provider failed, or the call came to nothing for another reason."""
        breaker, permit = self._breaker(ctx), self._permits.pop(ctx)
        if _speaks_against(error):
            change = breaker.fail(permit, ctx.now())
            if change is not None:
                _report(ctx, change)
        else:
            breaker.release(permit)

    def _breaker(self, ctx: StageContext) -> CircuitBreaker:
        assert ctx.provider_name is not None, "it applies to no other stage"
        return self.breakers[ctx.provider_name]


def _speaks_against(error: BaseException) -> bool:
    # A cancellation says nothing of the provider, nor does the rejection by another breaker.
    if isinstance(error, asyncio.CancelledError | CircuitOpenError):
        return False
    return classify(error).category in _AGAINST


def _report(ctx: StageContext, change: BreakerChange) -> None:
    ctx.emit(
        f"breaker_{change.after}",
        provider=change.provider,
        before=str(change.before),
        after=str(change.after),
        reason=change.reason,
    )
