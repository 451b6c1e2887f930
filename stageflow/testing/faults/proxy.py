"""What stands in front of a provider and lets an interceptor decide about each of its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from stageflow.testing.faults.kinds import Call, Fault
from stageflow.testing.wrapped import Asked, WrappedProvider


class Decides(Protocol):
    """Who decides what becomes of a call."""

    provider: str

    def fault_for(self, method: str) -> Fault:
        """The fault for a call that begins now."""


class FaultyProvider(WrappedProvider):
    """A provider whose calls pass by the injector."""

    def __init__(self, provider: Any, injector: Decides) -> None:
        super().__init__(provider)
        self._injector = injector

    def __repr__(self) -> str:
        return f"<{self.__wrapped__!r} with {self._injector!r}>"

    async def _answer(self, asked: Asked) -> Any:
        return await self._injector.fault_for(asked.method).answer(self._call(asked))

    async def _stream(self, asked: Asked) -> AsyncIterator[Any]:
        fault = self._injector.fault_for(asked.method)
        async with aclosing(fault.stream(self._call(asked))) as pieces:
            async for piece in pieces:
                yield piece

    def _call(self, asked: Asked) -> Call:
        return Call(self._injector.provider, asked.method, asked.forward)
