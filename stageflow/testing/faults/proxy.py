"""What stands in front of a provider and lets an interceptor decide about each of its calls."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from stageflow.testing.faults.kinds import Call, Fault


class Decides(Protocol):
    """Who decides what becomes of a call."""

    provider: str

    def fault_for(self, method: str) -> Fault:
        """The fault for a call that begins now."""


class FaultyProvider:
    """Has every attribute of a provider; its async methods and streams pass by the injector.

    A method counts as called when its answer is first awaited, or its stream first iterated over.
    """

    def __init__(self, provider: Any, injector: Decides) -> None:
        self.__wrapped__ = provider
        self._injector = injector

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.__wrapped__, name)
        return self._passing_by(name, attribute) if callable(attribute) else attribute

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call a provider that is itself a function."""
        return self._passing_by("__call__", self.__wrapped__)(*args, **options)

    def __repr__(self) -> str:
        return f"<{self.__wrapped__!r} with {self._injector!r}>"

    def _passing_by(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        entirely_async = inspect.iscoroutinefunction(method)

        def call(*args: Any, **options: Any) -> Any:
            if entirely_async:
                return self._answer(name, partial(method, *args, **options))
            # A plain function may give a stream, or something to await: its result will tell.
            found = method(*args, **options)
            if hasattr(found, "__aiter__"):
                return self._stream(name, found)
            return self._answer_found(name, found) if inspect.isawaitable(found) else found

        return call

    async def _answer(self, name: str, forward: Callable[[], Any]) -> Any:
        fault = self._injector.fault_for(name)
        return await fault.answer(Call(self._injector.provider, name, forward))

    async def _answer_found(self, name: str, found: Any) -> Any:
        try:
            return await self._answer(name, lambda: found)
        finally:
            if inspect.iscoroutine(found):
                found.close()  # or it would complain that nobody has awaited it

    async def _stream(self, name: str, found: Any) -> AsyncIterator[Any]:
        fault = self._injector.fault_for(name)
        call = Call(self._injector.provider, name, lambda: found)
        async with aclosing(fault.stream(call)) as pieces:
            async for piece in pieces:
                yield piece
