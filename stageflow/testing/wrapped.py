"""A provider in front of another, which sees each call before it is made."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that is made of a provider.

    Attributes:
        method: The method that was called.
        arguments: What it was called with, by position.
        options: What it was called with, by name.
        forward: Makes the call: gives what the method gives, to be awaited or iterated over.
    """

    method: str
    arguments: Sequence[Any]
    options: Mapping[str, Any]
    forward: Callable[[], Any]


class WrappedProvider:
    """Has every attribute of a provider; its async methods and streams pass by.

    A method counts as called when its answer is first awaited, or its stream first iterated over.
    Whoever derives from it says what becomes of a call, in `_answer` and `_stream`.
    """

    def __init__(self, provider: Any) -> None:
        self.__wrapped__ = provider

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.__wrapped__, name)
        return self._passing_by(name, attribute) if callable(attribute) else attribute

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call a provider that is itself a function."""
        return self._passing_by("__call__", self.__wrapped__)(*args, **options)

    async def _answer(self, asked: Asked) -> Any:
        """What a call gets that awaits one answer."""
        raise NotImplementedError

    def _stream(self, asked: Asked) -> AsyncIterator[Any]:
        """What a call gets that iterates over an answer in pieces."""
        raise NotImplementedError

    def _passing_by(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        entirely_async = inspect.iscoroutinefunction(method)

        def call(*args: Any, **options: Any) -> Any:
            asked = Asked(name, args, options, partial(method, *args, **options))
            if entirely_async:
                return self._answer(asked)
            # A plain function may give a stream, or something to await: its result will tell.
            found = asked.forward()
            asked = replace(asked, forward=lambda: found)
            if hasattr(found, "__aiter__"):
                return self._stream(asked)
            return self._answer_found(asked, found) if inspect.isawaitable(found) else found

        return call

    async def _answer_found(self, asked: Asked, found: Any) -> Any:
        try:
            return await self._answer(asked)
        finally:
            if inspect.iscoroutine(found):
                found.close()  # or it would complain that nobody has awaited it
