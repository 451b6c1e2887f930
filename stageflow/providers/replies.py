"""Whether what a provider answered is an answer at all.

A broken service rarely says so: it sends null where text should be, half a sample of sound, or the
page of its proxy. Found here, at the port, that is an `InvalidReplyError`, which may be retried;
found later it would look like a bug of the stage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from stageflow.errors import InvalidReplyError
from stageflow.providers.ports import Audio

_SHOWN_CHARS = 60


def valid_transcript(reply: object) -> str:
    """A transcript, as it is; it may be empty.

    Raises:
        InvalidReplyError: It is no text.
    """
    if isinstance(reply, str):
        return reply
    raise _invalid("speech to text", reply, "no text")


def valid_answer(reply: object) -> str:
    """A model's answer, as it is.

    Raises:
        InvalidReplyError: It is no text, or one that says nothing.
    """
    if not isinstance(reply, str):
        raise _invalid("the language model", reply, "no text")
    if not reply.strip():
        raise _invalid("the language model", reply, "nothing that could be said")
    return reply


def valid_sound(reply: object) -> Audio:
    """Sound, as it is.

    Raises:
        InvalidReplyError: It is no `Audio`, empty, or torn in the middle of a sample.
    """
    if not isinstance(reply, Audio) or not isinstance(reply.pcm, bytes):
        raise _invalid("text to speech", reply, "no sound")
    size = len(reply.pcm)
    if not size or size % 2:
        raise InvalidReplyError(
            f"text to speech answered with {size} bytes of PCM, which are"
            f" {'no whole number of 16-bit samples' if size else 'no sound'}"
        )
    return reply


def valid_record(reply: object) -> Mapping[str, Any] | None:
    """A database's record, as it is, or None for none.

    Raises:
        InvalidReplyError: It is something else.
    """
    if reply is None or isinstance(reply, Mapping):
        return reply
    raise _invalid("the database", reply, "no record")


#: What checks the reply of each method of the ports that answers at once.
CHECKS: Mapping[str, Callable[[object], Any]] = MappingProxyType(
    {
        "complete": valid_answer,
        "transcribe": valid_transcript,
        "synthesize": valid_sound,
        "get": valid_record,
    }
)


class Checked:
    """A provider of any port whose replies are checked where they arrive.

    So that a fallback takes over from a provider that talks nonsense, as from one that raises:
    ``Fallback(Checked(first), second)``.
    """

    def __init__(self, provider: Any) -> None:
        """Choose the provider; everything else that it has is handed out as it is."""
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        method = getattr(self._provider, name)
        if name in CHECKS:
            return partial(_checked_answer, CHECKS[name], method)
        return partial(_checked_stream, method) if name == "stream" else method

    def __repr__(self) -> str:
        return f"Checked({self._provider!r})"


async def _checked_answer(
    check: Callable[[object], Any], method: Callable[..., Any], /, *args: Any, **named: Any
) -> Any:
    return check(await method(*args, **named))


async def _checked_stream(
    method: Callable[..., Any], /, *args: Any, **named: Any
) -> AsyncIterator[str]:
    pieces, said = method(*args, **named), False
    try:
        async for piece in pieces:
            if not isinstance(piece, str):
                raise _invalid("the language model", piece, "no text")
            said = said or bool(piece.strip())
            yield piece
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
    if not said:
        raise _invalid("the language model", "", "nothing that could be said")


def _invalid(service: str, reply: object, what: str) -> InvalidReplyError:
    shown = repr(reply)
    if len(shown) > _SHOWN_CHARS:
        shown = f"{shown[:_SHOWN_CHARS]}…"
    return InvalidReplyError(f"{service} answered with {what}: {shown}")
