"""The ports through which stages call models, speech services and databases.

A port is a protocol: whatever has its methods can be registered under it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str

    def to_dict(self) -> dict[str, str]:
        """The message as chat services take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Audio:
    """Sound as linear PCM.

    Attributes:
        pcm: Signed 16-bit little-endian samples, mono.
        sample_rate_hz: Samples a second.
    """

    pcm: bytes
    sample_rate_hz: int = 16_000

    @property
    def duration_s(self) -> float:
        """How long it sounds, in seconds."""
        return len(self.pcm) / 2 / self.sample_rate_hz


class LLM(Protocol):
    """A language model."""

    async def complete(self, messages: Sequence[Message]) -> str:
        """The model's answer to a conversation, whole."""

    def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The model's answer, piece by piece; the pieces joined are the answer."""


class STT(Protocol):
    """Speech to text."""

    async def transcribe(self, audio: Audio) -> str:
        """What is said in `audio`; empty if nothing is."""


class TTS(Protocol):
    """Text to speech."""

    async def synthesize(self, text: str) -> Audio:
        """`text` as sound."""


class Speaker(Protocol):
    """What makes sound be heard: a loudspeaker, a telephone line."""

    async def play(self, audio: Audio) -> None:
        """Return when all of it has sounded; when cancelled, be silent at once."""


class Database(Protocol):
    """A store of small records, addressed by collection and key."""

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        """The record, or None if there is none."""

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        """Store the record, in place of an earlier one."""
