"""Replies of providers: what passes, what does not, and what the error shows of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from stageflow import Audio
from stageflow.errors import InvalidReplyError
from stageflow.providers import Checked, FakeDatabase, FakeLLM, IdleTimeout
from stageflow.providers.ports import CHECKS

SOUND = Audio(b"\x00\x01")


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("complete", "hi"),
        ("transcribe", "hi"),
        ("transcribe", ""),
        ("synthesize", SOUND),
        ("get", {}),
        ("get", {"a": 1}),
        ("get", None),
    ],
)
def test_an_answer_passes_as_it_is(method: str, reply: Any) -> None:
    """A valid answer of the port is returned untouched."""
    assert CHECKS[method](reply) is reply


@pytest.mark.parametrize(
    ("method", "reply", "shown"),
    [
        ("complete", None, "no text: None"),
        ("complete", "", "nothing that could be said: ''"),
        ("complete", " \n", "nothing that could be said"),
        ("complete", b"hi", "no text: b'hi'"),
        ("transcribe", None, "no text: None"),
        ("transcribe", {"text": "hi"}, "no text: {'text': 'hi'}"),
        ("synthesize", b"\x00\x01", "no sound: b"),
        ("synthesize", Audio(b""), "0 bytes of PCM, which is not a sound"),
        ("synthesize", Audio(b"abc"), "3 bytes of PCM, which is not a whole number of 16-bit"),
        ("synthesize", Audio([0, 1]), "no sound: Audio("),  # type: ignore[arg-type]
        ("get", "<html>", "no record: '<html>'"),
        ("get", [], "no record: []"),
    ],
)
def test_the_error_names_a_reply_that_is_not_an_answer(method: str, reply: Any, shown: str) -> None:
    """The error shows what came, may be retried, and has words for the user."""
    with pytest.raises(InvalidReplyError) as caught:
        CHECKS[method](reply)
    assert shown in str(caught.value)
    assert caught.value.retryable
    assert caught.value.user_message.endswith("Please try again.")


def test_a_long_reply_is_cut() -> None:
    """However long a reply is, its error stays short."""
    with pytest.raises(InvalidReplyError) as caught:
        CHECKS["get"]("x" * 100_000)
    assert len(str(caught.value)) < 150


class Streaming:
    """Streams what it is given, and says whether it was closed."""

    def __init__(self, pieces: Iterable[Any]) -> None:
        self.pieces = pieces
        self.closed = False

    async def stream(self, messages: Any) -> AsyncIterator[Any]:
        try:
            for piece in self.pieces:
                yield piece
        finally:
            self.closed = True


class WithoutClose:
    """An iterator that cannot be closed."""

    def __init__(self) -> None:
        self._left = ["a", "b"]

    def __aiter__(self) -> WithoutClose:
        return self

    async def __anext__(self) -> str:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)

    def stream(self, messages: Any) -> WithoutClose:
        return self


@pytest.mark.parametrize("pieces", [[], ["", " "], ["hi", None], [None]])
async def test_a_stream_is_checked_piece_by_piece(pieces: list[Any]) -> None:
    """A stream fails at the first piece that is not text, or at its end if it was empty."""
    for wrapped in (Streaming, lambda given: IdleTimeout(Streaming(given), 1.0)):
        llm = wrapped(pieces)
        checked = Checked(llm)
        with pytest.raises(InvalidReplyError):
            assert None not in [piece async for piece in checked.stream([])]
        assert llm.closed


async def test_a_stream_with_words_passes() -> None:
    """Empty pieces among others are heartbeats, and an iterator need not be closable."""
    passed = [piece async for piece in Checked(Streaming(["", "hi", "", "!"])).stream([])]
    assert passed == ["", "hi", "", "!"]
    assert [piece async for piece in Checked(WithoutClose()).stream([])] == ["a", "b"]


async def test_a_checked_provider_is_the_provider() -> None:
    """Answers are checked, all else is handed out, and what is not there is missing."""
    llm = Checked(FakeLLM(["fine", ""]))
    assert await llm.complete([]) == "fine"
    with pytest.raises(InvalidReplyError):
        await llm.complete([])
    assert llm.calls == 2
    assert not hasattr(llm, "get")
    assert not hasattr(llm, "_latency")
    assert repr(llm).startswith("Checked(<stageflow.providers.fake.FakeLLM")
    db = Checked(FakeDatabase())
    await db.put("c", "k", {"a": 1})
    assert await db.get("c", "k") == {"a": 1}
