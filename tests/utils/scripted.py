"""A language model that does what its script says, call by call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

from stageflow import (
    Message,
    PipelineContext,
    ProviderRegistry,
    StageContext,
    StageOutput,
    StageSpec,
)

#: An answer to give, seconds to take, an error to raise, or several of these one after another.
Step: TypeAlias = str | float | Exception | list["Step"]

ASKED = (Message("user", "hello"),)


class ScriptedLLM:
    """Follows its script, and answers "ok" when that has ended.

    Attributes:
        calls: How many calls were begun.
        closed: How many streams came to their end, whether read to it, closed or cancelled.
    """

    def __init__(self, *script: Step) -> None:
        self.calls = 0
        self.closed = 0
        self._script = iter(script)

    async def complete(self, messages: Sequence[Message]) -> str:
        self.calls += 1
        return "".join([piece async for piece in _play(next(self._script, "ok"))])

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self.calls += 1
        try:
            async for piece in _play(next(self._script, "ok")):
                yield piece
        finally:
            self.closed += 1


def fails(count: int) -> list[Step]:
    """Return so many refused connections: a retry may help, and they count against the provider."""
    return [ConnectionError("connection refused") for _ in range(count)]


async def _play(step: Step) -> AsyncIterator[str]:
    for part in step if isinstance(step, list) else [step]:
        if isinstance(part, Exception):
            raise part
        if isinstance(part, float):
            await asyncio.sleep(part)
        else:
            assert isinstance(part, str)
            yield part


async def ask(ctx: StageContext) -> StageOutput:
    """Run as a stage that asks the model."""
    return StageOutput.ok(answer=await ctx.llm.complete(ASKED))


def asking(**fields: object) -> StageSpec:
    """The stage ``llm``, which asks the provider of that name; `fields` as in `StageSpec`."""
    given = {"runner": ask, "outputs": ("answer",), "provider": "llm"} | fields
    return StageSpec("llm", **given)  # type: ignore[arg-type]


def context(llm: object, **fields: object) -> PipelineContext:
    """A context whose language model is `llm`; `fields` as in `PipelineContext`."""
    return PipelineContext(providers=ProviderRegistry(llm=llm), **fields)  # type: ignore[arg-type]
