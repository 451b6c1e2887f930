"""Blocking calls off the event loop: one thread, a line before it that has an end, and a stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from stageflow.errors import ErrorCategory, ProviderError

T = TypeVar("T")


class ProviderBusyError(ProviderError):
    """A provider of this machine has as many calls waiting as it takes."""

    code = "provider_busy"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "We are very busy right now. Please try again in a moment."

    def __init__(self, name: str, most: int) -> None:
        super().__init__(f"{name} has {most} calls under way or waiting, as many as it takes")


class Stop:
    """Tells work in a thread that nobody waits for it any more.

    Attributes:
        asked: Whether it is to end; work that goes in steps looks between them.
    """

    def __init__(self) -> None:
        self.asked = False
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None

    def ask(self) -> None:
        """Ask for the end, and interrupt what can be interrupted."""
        with self._lock:
            self.asked = True
            if self._interrupt is not None:
                self._interrupt()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Work that does not look: `interrupt` is called, once, if the end is asked for in it."""
        with self._lock:
            self._interrupt = interrupt
            if self.asked:
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None


class Lane:
    """One thread that does one thing after another."""

    def __init__(self, name: str, most: int = 16) -> None:
        """Name the lane in errors, and say how many calls may be under way or waiting."""
        self._name = name
        self._most = most
        self._places = threading.BoundedSemaphore(most)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Do some work in the thread; a caller that is cancelled returns at once.

        Raises:
            ProviderBusyError: Too many calls wait already.
        """
        if not self._places.acquire(blocking=False):
            raise ProviderBusyError(self._name, self._most)
        stop = Stop()
        future = self._executor.submit(work, stop)
        future.add_done_callback(lambda _: self._places.release())
        try:
            return await asyncio.wrap_future(future)
        finally:
            stop.ask()

    async def close(self) -> None:
        """Drop what waits, and wait for what is under way."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
