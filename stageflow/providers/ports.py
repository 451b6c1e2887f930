"""The protocols of models, speech services and databases, and checks of their replies."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self
from weakref import WeakValueDictionary

from stageflow.errors import InvalidReplyError, ProviderError, ToolError, shown

_SHOWN_CHARS = 60
_TOOLS: Mapping[str, Any] = MappingProxyType({"tools": ()})


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    The content of an ``assistant`` message may be an `Answer`, which has the model's tool calls;
    that of a ``tool`` message is a `ToolResult`.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str

    def to_dict(self) -> dict[str, Any]:
        """Return the message as chat services take it."""
        content = self.content
        message: dict[str, Any] = {"role": self.role, "content": str(content)}
        if isinstance(content, ToolResult):
            message["tool_call_id"] = content.tool_call_id
        if isinstance(content, Answer) and content.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in content.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asks for; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str

    def to_dict(self) -> dict[str, Any]:
        """Return the call as chat services take it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


class ToolResult(str):
    """The result of a tool call as text: the content of a message of the role ``tool``."""

    tool_call_id: str

    def __new__(cls, text: str, tool_call_id: str) -> Self:
        """Create the result of a call from its text."""
        result = super().__new__(cls, text)
        result.tool_call_id = tool_call_id
        return result


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one answer, as the service counts them."""

    prompt_tokens: int
    completion_tokens: int


class Answer(str):
    """A model's answer, or the last piece of a stream, of which more than its text is known.

    Attributes:
        finish_reason: ``stop``, ``tool_calls``, ``refusal`` (the text is the refusal), or why it
            was cut: ``length``, ``content_filter``, or another word of the service.
        tool_calls: The calls that the model asks for.
        usage: Its tokens, if the service reports them.
    """

    finish_reason: str
    tool_calls: Sequence[ToolCall]
    usage: Usage | None

    def __new__(
        cls,
        text: str,
        finish_reason: str = "stop",
        *,
        tool_calls: Sequence[ToolCall] = (),
        usage: Usage | None = None,
    ) -> Self:
        """Create an answer from its text."""
        answer = super().__new__(cls, text)
        answer.finish_reason, answer.tool_calls, answer.usage = finish_reason, tool_calls, usage
        return answer

    @property
    def cut(self) -> bool:
        """Whether the service ended the answer before the model did."""
        return self.finish_reason not in ("stop", "tool_calls", "refusal")

    def with_text(self, text: str) -> Answer:
        """Return the answer with another text."""
        return Answer(text, self.finish_reason, tool_calls=self.tool_calls, usage=self.usage)


@dataclass(frozen=True, slots=True)
class Audio:
    """Sound: signed 16-bit little-endian PCM, mono, with its samples a second."""

    pcm: bytes
    sample_rate_hz: int = 16_000

    @property
    def duration_s(self) -> float:
        """The duration, in seconds."""
        return len(self.pcm) / 2 / self.sample_rate_hz


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text, on the safe side: one for three bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 3)


# An enclosed keycap is an emoji that begins with a digit. The four excluded letters are Hangul
# fillers, which are invisible.
_SPEAKABLE = re.compile(r"[^\W_\u115f\u1160\u3164\uffa0](?!\ufe0f?\u20e3)")


def is_speakable(text: str) -> bool:
    """Return whether a text has a letter or a digit of any script, so that it can be spoken."""
    return _SPEAKABLE.search(text) is not None


class LLM(Protocol):
    """A language model.

    It refuses a conversation that is too long with an error that `classify` calls
    ``request_too_long``, such as HTTP 413. The kernels use two optional attributes:
    ``context_tokens: int | None``, the tokens that it takes, its answer included, and
    ``count_tokens(text: str) -> int`` (`estimated_tokens` if absent).

    A model that calls tools also takes ``tools``, a list of `Tool.to_dict`. Its calls, why it
    ended, and its tokens are in an `Answer`: what `complete` returns, or the last piece of a
    stream.
    """

    async def complete(self, messages: Sequence[Message]) -> str:
        """Return the complete answer to a conversation."""

    def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """Yield the answer in pieces."""


def require_tools(model: Any, options: Mapping[str, Any] = _TOOLS) -> None:
    """Raise `ToolError` if `options` have tools, and a model does not take them."""
    if "tools" not in options:
        return
    with suppress(ValueError):  # it has no signature
        try:
            inspect.signature(model.complete).bind([], **options)
        except TypeError:
            model = getattr(inspect.unwrap(model.complete), "__self__", model)
            text = (
                f"{type(model).__name__} cannot call tools, as its complete() does not take"
                " 'tools': register a model that does as 'llm', or leave the tools out"
            )
            raise ToolError(text, code="tools_unsupported") from None


class STT(Protocol):
    """Speech to text."""

    async def transcribe(self, audio: Audio) -> str:
        """Return what is said in `audio`; an empty text if nothing is."""


class TTS(Protocol):
    """Text to speech."""

    async def synthesize(self, text: str) -> Audio:
        """Return `text`, which has a letter or a digit (`is_speakable`), as sound."""


class Speaker(Protocol):
    """An output of sound, such as a loudspeaker or a telephone line."""

    async def play(self, audio: Audio) -> None:
        """Play the sound to its end; if cancelled, stop at once."""


class Database(Protocol):
    """A store of small records, addressed by collection and key.

    It may also have ``async append(collection, key, field, item, *, keep=None)``, which appends to
    a list of a record, whatever other processes do, and keeps its newest `keep` items. It creates
    what is missing. If it loses its connection, the item may have been appended.
    """

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        """Return the record, or None if there is none."""

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        """Store the record; replace an earlier one."""


def appended(
    record: Mapping[str, Any] | None, at: tuple[str, str], field: str, item: Any, keep: int | None
) -> dict[str, Any]:
    """Return a record with one more item; raise `InvalidReplyError` if the field is not a list."""
    record = record or {}
    items = record.get(field, [])
    if not isinstance(items, list):
        where = f"{field!r} of record {at[1]!r} of collection {at[0]!r}, which is not a list"
        raise InvalidReplyError(f"the database holds {shown(items)} as {where}")
    if keep is not None and keep < 1:
        raise invalid_record(*at, f"keep is {keep!r}; give 1 or more, or None")
    return {**record, field: [*items, item][-(keep or 0) :]}


_appending: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()


def appending(owner: object, at: tuple[str, str]) -> asyncio.Lock:
    """Return the lock that keeps appends to a record one after another in this event loop."""
    where = asyncio.get_running_loop(), id(owner), *at
    return _appending.setdefault(where, asyncio.Lock())


async def append_by_put(
    db: Database, at: tuple[str, str], field: str, item: Any, keep: int | None, *, owner: object
) -> None:
    """Append to a record of a database without ``append``; `owner` is it without wrappers."""
    async with appending(owner, at):
        record = valid_record(await db.get(*at))
        await db.put(*at, appended(record, at, field, item, keep))


# A broken service may send null in place of text, half a sample of sound, or an error page. Checked
# at the port, that can be retried; later it would look like a bug of the stage.


def valid_transcript(reply: object) -> str:
    """Return a transcript, which may be empty; raise `InvalidReplyError` unless it is text."""
    if not isinstance(reply, str):
        raise invalid_reply("speech to text", reply, "no text")
    return reply


def valid_answer(reply: object) -> str:
    """Return a model's answer; raise `InvalidReplyError` if it is not text, or says nothing."""
    if not isinstance(reply, str):
        raise invalid_reply("the language model", reply, "no text")
    if not reply.strip() and not getattr(reply, "tool_calls", ()):
        raise invalid_reply("the language model", reply, "nothing that could be said")
    return reply


