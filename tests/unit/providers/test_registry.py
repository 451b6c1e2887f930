"""The registry of providers, and the records that pass through ports."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from stageflow import Audio, Message, ProviderRegistry
from stageflow.errors import ProviderError, UnknownProviderError
from stageflow.providers import PORTS, FakeLLM
from tests.utils.errors import raises_code
from tests.utils.mocks import FakeDatabase


class Incomplete:
    """Has one of the methods of the port `LLM`, and an attribute in the place of the other."""

    stream = "no method"

    async def complete(self, messages: object) -> str:
        return ""


def test_a_provider_is_found_under_its_name() -> None:
    """By item, by attribute for ports, and as in any mapping."""
    database, other = FakeDatabase(), object()
    registry = ProviderRegistry(db=database, other=other)
    assert registry["db"] is registry.db is registry.get("db") is database
    assert registry["other"] is other
    assert (list(registry), len(registry)) == (["db", "other"], 2)
    assert ("db" in registry, "llm" in registry) == (True, False)


def test_a_later_provider_takes_the_place_of_an_earlier_one() -> None:
    """Registering under a name that is taken replaces."""
    first, second = FakeDatabase(), FakeDatabase()
    registry = ProviderRegistry(db=first)
    registry.register("db", second)
    assert registry.db is second


@pytest.mark.parametrize("port", sorted(PORTS))
def test_each_port_refuses_what_lacks_its_methods(port: str) -> None:
    """The error names the provider, the port and each missing method; nothing is registered."""
    registry = ProviderRegistry()
    with raises_code("invalid_provider") as caught:
        registry.register(port, object())
    name, methods = PORTS[port]
    missing = ", ".join(f"{method}()" for method in methods)
    assert str(caught.value) == (
        f"object cannot serve as {port!r}: the port {name} also needs {missing}"
    )
    assert port not in registry


class _Reversed:
    """Streams what is one answer, and answers what is a stream."""

    async def complete(self, messages: object) -> AsyncIterator[str]:
        yield ""

    async def stream(self, messages: object) -> str:
        return ""


def test_a_stream_in_the_place_of_an_answer_is_refused_and_the_reverse() -> None:
    """Awaiting the one, and iterating over the other, would fail in every stage that calls it."""
    fix = "the port LLM also needs complete() without 'yield', stream() with 'yield'"
    with raises_code("invalid_provider", match=re.escape(fix)):
        ProviderRegistry(llm=_Reversed())
    with raises_code("invalid_config", match="give a plain function"):
        FakeLLM(_Reversed().stream)  # type: ignore[arg-type]


def test_only_what_is_missing_is_named() -> None:
    """An attribute that cannot be called is not a method."""
    with raises_code("invalid_provider") as caught:
        ProviderRegistry(llm=Incomplete())
    assert str(caught.value).endswith("also needs stream()")


@pytest.mark.parametrize("port", sorted(PORTS))
def test_a_port_without_provider_is_reported_by_name(port: str) -> None:
    """Item and attribute raise the same typed error."""
    registry = ProviderRegistry(other=1)
    for read in (registry.__getitem__, partial(getattr, registry)):
        with pytest.raises(UnknownProviderError, match="registered: 'other'") as caught:
            read(port)
        assert caught.value.name == port
        assert isinstance(caught.value, ProviderError)


def test_reading_with_a_default_does_not_raise() -> None:
    """As with a dict."""
    assert (ProviderRegistry().get("llm"), ProviderRegistry().get("llm", 5)) == (None, 5)


def test_a_message_is_what_chat_services_take() -> None:
    """Role and content."""
    assert Message("user", "hello").to_dict() == {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("audio", "duration_s"),
    [(Audio(b"\0" * 32_000), 1.0), (Audio(b"\0" * 32_000, 8_000), 2.0), (Audio(b""), 0.0)],
)
def test_audio_knows_how_long_it_sounds(audio: Any, duration_s: float) -> None:
    """Two bytes a sample, so many samples a second."""
    assert audio.duration_s == duration_s
