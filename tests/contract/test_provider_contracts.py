"""The providers of this package keep the contracts of their ports; wrong ones are found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from stageflow import Audio, Message
from stageflow.providers.fake import FakeDatabase, FakeLLM, FakeSTT, FakeTTS, speech_of_text
from stageflow.providers.latency import LatencyProfile
from stageflow.providers.resilience import Fallback
from stageflow.testing.contracts.providers import (
    DatabaseContractTest,
    LlmContractTest,
    SttContractTest,
    TtsContractTest,
)
from stageflow.testing.faults import LlmFaultInjector

SOON = LatencyProfile.fixed(1.0)
HELLO = speech_of_text("hello")


class TestFakeLLM(LlmContractTest):
    async def make_llm(self) -> Any:
        return FakeLLM("Hello there.", latency=SOON, first_piece=SOON)


class TestFallback(LlmContractTest):
    async def make_llm(self) -> Any:
        return Fallback(FakeLLM("Hello."), FakeLLM("Good day."))


class TestFaultyProviderWithoutItsFault(LlmContractTest):
    async def make_llm(self) -> Any:
        return LlmFaultInjector("error").around(FakeLLM("Hello."))


class TestFakeSTT(SttContractTest):
    async def make_stt(self) -> Any:
        return FakeSTT(latency=SOON)

    def make_audio(self) -> Audio:
        return HELLO


class TestFakeTTS(TtsContractTest):
    async def make_tts(self) -> Any:
        return FakeTTS(latency=SOON)


class TestFakeDatabase(DatabaseContractTest):
    async def make_database(self) -> Any:
        return FakeDatabase(read=SOON, write=SOON)


# ── wrong ones ──────────────────────────────────────────────────────────────────────────────


class Stubborn:
    """Does not let itself be cancelled, whatever is asked of it."""

    async def _call(self, *_: Any) -> Any:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            return "x"
        return "x"

    complete = transcribe = synthesize = _call

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield "x"


class Odd:
    """Gives the wrong things."""

    calls = 0

    async def complete(self, messages: Sequence[Message]) -> Any:
        return None

    def stream(self, messages: Sequence[Message]) -> Any:
        return _Pieces()

    async def transcribe(self, audio: Audio) -> Any:
        self.calls += 1
        return " " * self.calls

    async def synthesize(self, text: str) -> Any:
        return b""


class _Pieces:
    """An iterator that cannot be closed, of what is no text."""

    def __init__(self) -> None:
        self.left = [1, 2]

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()


class Sloppy:
    """A database that mixes collections up, merges records, keeps what it is given, and forgets."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    async def get(self, collection: str, key: str) -> Any:
        await asyncio.sleep(0)
        return self.records.get(key[:100], {} if key == "nobody" else None)

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        kept = dict(self.records)
        await asyncio.sleep(0)
        old = kept.get(key[:100])
        kept[key[:100]] = record if old is None else {**old, **record, "merged": True}
        self.records = kept


WRONG: dict[Any, dict[str, Any]] = {
    LlmContractTest: {"test_can_be_cancelled": Stubborn, "": Odd},
    SttContractTest: {"test_can_be_cancelled": Stubborn, "": Odd},
    TtsContractTest: {"test_can_be_cancelled": Stubborn, "": Odd},
    DatabaseContractTest: {
        # Of the keys that it is put, only the first hundred signs count.
        "test_what_was_put_is_got": type(
            "Forgetful", (Sloppy,), {"put": lambda self, *_: asyncio.sleep(0)}
        ),
        "": Sloppy,
    },
}
CASES = [
    (owner, name) for owner in WRONG for name in sorted(vars(owner)) if name.startswith("test_")
]


@pytest.mark.parametrize(
    ("owner", "name"), CASES, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_wrong_provider_is_found(owner: Any, name: str) -> None:
    """By each test of each contract."""
    wrong = WRONG[owner].get(name, WRONG[owner][""])

    async def make(self: object) -> Any:
        return wrong()

    makers = dict.fromkeys(["make_llm", "make_stt", "make_tts", "make_database"], make)
    made = type("Wrong", (owner,), {**makers, "make_audio": lambda self: HELLO})()
    with pytest.raises(AssertionError):
        getattr(made, name)()


@pytest.mark.parametrize("owner", WRONG, ids=lambda owner: str(owner.__name__))
def test_a_subclass_has_to_say_which_provider(owner: Any) -> None:
    """With the method to write."""
    name = next(name for name in vars(owner) if name.startswith("test_"))
    with pytest.raises(NotImplementedError, match="write make_"):
        getattr(owner(), name)()