def valid_sound(reply: object) -> Audio:
    """Return sound; raise `InvalidReplyError` unless it is `Audio` of one or more whole samples."""
    if not isinstance(reply, Audio) or not isinstance(reply.pcm, bytes):
        raise invalid_reply("text to speech", reply, "no sound")
    size = len(reply.pcm)
    if not size or size % 2:
        what = "a whole number of 16-bit samples" if size else "a sound"
        raise InvalidReplyError(
            f"text to speech answered with {size} bytes of PCM, which is not {what}"
        )
    return reply


def valid_record(reply: object) -> Mapping[str, Any] | None:
    """Return a record, or None for none; raise `InvalidReplyError` for anything else."""
    if reply is None or isinstance(reply, Mapping):
        return reply
    raise invalid_reply("the database", reply, "no record")


#: What checks the reply of each method of a port that does not stream.
CHECKS: Mapping[str, Callable[[object], Any]] = MappingProxyType(
    {
        "complete": valid_answer,
        "transcribe": valid_transcript,
        "synthesize": valid_sound,
        "get": valid_record,
    }
)


def invalid_reply(service: str, reply: object, what: str) -> InvalidReplyError:
    """Return the error of a reply; it shows the beginning of the reply."""
    text = repr(reply)
    text = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    return InvalidReplyError(f"{service} answered with {what}: {text}")


def invalid_record(collection: object, key: object, problem: str) -> ProviderError:
    """Return the error of a record, or its address, that a database cannot hold."""
    text = f"record {shown(key)} of collection {shown(collection)}: {problem}"
    return ProviderError(text, code="invalid_record")


def require_address(collection: object, key: object) -> None:
    """Raise `ProviderError` unless any database can hold a record at this address."""
    for part in (collection, key):
        # PostgreSQL refuses NUL and halves of surrogate pairs.
        if not isinstance(part, str) or re.search("[\0\ud800-\udfff]", part):
            problem = f"{shown(part)} cannot be an address; give a string without NUL"
            raise invalid_record(collection, key, problem)
