"""Deterministic providers for tests, benchmarks and demonstrations.

The answer of a fake depends only on its arguments. Its latency, a `LatencyProfile` on the event
loop's clock, repeats for a seed; a simulation draws it from its own. ``calls`` counts all calls.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import math
import random
import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

from stageflow._utils.checks import is_async
from stageflow.errors import InvalidAudioError, InvalidConfigError, Portable
from stageflow.providers import ports

_Z99 = NormalDist().inv_cdf(0.99)

# A byte of text becomes 60 ms of a 200 Hz square wave at 16 kHz, and sets its amplitude.
_SAMPLE_RATE_HZ = 16_000
_HALF_PERIOD_SAMPLES = 40
_PERIODS_PER_BYTE = 12
_BYTES_PER_FRAME = 2 * (2 * _HALF_PERIOD_SAMPLES) * _PERIODS_PER_BYTE
_AMPLITUDE_STEP = 100

_PIECES = re.compile(r"\S+\s*|^\s+")


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """A lognormal distribution of latencies, given by its P50 and its P99, in milliseconds.

    Equal percentiles give a fixed latency; 0 does not suspend. If no distribution has these
    percentiles, it raises `InvalidConfigError`.
    """

    p50_ms: float
    p99_ms: float

    def __post_init__(self) -> None:
        for field in ("p50_ms", "p99_ms"):
            require_amount("LatencyProfile", field, getattr(self, field), "milliseconds")
        if self.p99_ms < self.p50_ms:
            fix = f"it cannot be below p50_ms, {self.p50_ms!r}; swap them?"
            raise InvalidConfigError("LatencyProfile", "p99_ms", self.p99_ms, fix)
        if self.p50_ms == 0 < self.p99_ms:
            fix = "a lognormal latency is never 0; give a positive P50, or 0 for both percentiles"
            raise InvalidConfigError("LatencyProfile", "p50_ms", self.p50_ms, fix)

    @classmethod
    def fixed(cls, latency_ms: float) -> Self:
        """Return a profile in which every call takes `latency_ms` milliseconds."""
        require_amount("LatencyProfile", "latency_ms", latency_ms, "milliseconds")
        return cls(latency_ms, latency_ms)

    @classmethod
    def percentiles(cls, *, p50_ms: float, p99_ms: float) -> Self:
        """Return a profile with these percentiles, in milliseconds."""
        return cls(p50_ms, p99_ms)

    @property
    def sigma(self) -> float:
        """Standard deviation of the latency's natural logarithm; 0 for a fixed latency."""
        if self.p99_ms == self.p50_ms:
            return 0.0
        return (math.log(self.p99_ms) - math.log(self.p50_ms)) / _Z99

    def sample_ms(self, source: random.Random) -> float:
        """Draw a latency in milliseconds; a fixed one draws nothing from `source`."""
        sigma = self.sigma
        if not sigma:
            return self.p50_ms
        return self.p50_ms * math.exp(sigma * source.gauss(0.0, 1.0))

    def scaled(self, factor: float) -> LatencyProfile:
        """Return the distribution with every latency multiplied by `factor`, 0 or more."""
        require_amount("LatencyProfile", "factor", factor, "times")
        return LatencyProfile(self.p50_ms * factor, self.p99_ms * factor)


def require_amount(owner: str, field: str, found: object, unit: str) -> None:
    """Raise `InvalidConfigError` unless it is a finite number of at least 0."""
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not 0 <= found < math.inf:  # type: ignore[operator]
        raise InvalidConfigError(owner, field, found, f"give a finite number of {unit}, 0 or more")


INSTANT = LatencyProfile(0.0, 0.0)
"""Every call returns at once, without suspending."""


class _Fake:
    def __init__(self, latency: LatencyProfile, seed: int | str) -> None:
        self.calls = 0
        self._latency = latency
        # Fakes of different kinds with one seed must not be slow at the same calls.
        self._random = random.Random(f"{type(self).__name__}/{seed}")

    async def _take(self, latency: LatencyProfile) -> None:
        await _sleep_ms(latency.sample_ms(self._chance()))

    def _chance(self) -> random.Random:
        # A simulation that draws times has its own source.
        drawn: random.Random | None = getattr(asyncio._get_running_loop(), "chance", None)
        return self._random if drawn is None else drawn


async def _sleep_ms(duration_ms: float) -> None:
    if duration_ms > 0:
        await asyncio.sleep(duration_ms / 1000.0)


