"""Interceptors that observe the stages of a plan, wait around them, or raise."""

from __future__ import annotations

import asyncio

from stageflow import Interceptor, StageContext, StageOutput
from stageflow.engine import CallNext
from tools.random_test.playing import Play


def interceptor(name: str, play: Play) -> Interceptor:
    """Return an interceptor of that name which observes, wraps or raises."""
    return {"observer": Observer, "before_raises": BeforeRaises, "after_raises": AfterRaises,
            "wraps": Wrapping}[name](play)  # fmt: skip


class Observer(Interceptor):
    """Counts its calls: after `before`, exactly one of `after` and `failed` follows."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.open: dict[int, tuple[StageContext, int]] = {}

    def before(self, ctx: StageContext, /) -> None:
        """Count."""
        self.open[id(ctx)] = ctx, self.open.get(id(ctx), (ctx, 0))[1] + 1

    def _close(self, ctx: StageContext) -> None:
        _, count = self.open.pop(id(ctx), (ctx, 0))
        if count != 1:
            self.play.findings.append(f"an observer's before was called {count} times")

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Count."""
        self._close(ctx)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Count."""
        self._close(ctx)


class BeforeRaises(Interceptor):
    """Raises before every other stage."""

    def __init__(self, play: Play) -> None:
        self.play, self.calls = play, 0

    def before(self, ctx: StageContext, /) -> None:
        """Raise now and then."""
        self.calls += 1
        if self.calls % 2 == 0:
            self.play.note(ctx, ctx.name, "hook_raised")
            raise ValueError("hook")


class AfterRaises(Observer):
    """Raises after every other stage."""

    calls = 0

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Raise now and then."""
        self._close(ctx)
        self.calls += 1
        if self.calls % 2 == 0:
            self.play.note(ctx, ctx.name, "hook_raised")
            raise ConnectionError("hook")


class Wrapping(Interceptor):
    """Waits before and after the stage."""

    def __init__(self, play: Play) -> None:
        self.play = play

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Give the loop a turn before and after."""
        await asyncio.sleep(0)
        try:
            return await call_next(ctx)
        finally:
            await asyncio.sleep(0)
