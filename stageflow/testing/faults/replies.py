"""Answers that are none: nothing at all, or something of a wrong sort, by port."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from stageflow.providers.ports import Audio
from stageflow.testing.faults.kinds import Call, Fault

_NOT_GIVEN: Any = object()


@dataclass(frozen=True, kw_only=True)
class Reply(Fault):
    """The provider answers at once, with `reply` in place of an answer; one of no port needs it."""

    reply: Any = _NOT_GIVEN

    #: What is answered if no reply is given, by method; other methods are left alone.
    by_method: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def affects(self, method: str) -> bool:
        """Whether there is something to answer in place of that method."""
        return self.reply is not _NOT_GIVEN or method in self.by_method

    def _reply_to(self, call: Call) -> Any:
        return self.by_method[call.method] if self.reply is _NOT_GIVEN else self.reply

    async def answer(self, call: Call) -> Any:
        """The reply."""
        return self._reply_to(call)

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """The reply as the only piece, unless it is a list or tuple of pieces."""
        reply = self._reply_to(call)
        for piece in reply if isinstance(reply, list | tuple) else (reply,):
            yield piece


class EmptyAnswer(Reply):
    """The model has nothing to say."""

    by_method = MappingProxyType({"complete": "", "stream": ()})


class InvalidAnswer(Reply):
    """The model's answer holds no text, as where its content is null."""

    by_method = MappingProxyType({"complete": None, "stream": (None,)})


class EmptyTranscript(Reply):
    """Nothing was heard."""

    by_method = MappingProxyType({"transcribe": ""})


class InvalidTranscript(Reply):
    """The body of an error, served as if it were a transcript."""

    by_method = MappingProxyType({"transcribe": {"error": "decoder crashed"}})


class EmptySound(Reply):
    """Sound without a sample."""

    by_method = MappingProxyType({"synthesize": Audio(b"")})


class InvalidSound(Reply):
    """Sound torn in the middle of a 16-bit sample."""

    by_method = MappingProxyType({"synthesize": Audio(b"\x00\x10\x00")})


class NoRecord(Reply):
    """The database holds nothing, whatever was put there."""

    by_method = MappingProxyType({"get": None})


class InvalidRecord(Reply):
    """A record that was torn when it was written, and so comes back as the text that it is."""

    by_method = MappingProxyType({"get": '{"turns": [{"user": "hel'})
