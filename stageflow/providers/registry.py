"""Which provider stands behind which name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from stageflow.errors import InvalidConfigError, InvalidProviderError, UnknownProviderError
from stageflow.providers.ports import LLM, STT, TTS, Database, Speaker

#: The names that carry a port, and the methods that the port asks for.
PORTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "llm": ("LLM", ("complete", "stream")),
    "stt": ("STT", ("transcribe",)),
    "tts": ("TTS", ("synthesize",)),
    "db": ("Database", ("get", "put")),
    "speaker": ("Speaker", ("play",)),
}


#: Makes of a provider what is called in its place.
Adapter: TypeAlias = Callable[[Any], Any]

_adapters: ContextVar[Mapping[str, tuple[Adapter, ...]]] = ContextVar(
    "adapters", default=MappingProxyType({})
)


@contextmanager
def adapted(name: str, adapter: Adapter) -> Iterator[None]:
    """Put `adapter` around whatever is registered as `name`, within this block and context.

    Only what runs in the current context is affected: the body, and the runs and tasks that it
    starts. Blocks nest; the innermost adapter stands outermost and so is called first.
    """
    current = _adapters.get()
    token = _adapters.set({**current, name: (*current.get(name, ()), adapter)})
    try:
        yield
    finally:
        _adapters.reset(token)


class ProviderRegistry(Mapping[str, Any]):
    """Providers by name.

    The names ``llm``, ``stt``, ``tts``, ``db`` and ``speaker`` stand for ports and are checked; any
    other name holds whatever is registered under it.
    """

    def __init__(self, **providers: Any) -> None:
        """Register each of `providers` under its name; raises as `register` does."""
        self._providers: dict[str, Any] = {}
        for name, provider in providers.items():
            self.register(name, provider)

    def register(self, name: str, provider: Any) -> None:
        """Put `provider` behind `name`, in place of an earlier one.

        Raises:
            InvalidProviderError: The name carries a port, and the provider lacks its methods.
            InvalidConfigError: It is a class, and no provider.
        """
        if isinstance(provider, type):
            mend = f"give an instance of it: {provider.__name__}(…)"
            raise InvalidConfigError("ProviderRegistry", name, provider, mend)
        if name in PORTS:
            port, methods = PORTS[name]
            missing = [f"{m}()" for m in methods if not callable(getattr(provider, m, None))]
            if missing:
                raise InvalidProviderError(name, provider, port, missing)
        self._providers[name] = provider

    def __getitem__(self, name: str) -> Any:
        try:
            provider = self._providers[name]
        except KeyError:
            raise UnknownProviderError(name, self._providers) from None
        for adapter in _adapters.get().get(name, ()):
            provider = adapter(provider)
        return provider

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def __contains__(self, name: object) -> bool:
        return name in self._providers

    def get(self, name: str, default: Any = None) -> Any:
        """The provider behind `name`, or `default`."""
        return self[name] if name in self._providers else default

    @property
    def llm(self) -> LLM:
        """The language model."""
        return cast("LLM", self["llm"])

    @property
    def stt(self) -> STT:
        """Speech to text."""
        return cast("STT", self["stt"])

    @property
    def tts(self) -> TTS:
        """Text to speech."""
        return cast("TTS", self["tts"])

    @property
    def db(self) -> Database:
        """The database."""
        return cast("Database", self["db"])

    @property
    def speaker(self) -> Speaker:
        """What makes sound be heard."""
        return cast("Speaker", self["speaker"])
