"""The onion around a stage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from stageflow.context import StageContext
from stageflow.errors import OutputMismatchError, StageTimeoutError
from stageflow.events import StageStatus
from stageflow.stage import StageFunction, StageOutput, StageSpec, check_output

CallNext: TypeAlias = Callable[[StageContext], Coroutine[Any, Any, StageOutput]]


class Interceptor:
    """Middleware around a stage; override what is needed.

    The first interceptor of a list is the outermost: its `before` runs first, its `after` or
    `failed` last. An interceptor either observes (`before`, `after`, `failed`: plain functions,
    which must not block) or wraps (`around`: may call the next one never, once or several times),
    or does both; its `before` then comes before its `around`.

    Where `before` has returned, exactly one of `after` and `failed` follows. What a hook raises
    fails the stage. A failure that the stage returned reaches interceptors as the exception
    `StageFailedError`, so that there is one way to meet failures.

    One instance serves all stages and all runs, many at a time: what belongs to one execution is
    kept per `StageContext`.
    """

    def applies_to(self, spec: StageSpec) -> bool:
        """Whether it stands around that stage; asked once, when a graph is bound."""
        return True

    def before(self, ctx: StageContext, /) -> None:
        """The stage is about to run."""

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """The stage has returned `output`."""

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """The stage has raised, overrun its timeout, or was cancelled (a `CancelledError`)."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage by ``await call_next(ctx)``, and return what becomes of it."""
        return await call_next(ctx)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _opening(call: StageFunction, declared: frozenset[str]) -> StageFunction:
    """Let a stage's success pass only if it has opened its streams, so that interceptors know."""

    async def opening(ctx: StageContext) -> StageOutput:
        output = check_output(await call(ctx), declared)
        unopened = ctx.unopened
        if unopened and output.status is StageStatus.COMPLETED:
            raise OutputMismatchError((), (), unopened)
        return output

    return opening


def _overrides(interceptor: Interceptor, hook: str) -> bool:
    return getattr(type(interceptor), hook) is not getattr(Interceptor, hook)


def fold(spec: StageSpec, interceptors: Sequence[Interceptor]) -> StageFunction:
    """The stage's function with its interceptors around it, made once.

    Neighbours that only observe share one layer. A stage without interceptors has none, but for
    one that sees whether it opens its streams, if it has any.
    """
    declared = frozenset(spec.outputs)
    call: StageFunction = _opening(spec.execute, declared) if spec.streams else spec.execute
    observers: list[Interceptor] = []
    for interceptor in reversed([i for i in interceptors if i.applies_to(spec)]):
        if _overrides(interceptor, "around"):
            inside = _observed if observers else _checked
            call = _wrapped(interceptor, inside(call, declared, observers))
            observers = []
        if any(_overrides(interceptor, hook) for hook in ("before", "after", "failed")):
            observers.insert(0, interceptor)
    return _observed(call, declared, observers) if observers else call


def _wrapped(interceptor: Interceptor, call_next: CallNext) -> CallNext:
    around = interceptor.around

    def wrapped(ctx: StageContext) -> Coroutine[Any, Any, StageOutput]:
        return around(ctx, call_next)

    return wrapped


def _checked(call: StageFunction, declared: frozenset[str], _: Sequence[Interceptor]) -> CallNext:
    """Hand on successes alone, so that interceptors meet every failure as an exception."""

    async def checked(ctx: StageContext) -> StageOutput:
        return check_output(await call(ctx), declared)

    return checked


def _meaning(ctx: StageContext, error: BaseException) -> BaseException:
    """What observers are told: the cancellation by the stage's timeout is a timeout."""
    if isinstance(error, asyncio.CancelledError) and ctx.timed_out:
        assert ctx.timeout_s is not None, "nothing else has timed out"
        return StageTimeoutError(ctx.timeout_s)
    return error


def _observed_by_one(
    call: StageFunction, declared: frozenset[str], observer: Interceptor
) -> CallNext:
    """As `_observed`: where nobody else has to be told, no account of who was is kept."""
    before, after, failed = observer.before, observer.after, observer.failed

    async def observed(ctx: StageContext) -> StageOutput:
        before(ctx)
        try:
            output = check_output(await call(ctx), declared)
        except BaseException as error:
            failed(ctx, _meaning(ctx, error))
            raise
        after(ctx, output)
        return output

    return observed


def _observed(
    call: StageFunction, declared: frozenset[str], observers: Sequence[Interceptor]
) -> CallNext:
    if len(observers) == 1:
        return _observed_by_one(call, declared, observers[0])
    befores = tuple(
        (position, observer.before)
        for position, observer in enumerate(observers)
        if _overrides(observer, "before")
    )
    afters = tuple(
        (position, observer.after)
        for position, observer in reversed(list(enumerate(observers)))
        if _overrides(observer, "after")
    )
    entire = len(observers)

    def unwind(ctx: StageContext, entered: int, error: BaseException) -> BaseException:
        """Tell those that were entered, from the inside out; a hook's own error replaces it."""
        for observer in reversed(observers[:entered]):
            try:
                observer.failed(ctx, error)
            except Exception as raised:
                raised.__context__ = error
                error = raised
        return error

    async def observed(ctx: StageContext) -> StageOutput:
        entered = 0
        try:
            for position, before in befores:
                entered = position
                before(ctx)
            entered = entire
            output = check_output(await call(ctx), declared)
            for position, after in afters:
                entered = position
                after(ctx, output)
        except BaseException as error:
            meant = _meaning(ctx, error)
            raised = unwind(ctx, entered, meant)
            if raised is meant:
                raise
            raise raised from error
        return output

    return observed
