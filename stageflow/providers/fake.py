"""Deterministic providers for tests, benchmarks and demonstrations.

Each answers from what it was given alone, takes the time that its `LatencyProfile` says on the
event loop's clock, and can be cancelled while it does. Two of a kind with the same seed take the
same time at each call. A latency of 0 does not suspend.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import random
import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from stageflow.errors import InvalidConfigError, UnintelligibleAudioError
from stageflow.providers.latency import INSTANT, LatencyProfile, require_amount
from stageflow.providers.ports import Audio, Message

# A byte of text sounds for 60 ms at 16 kHz: twelve periods of a 200 Hz square wave, whose
# amplitude tells which byte it is.
_SAMPLE_RATE_HZ = 16_000
_HALF_PERIOD_SAMPLES = 40
_PERIODS_PER_BYTE = 12
_BYTES_PER_FRAME = 2 * (2 * _HALF_PERIOD_SAMPLES) * _PERIODS_PER_BYTE
_AMPLITUDE_STEP = 100

_PIECES = re.compile(r"\S+\s*|^\s+")


class _Fake:
    """What all fakes have in common.

    Attributes:
        calls: How many calls were begun, cancelled ones included.
    """

    def __init__(self, latency: LatencyProfile, seed: int | str) -> None:
        self.calls = 0
        self._latency = latency
        # Fakes of different kinds must not be slow together only because they share a seed.
        self._random = random.Random(f"{type(self).__name__}/{seed}")

    async def _take(self, latency: LatencyProfile) -> None:
        await _sleep_ms(latency.sample_ms(self._random))


async def _sleep_ms(duration_ms: float) -> None:
    if duration_ms > 0:
        await asyncio.sleep(duration_ms / 1000.0)


def _script(owner: str, field: str, texts: str | Sequence[str]) -> Iterator[str]:
    """The texts one after another, and then from the first again."""
    lines = (texts,) if isinstance(texts, str) else tuple(texts)
    if not lines or not all(isinstance(line, str) for line in lines):
        raise InvalidConfigError(owner, field, texts, "give at least one string")
    return itertools.cycle(lines)


def echo(messages: Sequence[Message]) -> str:
    """Answers with the user's last words and, to show what it remembers, those before."""
    said = [message.content for message in messages if message.role == "user"]
    if not said:
        return "You have said nothing yet."
    answer = f"You said: {said[-1]}"
    return answer if len(said) == 1 else f"{answer} (Before that: {said[-2]})"


