"""Providers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeAlias

from stageflow._utils.checks import is_async
from stageflow.errors import InvalidConfigError, ProviderError, UnknownProviderError
from stageflow.providers.ports import LLM, STT, TTS, Database, Speaker

PORTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "llm": ("LLM", ("complete", "stream")),
    "stt": ("STT", ("transcribe",)),
    "tts": ("TTS", ("synthesize",)),
    "db": ("Database", ("get", "put")),
    "speaker": ("Speaker", ("play",)),
}
"""The name of each port, its class and its methods."""

Adapter: TypeAlias = Callable[[Any], Any]
"""Wraps a provider."""

_Adapters: TypeAlias = tuple[tuple[Collection[str], Callable[[str, Any], Any]], ...]
_adapters: ContextVar[_Adapters] = ContextVar("adapters", default=())


class Adapting:
    """Wrap the providers of these names as `adapted` does; the adapter gets name and provider."""

    __slots__ = ("_added", "_token")

    def __init__(self, names: Collection[str], adapter: Callable[[str, Any], Any]) -> None:
        self._added = names, adapter

    def __enter__(self) -> None:
        self._token = _adapters.set((*_adapters.get(), self._added))

    def __exit__(self, *_: object) -> None:
        _adapters.reset(self._token)


def adapted(name: str, adapter: Adapter) -> AbstractContextManager[None]:
    """Wrap the provider registered as `name` in `adapter`, for the runs and tasks of this block.

    Of nested blocks, the innermost adapter is called first.
    """
    return Adapting((name,), lambda _, provider: adapter(provider))


def adapt(name: str, provider: Any) -> Any:
    """Return a provider as the adapters of its name wrap it."""
    for names, adapter in _adapters.get():
        if name in names:
            provider = adapter(name, provider)
    return provider


def _need(name: str, method: object) -> str:
    """Return what a port needs in place of `method`; empty if `method` is right."""
    if not callable(method):
        return f"{name}()"
    if name == "stream":
        return "stream() with 'yield'" if is_async(method) else ""
    return f"{name}() without 'yield'" if inspect.isasyncgenfunction(method) else ""


class ProviderRegistry(Mapping[str, Any]):
    """Providers by name.

    A provider under the name of a port (``llm``, ``stt``, ``tts``, ``db``, ``speaker``) must have
    its methods, and is an attribute; other names take any object.
    """

    llm: LLM
    stt: STT
    tts: TTS
    db: Database
    speaker: Speaker

    def __init__(self, **providers: Any) -> None:
        self._providers: dict[str, Any] = {}
        for name, provider in providers.items():
            self.register(name, provider)

    def register(self, name: str, provider: Any) -> None:
        """Register a provider; replace an earlier one of that name.

        Raises:
            ProviderError: The name is that of a port, and the provider lacks its methods.
            InvalidConfigError: It is a class, not an instance.
        """
        if isinstance(provider, type):
            fix = f"give an instance of it: {provider.__name__}(…)"
            raise InvalidConfigError("ProviderRegistry", name, provider, fix)
        if name in PORTS:
            port, methods = PORTS[name]
            needed = [_need(method, getattr(provider, method, None)) for method in methods]
            if any(needed):
                raise ProviderError.invalid(name, provider, port, list(filter(None, needed)))
        self._providers[name] = provider

    def registered(self, name: str) -> Any:
        """Return the provider of that name without its adapters; None if there is none."""
        return self._providers.get(name)

    def __getitem__(self, name: str) -> Any:
        try:
            provider = self._providers[name]
        except KeyError:
            raise UnknownProviderError(name, self._providers, of_port=name in PORTS) from None
        return adapt(name, provider)

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def __contains__(self, name: object) -> bool:
        return name in self._providers

    def get(self, name: str, default: Any = None) -> Any:
        """Return the provider of that name, or `default`."""
        return self[name] if name in self._providers else default

    def __getattr__(self, name: str) -> Any:
        if name in PORTS:
            return self[name]
        raise AttributeError(f"ProviderRegistry has no attribute {name!r}")
