"""Which provider stands behind which name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from stageflow.errors import InvalidProviderError, UnknownProviderError
from stageflow.providers.ports import LLM, STT, TTS, Database

#: The names that carry a port, and the methods that the port asks for.
PORTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "llm": ("LLM", ("complete", "stream")),
    "stt": ("STT", ("transcribe",)),
    "tts": ("TTS", ("synthesize",)),
    "db": ("Database", ("get", "put")),
}


class ProviderRegistry(Mapping[str, Any]):
    """Providers by name.

    The names ``llm``, ``stt``, ``tts`` and ``db`` stand for the ports of those names and are
    checked; any other name holds whatever is registered under it.
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
        """
        if name in PORTS:
            port, methods = PORTS[name]
            missing = [f"{m}()" for m in methods if not callable(getattr(provider, m, None))]
            if missing:
                raise InvalidProviderError(name, provider, port, missing)
        self._providers[name] = provider

    def __getitem__(self, name: str) -> Any:
        try:
            return self._providers[name]
        except KeyError:
            raise UnknownProviderError(name, self._providers) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def __contains__(self, name: object) -> bool:
        return name in self._providers

    def get(self, name: str, default: Any = None) -> Any:
        """The provider behind `name`, or `default`."""
        return self._providers.get(name, default)

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
