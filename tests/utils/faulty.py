"""Providers that answer at once, for tests that inject faults into their calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from stageflow import Message, ProviderRegistry
from stageflow.providers import FakeDatabase, FakeLLM, FakeSTT, FakeTTS, LatencyProfile

QUESTION = [Message("user", "one two three")]

TOOK_MS = 100.0


class Search:
    """A provider that fits no port."""

    ranking = "by date"

    def __init__(self) -> None:
        self.closed = 0

    async def find(self, words: str) -> list[str]:
        await asyncio.sleep(0)
        return [words]

    def later(self, words: str) -> Awaitable[list[str]]:
        return self.find(words)

    def names(self) -> list[str]:
        return ["find"]

    async def pages(self) -> AsyncIterator[str]:
        try:
            yield "first"
            yield "second"
        finally:
            self.closed += 1


def providers() -> ProviderRegistry:
    """Every port, and a provider that fits none; each answer takes 100 ms."""
    latency = LatencyProfile.fixed(TOOK_MS)
    return ProviderRegistry(
        llm=FakeLLM(latency=latency),
        stt=FakeSTT("hello", latency=latency),
        tts=FakeTTS(latency=latency),
        db=FakeDatabase({"c": {"k": {"v": 1}}}, read=latency, write=latency),
        search=Search(),
    )


async def gathered(stream: AsyncIterator[Any], into: list[Any]) -> list[Any]:
    async for piece in stream:
        into.append(piece)  # noqa: PERF401 - what came before a break counts
    return into