class FakeRefusal(Portable, Exception):  # noqa: N818 - what a service answers
    """A request that a fake refuses with an HTTP status, as a service does."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(f"{status_code}: {message}")
        self.status_code = status_code


def _script(owner: str, field: str, texts: str | Sequence[str]) -> Iterator[str]:
    lines = (texts,) if isinstance(texts, str) else tuple(texts)
    if not lines or not all(isinstance(line, str) for line in lines):
        raise InvalidConfigError(owner, field, texts, "give at least one string")
    return itertools.cycle(lines)


def calling(tool: str, /, **arguments: Any) -> ports.Answer:
    """Return an answer for the script of a `FakeLLM`: a call of a tool with these arguments."""
    call = ports.ToolCall(f"call_{tool}", tool, json.dumps(arguments))
    return ports.Answer("", "tool_calls", tool_calls=(call,))


def echo(messages: Sequence[ports.Message]) -> str:
    """Answer with the user's newest message and the one before."""
    said = [message.content for message in messages if message.role == "user"]
    if not said:
        return "You have said nothing yet."
    answer = f"You said: {said[-1]}"
    return answer if len(said) == 1 else f"{answer} (Before that: {said[-2]})"


class FakeLLM(_Fake):
    """A language model that echoes, or follows a script; it may call tools: see `calling`.

    Args:
        answers: One answer, several in turn, or a function of the conversation.
        latency: Time until the answer is complete, whether streamed or not.
        first_piece: Time until the first piece of a stream; the others follow at equal distances.
        context_tokens: The tokens that it takes (`estimated_tokens`); it refuses a longer
            conversation with a `FakeRefusal`. None takes any.
    """

    def __init__(
        self,
        answers: str | Sequence[str] | Callable[[Sequence[ports.Message]], str] = echo,
        *,
        latency: LatencyProfile = INSTANT,
        first_piece: LatencyProfile | None = None,
        context_tokens: int | None = None,
        seed: int | str = 0,
    ) -> None:
        super().__init__(latency, seed)
        self.context_tokens = context_tokens
        self._first_piece = first_piece
        if is_async(answers):
            raise InvalidConfigError("FakeLLM", "answers", answers, "give a plain function")
        if callable(answers):
            self._answer = answers
        else:
            script = _script("FakeLLM", "answers", answers)
            self._answer = lambda _messages: next(script)

    # Subclasses may take less: what is given besides the conversation, such as tools, is ignored.
    async def complete(self, messages: Sequence[ports.Message], *args: Any, **options: Any) -> str:
        """Return the whole answer."""
        answer = self._begin(messages)
        await self._take(self._latency)
        return answer

    async def stream(
        self, messages: Sequence[ports.Message], *args: Any, **options: Any
    ) -> AsyncIterator[str]:
        """Yield the answer word by word, each with the white space behind it."""
        answer = self._begin(messages)
        pieces: list[str] = _PIECES.findall(answer)
        whole_ms = self._latency.sample_ms(self._chance())
        for delay_ms, piece in zip(self._delays_ms(whole_ms, len(pieces)), pieces, strict=True):
            await _sleep_ms(delay_ms)
            yield piece
        if not pieces:
            await _sleep_ms(whole_ms)
        if isinstance(answer, ports.Answer):
            yield answer.with_text("")

    def _begin(self, messages: Sequence[ports.Message]) -> str:
        self.calls += 1
        if self.context_tokens is not None:
            tokens = sum(ports.estimated_tokens(message.content) for message in messages)
            if tokens > self.context_tokens:
                raise FakeRefusal(413, f"{tokens} tokens are more than {self.context_tokens}")
        return self._answer(messages)

    def _delays_ms(self, whole_ms: float, count: int) -> list[float]:
        if self._first_piece is None or count < 2:
            return [whole_ms / count] * count if count else []
        first_ms = min(whole_ms, self._first_piece.sample_ms(self._chance()))
        return [first_ms, *[(whole_ms - first_ms) / (count - 1)] * (count - 1)]


class FakeSTT(_Fake):
    """Speech to text: the `transcripts` (one or more) in turn, or what `FakeTTS` said."""

    def __init__(
        self,
        transcripts: str | Sequence[str] | None = None,
        *,
        latency: LatencyProfile = INSTANT,
        seed: int | str = 0,
    ) -> None:
        super().__init__(latency, seed)
        self._script: Iterator[str] | None = None
        if transcripts is not None:
            self._script = _script("FakeSTT", "transcripts", transcripts)

    async def transcribe(self, audio: ports.Audio) -> str:
        """Return what is said in `audio`; raise `InvalidAudioError` as `text_of_speech`."""
        self.calls += 1
        transcript = next(self._script) if self._script is not None else text_of_speech(audio)
        await self._take(self._latency)
        return transcript


