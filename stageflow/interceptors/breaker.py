"""Circuit breakers around the stages that call a provider."""

from __future__ import annotations

from functools import partial

from stageflow.engine import CallNext, Interceptor, StageContext, StageOutput, StageSpec
from stageflow.events.log import StageStatus
from stageflow.resilience import BreakerRegistry, BreakerTransition, speaks_against_provider

_COMPLETED = StageStatus.COMPLETED


class BreakerInterceptor(Interceptor):
    """Stop stages from calling a provider that fails.

    It wraps the stages whose spec names a ``provider``. A stage that it rejects fails with
    `CircuitOpenError`. A change of a breaker's state is an event of the stage that caused it, such
    as ``stage.<name>.breaker_open``. Interceptors with one registry share its breakers.
    """

    def __init__(self, breakers: BreakerRegistry | None = None) -> None:
        self.breakers = breakers if breakers is not None else BreakerRegistry()

    def applies_to(self, spec: StageSpec) -> bool:
        """Apply to stages that name their provider."""
        return spec.provider is not None

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage if the provider's breaker permits it, and report the outcome."""
        provider = ctx.provider_name
        assert provider is not None, "applies_to() excludes other stages"
        breaker = self.breakers[provider]
        permit = breaker.acquire(ctx.now)
        if permit.change is not None:
            _emit(ctx, permit.change)
        try:
            output = await call_next(ctx)
        except BaseException as error:
            if ctx.timed_out or speaks_against_provider(error):
                _emit(ctx, breaker.fail(permit, ctx.now, partial(_drawn, ctx)))
            else:
                breaker.release(permit)
            raise
        if output.status is _COMPLETED:
            if permit.began_s is None:
                change = breaker.succeed(permit, ctx.now)
            else:
                change = breaker.succeed(permit, ctx.now, partial(_drawn, ctx))
            if change is not None:
                _emit(ctx, change)
        else:  # a skipped stage has not called its provider
            breaker.release(permit)
        return output


def _drawn(ctx: StageContext) -> float:
    return ctx.random.random()


def _emit(ctx: StageContext, change: BreakerTransition | None) -> None:
    if change is not None:
        before, after = str(change.before), str(change.after)
        what = f"breaker_{after}"
        provider, reason = change.provider, change.reason
        ctx.emit(what, provider=provider, before=before, after=after, reason=reason)
