"""Circuit breakers around the stages that call a provider."""

from __future__ import annotations

from stageflow.breaker import BreakerChange, BreakerRegistry, speaks_against_provider
from stageflow.context import StageContext
from stageflow.events import StageStatus
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.stage import StageOutput, StageSpec

_COMPLETED = StageStatus.COMPLETED


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

    def applies_to(self, spec: StageSpec) -> bool:
        """Only to stages that name their provider."""
        return spec.provider is not None

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Call what is inside if the provider's breaker permits it, and tell it the outcome."""
        provider = ctx.provider_name
        assert provider is not None, "it applies to no other stage"
        breaker = self.breakers[provider]
        permit = breaker.acquire(ctx.now)
        if permit.change is not None:
            _report(ctx, permit.change)
        try:
            output = await call_next(ctx)
        except BaseException as error:
            if ctx.timed_out or speaks_against_provider(error):
                _report(ctx, breaker.fail(permit, ctx.now))
            else:
                breaker.release(permit)
            raise
        if ctx.timed_out:
            # Whatever the stage made of its cancellation: too late is too late.
            _report(ctx, breaker.fail(permit, ctx.now))
        elif output.status is _COMPLETED:
            change = breaker.succeed(permit, ctx.now)
            if change is not None:
                _report(ctx, change)
        else:
            # A stage that had nothing to do has not called its provider.
            breaker.release(permit)
        return output


def _report(ctx: StageContext, change: BreakerChange | None) -> None:
    if change is None:
        return
    ctx.emit(
        f"breaker_{change.after}",
        provider=change.provider,
        before=str(change.before),
        after=str(change.after),
        reason=change.reason,
    )