class FakeTTS(_Fake):
    """Text to speech whose sound encodes the text, so that `FakeSTT` can decode it.

    With `refuse_unspeakable`, a text without a letter or digit raises a `FakeRefusal`.
    """

    def __init__(
        self,
        *,
        latency: LatencyProfile = INSTANT,
        refuse_unspeakable: bool = False,
        seed: int | str = 0,
    ) -> None:
        super().__init__(latency, seed)
        self._refuse_unspeakable = refuse_unspeakable

    async def synthesize(self, text: str) -> ports.Audio:
        """Return `text` as sound: 60 ms for each byte of UTF-8."""
        self.calls += 1
        if self._refuse_unspeakable and not ports.is_speakable(text):
            raise FakeRefusal(400, f"nothing in {text!r} can be spoken")
        audio = speech_of_text(text)
        await self._take(self._latency)
        return audio


class FakeSpeaker:
    """A silent loudspeaker that takes the time that the sound lasts, multiplied by `scale`.

    A scale of 0 does not suspend. `sounding` counts the calls under way; `heard` holds for each
    call that ended the part of its sound that was played, to the sample.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        require_amount("FakeSpeaker", "scale", scale, "times")
        self.calls = 0
        self.sounding = 0
        self.heard: list[ports.Audio] = []
        self._scale = scale

    async def play(self, audio: ports.Audio) -> None:
        """Take as long as the sound lasts."""
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
            # Rounding removes the errors of binary fractions of a second.
            samples = math.floor(round(min(1.0, share) * (len(audio.pcm) // 2), 6))
            self.heard.append(ports.Audio(audio.pcm[: 2 * samples], audio.sample_rate_hz))


class FakeDatabase(_Fake):
    """A database in memory, which copies records on their way in and out.

    `records` are by collection and key. `read` and `write` are the times of `get` and `put`, which
    stores at its end: if it is cancelled, nothing changes.
    """

    #: No other process writes, so the kernels append by `get` and `put`.
    in_memory = True

    def __init__(
        self,
        records: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        *,
        read: LatencyProfile = INSTANT,
        write: LatencyProfile = INSTANT,
        seed: int | str = 0,
    ) -> None:
        super().__init__(read, seed)
        self._write = write
        self._records: dict[tuple[str, str], Mapping[str, Any]] = {
            (collection, key): copy.deepcopy(record)
            for collection, by_key in (records or {}).items()
            for key, record in by_key.items()
        }

    async def get(self, collection: str, key: str) -> Mapping[str, Any] | None:
        """Return a copy of the record, or None if there is none."""
        self.calls += 1
        ports.require_address(collection, key)
        await self._take(self._latency)
        return copy.deepcopy(self._records.get((collection, key)))

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        """Store a copy of the record as it is now; replace an earlier one."""
        self.calls += 1
        ports.require_address(collection, key)
        copied = copy.deepcopy(record)
        await self._take(self._write)
        self._records[collection, key] = copied

    async def append(
        self, collection: str, key: str, field: str, item: Any, *, keep: int | None = None
    ) -> None:
        """Append by `get` and `put`, one append of a record at a time; see `Database`."""
        await ports.append_by_put(self, (collection, key), field, item, keep, owner=self)


def _frame(byte: int) -> bytes:
    amplitude = (byte + 1) * _AMPLITUDE_STEP
    high, low = struct.pack("<h", amplitude), struct.pack("<h", -amplitude)
    return (high * _HALF_PERIOD_SAMPLES + low * _HALF_PERIOD_SAMPLES) * _PERIODS_PER_BYTE


def speech_of_text(text: str) -> ports.Audio:
    """Return the sound of `FakeTTS` for a text."""
    frames = map(_frame, text.encode("utf-8", "surrogatepass"))
    return ports.Audio(b"".join(frames), _SAMPLE_RATE_HZ)


def text_of_speech(audio: ports.Audio) -> str:
    """Decode the sound of `FakeTTS`, "" for silence; raise `InvalidAudioError` for other sound."""
    pcm, encoded = audio.pcm, bytearray()
    if not pcm.strip(b"\0"):
        return ""
    try:
        for start in range(0, len(pcm), _BYTES_PER_FRAME):
            frame = pcm[start : start + _BYTES_PER_FRAME]
            encoded.append(int.from_bytes(frame[:2], "little", signed=True) // _AMPLITUDE_STEP - 1)
            if frame != _frame(encoded[-1]):
                raise ValueError(f"foreign sound at byte {start}")
        return encoded.decode("utf-8", "surrogatepass")
    except ValueError as error:
        raise InvalidAudioError(
            "FakeSTT without a script understands only the sound of FakeTTS, and this is another"
            f" ({len(pcm)} bytes of PCM); give it transcripts=[…]",
            code="unintelligible_audio",
        ) from error
