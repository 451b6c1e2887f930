"""Close objects at the end of a ``with`` or ``async with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self, TypeVar

T = TypeVar("T")


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClosing(ABC):
    """An asynchronous context manager that closes itself."""

    @abstractmethod
    async def close(self) -> None:
        """Release all resources."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def close_stream(stream: object) -> None:
    """Close a stream if it can be closed: not every iterator can."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        try:
            await close()
        except BaseExceptionGroup as group:
            # A TaskGroup around a yield wraps the GeneratorExit that closes its generator.
            _, rest = group.split(GeneratorExit)
            if rest is not None:
                raise rest from None


@asynccontextmanager
async def closing_stream(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a stream at the end of a block."""
    try:
        yield stream
    finally:
        await close_stream(stream)
