"""Interceptors, and how they are folded around a stage."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from stageflow.engine.stage import OutputKeys, StageFunction, StageOutput, StageSpec, check_output
from stageflow.engine.stage_context import StageContext
from stageflow.errors import StageTimeoutError
from stageflow.errors.data import require_methods
from stageflow.events.log import StageStatus

CallNext: TypeAlias = Callable[[StageContext], Coroutine[Any, Any, StageOutput]]
"""The rest of the chain: an async function of the stage's context."""


class Interceptor:
    """Middleware around a stage; override the hooks that you need.

    The first interceptor of a list is the outermost: its `before` runs first, its `after` or
    `failed` last. `before`, `after` and `failed` observe: they are plain functions and must not
    block. `around` wraps: it may call the next one never, once or several times. `before` runs
    before `around`.

    After `before` has returned, exactly one of `after` and `failed` follows. An error in a hook
    fails the stage. A failure that the stage returned arrives as a `StageFailedError`. One instance
    serves all stages and runs at once: keep the state of one execution per `StageContext`.
    """

    def applies_to(self, spec: StageSpec) -> bool:
        """Return whether to wrap that stage; called once, when a graph is bound."""
        return True

    def before(self, ctx: StageContext, /) -> None:
        """Observe that the stage is about to run."""

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Observe that the stage has returned `output`."""

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Observe that the stage has raised, timed out, or was cancelled (a `CancelledError`)."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage by ``await call_next(ctx)``, and return its output."""
        return await call_next(ctx)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _opening(call: StageFunction) -> StageFunction:
    """Check the streams of a stage that completes before its interceptors see the output."""

    async def opening(ctx: StageContext) -> StageOutput:
        output = await call(ctx)
        status = output.status if isinstance(output, StageOutput) else StageStatus.COMPLETED
        if status is StageStatus.COMPLETED and getattr(output, "user_message", None) is None:
            ctx.scope.streams.check(ctx.name)
        return output

    return opening


def check_hooks(interceptor: Interceptor) -> None:
    """Raise `InvalidConfigError` for an async hook, or an ``around`` that is not async."""
    owner = f"interceptor {type(interceptor).__name__}"
    for hook in ("applies_to", "before", "after", "failed", "around"):
        if _overrides(interceptor, hook):
            kind = "awaited" if hook == "around" else "plain"
            require_methods(owner, hook, interceptor, **{kind: (hook,)})


def _overrides(interceptor: Interceptor, hook: str) -> bool:
    return getattr(type(interceptor), hook) is not getattr(Interceptor, hook)


def fold(spec: StageSpec, interceptors: Sequence[Interceptor]) -> StageFunction:
    """Return the stage's function inside its interceptors; neighbouring observers share a layer."""
    declared = spec.output_keys
    call: StageFunction = _opening(spec.execute) if spec.streams else spec.execute
    observers: list[Interceptor] = []
    around = (*interceptors, *spec.interceptors)
    for interceptor in reversed([i for i in around if i.applies_to(spec)]):
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


def _checked(call: StageFunction, declared: OutputKeys, _: Sequence[Interceptor]) -> CallNext:
    """Raise for a failed output, so that interceptors get every failure as an exception."""

    async def checked(ctx: StageContext) -> StageOutput:
        output = check_output(await call(ctx), declared)
        if ctx._timeout is not None and ctx._timeout.expired:
            raise _late(ctx)
        return output

    return checked


def _late(ctx: StageContext) -> StageTimeoutError:
    return StageTimeoutError(ctx.timeout_s or 0.0)


def _observed_by_one(call: StageFunction, declared: OutputKeys, observer: Interceptor) -> CallNext:
    """As `_observed`, for one observer: faster, as there is no list of those entered."""
    before, after, failed = observer.before, observer.after, observer.failed

    async def observed(ctx: StageContext) -> StageOutput:
        before(ctx)
        try:
            output = check_output(await call(ctx), declared)
            if ctx._timeout is not None and ctx._timeout.expired:
                raise _late(ctx)
        except BaseException as error:
            failed(ctx, _late(ctx) if ctx.timed_out else error)
            raise
        after(ctx, output)
        return output

    return observed


def _hooks(observers: Sequence[Interceptor], hook: str) -> tuple[tuple[int, Any], ...]:
    """Return the observers' own hooks of that name, each with the observer's position."""
    return tuple((n, getattr(o, hook)) for n, o in enumerate(observers) if _overrides(o, hook))


def _observed(  # noqa: C901 - a stage's whole life in one closure
    call: StageFunction, declared: OutputKeys, observers: Sequence[Interceptor]
) -> CallNext:
    if len(observers) == 1:
        return _observed_by_one(call, declared, observers[0])
    befores, afters = _hooks(observers, "before"), _hooks(observers, "after")[::-1]
    entire = len(observers)

    def unwind(ctx: StageContext, entered: int, error: BaseException) -> BaseException | None:
        """Call `failed` of those entered, from the inside out; return the error of a hook."""
        replaced = None
        for observer in reversed(observers[:entered]):
            try:
                observer.failed(ctx, error)
            except Exception as raised:
                raised.__context__ = error
                error = replaced = raised
        return replaced

    async def observed(ctx: StageContext) -> StageOutput:
        entered = 0
        try:
            for position, before in befores:
                entered = position
                before(ctx)
            entered = entire
            output = check_output(await call(ctx), declared)
            if ctx._timeout is not None and ctx._timeout.expired:
                raise _late(ctx)
            for position, after in afters:
                entered = position
                after(ctx, output)
        except BaseException as error:
            replaced = unwind(ctx, entered, _late(ctx) if ctx.timed_out else error)
            if replaced is None:
                raise
            raise replaced from error
        return output

    return observed
