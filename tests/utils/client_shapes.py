"""Clients in the shapes that the field gives them, each call of which leaves an effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine

#: What the clients have done.
EFFECTS: list[str] = []


def did(what: str) -> str:
    EFFECTS.append(what)
    return what


class Down(Exception):  # noqa: N818 - as a client names it
    """The clients' own error."""


@dataclass(frozen=True)
class Settings:
    """A value, with methods."""

    url: str = "http://there"

    def joined(self, path: str) -> str:
        return f"{self.url}/{path}"


class Completions:
    async def create(self, *, stream: bool = False) -> Any:
        did("create")
        return self.parts() if stream else "done"

    async def parts(self) -> AsyncIterator[str]:
        for part in ("a", "b", "c"):
            yield part

    def counted(self) -> int:
        return len(did("counted"))


class Chat:
    @cached_property
    def completions(self) -> Completions:
        return Completions()


@dataclass
class Models:
    """A part of a client that is a data class."""

    name: str = "m"

    async def get(self) -> str:
        return did("models.get")


class Request:
    """A result as of ``aiohttp``: it is awaited, or entered."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __await__(self) -> Generator[Any, None, str]:
        did(self.what)
        yield from asyncio.sleep(0).__await__()
        return "response"

    async def __aenter__(self) -> str:
        return await self

    async def __aexit__(self, *error: object) -> None:
        did("exited")


class Pages:
    """A result that is awaited for its first page, or iterated over."""

    def __init__(self) -> None:
        self.left = [3, 2, 1]

    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        return len(did("page"))

    def __aiter__(self) -> Self:
        did("pages")
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that is not async itself."""

    @wraps(function)
    def inner(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return inner


class Api:
    """One client of all shapes."""

    Down = Down
    n = 0

    def __init__(self) -> None:
        self.settings = Settings()
        self.models = Models()
        self.space = SimpleNamespace(tools=SimpleNamespace(call=self.call))
        self.partial = partial(self.call, 1)
        self.last_error = Down("earlier")
        self.later = None

    async def call(self, *_: Any) -> str:
        return did("call")

    @cached_property
    def chat(self) -> Chat:
        return Chat()

    def plain(self) -> str:
        return did("plain")

    @property
    async def status(self) -> str:
        return did("status")

    @property
    def state(self) -> Awaitable[str]:
        return asyncio.ensure_future(self.call())

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        did("session")
        try:
            yield self
        finally:
            did("session left")

    @contextmanager
    def block(self) -> Iterator[Self]:
        did("block")
        yield self

    def task(self) -> asyncio.Task[str]:
        return asyncio.create_task(self.call())

    def future(self):  # type: ignore[no-untyped-def]
        did("future")
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        return future

    def unknown_names(self) -> Coroutine[Any, Any, str]:
        return self.call()

    def get(self) -> Request:
        return Request("get")

    def pages(self) -> Pages:
        return Pages()

    def entered(self) -> AbstractAsyncContextManager[Self]:
        return self.session()

    @checked
    async def wrapped(self) -> str:
        return did("wrapped")

    async def stream(self) -> AsyncIterator[str]:
        did("stream")
        for part in ("a", "b", "c"):
            yield part

    def with_options(self) -> Self:
        return type(self)()

    def __getitem__(self, key: str) -> str:
        return did(f"item {key}")

    async def __aenter__(self) -> Self:
        did("opened")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        did("closed")


class Dynamic:
    """A client whose methods exist when they are asked for."""

    def __init__(self, path: str = "") -> None:
        self._path = path

    def __getattr__(self, name: str) -> Dynamic:
        if name.startswith("_"):
            raise AttributeError(name)
        return Dynamic(f"{self._path}/{name}")

    async def __call__(self, /, **options: Any) -> str:
        return did(self._path)


class Slotted:
    """A client without a ``__dict__``."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    async def call(self) -> str:
        return did("slotted")