class FakeLLM(_Fake):
    """A language model that echoes, or follows a script."""

    def __init__(
        self,
        answers: str | Sequence[str] | Callable[[Sequence[Message]], str] = echo,
        *,
        latency: LatencyProfile = INSTANT,
        first_piece: LatencyProfile | None = None,
        seed: int | str = 0,
    ) -> None:
        """Set up the model.

        Args:
            answers: One answer, several to be given in turn, or a function of the conversation.
            latency: Time until the answer is complete, whether streamed or not.
            first_piece: Time until the first piece of a stream, cut to the whole latency where it
                is longer; the other pieces follow at equal distances. If left out, the first
                piece keeps the same distance as the others.
            seed: Makes the latencies repeat.

        Raises:
            InvalidConfigError: There is no answer, or one is no string.
        """
        super().__init__(latency, seed)
        self._first_piece = first_piece
        if callable(answers):
            self._answer = answers
        else:
            script = _script("FakeLLM", "answers", answers)
            self._answer = lambda _messages: next(script)

    async def complete(self, messages: Sequence[Message]) -> str:
        """The whole answer."""
        self.calls += 1
        answer = self._answer(messages)
        await self._take(self._latency)
        return answer

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer word by word, each with the white space that follows it."""
        self.calls += 1
        pieces: list[str] = _PIECES.findall(self._answer(messages))
        whole_ms = self._latency.sample_ms(self._random)
        for delay_ms, piece in zip(self._delays_ms(whole_ms, len(pieces)), pieces, strict=True):
            await _sleep_ms(delay_ms)
            yield piece
        if not pieces:
            await _sleep_ms(whole_ms)

    def _delays_ms(self, whole_ms: float, count: int) -> list[float]:
        """The delay before each piece; together they are `whole_ms`."""
        if self._first_piece is None or count < 2:
            return [whole_ms / count] * count if count else []
        first_ms = min(whole_ms, self._first_piece.sample_ms(self._random))
        return [first_ms, *[(whole_ms - first_ms) / (count - 1)] * (count - 1)]


class FakeSTT(_Fake):
    """Speech to text that follows a script, or understands what `FakeTTS` says."""

    def __init__(
        self,
        transcripts: str | Sequence[str] | None = None,
        *,
        latency: LatencyProfile = INSTANT,
        seed: int | str = 0,
    ) -> None:
        """Set up the service.

        Args:
            transcripts: One transcript, or several to be given in turn; decodes what `FakeTTS`
                said if left out.
            latency: Time that a transcription takes.
            seed: Makes the latencies repeat.

        Raises:
            InvalidConfigError: There is no transcript, or one is no string.
        """
        super().__init__(latency, seed)
        self._script = (
            None if transcripts is None else _script("FakeSTT", "transcripts", transcripts)
        )

    async def transcribe(self, audio: Audio) -> str:
        """What is said in `audio`; empty for silence.

        Raises:
            UnintelligibleAudioError: There is no script, and `audio` is not from `FakeTTS`.
        """
        self.calls += 1
        transcript = next(self._script) if self._script is not None else text_of_speech(audio)
        await self._take(self._latency)
        return transcript


class FakeTTS(_Fake):
    """Text to speech whose sound holds the text, so that `FakeSTT` can give it back."""

    def __init__(self, *, latency: LatencyProfile = INSTANT, seed: int | str = 0) -> None:
        """Set up the service.

        Args:
            latency: Time that a synthesis takes, however long the text.
            seed: Makes the latencies repeat.
        """
        super().__init__(latency, seed)

    async def synthesize(self, text: str) -> Audio:
        """`text` as sound: 60 ms for each byte of its UTF-8 form."""
        self.calls += 1
        audio = speech_of_text(text)
        await self._take(self._latency)
        return audio


class FakeSpeaker:
    """A loudspeaker without sound, which takes the time that sound takes.

    Attributes:
        calls: How many calls were begun, cancelled ones included.
        sounding: How many calls are under way.
        heard: What has sounded, to the sample: for each call that ended, the part that was played.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        """Set up the loudspeaker.

        Args:
            scale: What the duration of sound is multiplied by; 0 makes each call return without
                suspending.

        Raises:
            InvalidConfigError: `scale` is negative or not finite.
        """
        require_amount("FakeSpeaker", "scale", scale, "times")
        self.calls = 0
        self.sounding = 0
        self.heard: list[Audio] = []
        self._scale = scale

    async def play(self, audio: Audio) -> None:
        """Take as long as it sounds."""
        self.calls += 1
        self.sounding += 1
        loop = asyncio.get_running_loop()
        began, lasts_s = loop.time(), audio.duration_s * self._scale
        share = 1.0
        try:
            await _sleep_ms(lasts_s * 1000.0)
        except BaseException:
            share = (loop.time() - began) / lasts_s
            raise
        finally:
            self.sounding -= 1
            # Sums of binary fractions of a second miss a sample by less than this rounds away.
            samples = math.floor(round(min(1.0, share) * (len(audio.pcm) // 2), 6))
            self.heard.append(Audio(audio.pcm[: 2 * samples], audio.sample_rate_hz))


class FakeDatabase(_Fake):
    """A database in memory; records are copied on their way in and out."""

    def __init__(
        self,
        records: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        *,
        read: LatencyProfile = INSTANT,
        write: LatencyProfile = INSTANT,
        seed: int | str = 0,
    ) -> None:
        """Set up the store.

        Args:
            records: What it holds at first: records by key, by collection.
            read: Time that `get` takes.
            write: Time that `put` takes; the record is stored at its end, so that a cancelled
                `put` changes nothing.
            seed: Makes the latencies repeat.
        """
        super().__init__(read, seed)
        self._write = write
        self._records: dict[tuple[str, str], Mapping[str, Any]] = {
            (collection, key): copy.deepcopy(record)
            for collection, by_key in (records or {}).items()
            for key, record in by_key.items()
        }

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        """A copy of the record, or None if there is none."""
        self.calls += 1
        await self._take(self._latency)
        return copy.deepcopy(self._records.get((collection, key)))

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        """Store a copy of the record, as it is now, in place of an earlier one."""
        self.calls += 1
        copied = copy.deepcopy(record)
        await self._take(self._write)
        self._records[collection, key] = copied


# ── text as sound ───────────────────────────────────────────────────────────────────────────


def _frame(byte: int) -> bytes:
    amplitude = (byte + 1) * _AMPLITUDE_STEP
    high, low = struct.pack("<h", amplitude), struct.pack("<h", -amplitude)
    return (high * _HALF_PERIOD_SAMPLES + low * _HALF_PERIOD_SAMPLES) * _PERIODS_PER_BYTE


def speech_of_text(text: str) -> Audio:
    """`text` as `FakeTTS` says it."""
    frames = map(_frame, text.encode("utf-8", "surrogatepass"))
    return Audio(b"".join(frames), _SAMPLE_RATE_HZ)


def text_of_speech(audio: Audio) -> str:
    """What `FakeTTS` said; empty for silence.

    Raises:
        UnintelligibleAudioError: It was not `FakeTTS` who said it.
    """
    try:
        return _bytes_of_speech(audio.pcm).decode("utf-8", "surrogatepass")
    except ValueError as error:
        raise UnintelligibleAudioError(
            f"FakeSTT without a script understands only what FakeTTS says, and this is not it"
            f" ({len(audio.pcm)} bytes of PCM); give it transcripts=[…]"
        ) from error


def _bytes_of_speech(pcm: bytes) -> bytes:
    if not pcm.strip(b"\0"):
        return b""
    encoded = bytearray()
    for start in range(0, len(pcm), _BYTES_PER_FRAME):
        frame = pcm[start : start + _BYTES_PER_FRAME]
        amplitude = int.from_bytes(frame[:2], "little", signed=True)
        byte = amplitude // _AMPLITUDE_STEP - 1
        if not 0 <= byte < 256 or frame != _frame(byte):
            raise ValueError(f"foreign sound at byte {start}")
        encoded.append(byte)
    return bytes(encoded)
