"""Whether what a provider answered is an answer at all.

A broken service rarely says so: it sends null where text should be, half a sample of sound, or the
page of its proxy. Found here, at the port, that is an `InvalidReplyError`, which may be retried;
found later it would look like a bug of the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    if not reply or reply.isspace():
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


def _invalid(service: str, reply: object, what: str) -> InvalidReplyError:
    shown = repr(reply)
    if len(shown) > _SHOWN_CHARS:
        shown = f"{shown[:_SHOWN_CHARS]}…"
    return InvalidReplyError(f"{service} answered with {what}: {shown}")
