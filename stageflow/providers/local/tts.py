"""Text to speech on this machine, by eSpeak NG, which knows a hundred languages."""

from __future__ import annotations

from stageflow.closing import AsyncClosing
from stageflow.errors import InvalidConfigError
from stageflow.providers.audio import MAX_DURATION_S, AudioTooLongError
from stageflow.providers.local.espeak import speak
from stageflow.providers.local.lane import Lane, Stop
from stageflow.providers.ports import Audio

# What has no sound (an emoji, a dash) is spoken as a short silence: 16-bit samples of 0.1 s.
_SILENCE_S = 0.1


class EspeakTTS(AsyncClosing):
    """Speaks."""

    def __init__(
        self,
        voice: str = "en-us",
        *,
        words_per_minute: int = 150,
        pitch: int = 50,
        max_duration_s: float = MAX_DURATION_S,
    ) -> None:
        """Choose the voice; nothing is loaded before the first call.

        Args:
            voice: Name of a voice of eSpeak NG, such as ``en-us``, ``en-us+f2`` or ``de``.
            words_per_minute: How fast, 80 to 450.
            pitch: How high, 0 to 99.
            max_duration_s: The longest sound, in seconds.

        Raises:
            InvalidConfigError: Speed or pitch is beyond its bounds.
        """
        for field, value, bounds in (
            ("words_per_minute", words_per_minute, range(80, 451)),
            ("pitch", pitch, range(100)),
        ):
            if value not in bounds:
                mend = f"give a whole number from {bounds.start} to {bounds.stop - 1}"
                raise InvalidConfigError("EspeakTTS", field, value, mend)
        self._voice = voice
        self._words_per_minute = words_per_minute
        self._pitch = pitch
        self._max_duration_s = max_duration_s
        self._lane = Lane("text to speech")

    async def synthesize(self, text: str) -> Audio:
        """`text` as sound; a caller that is cancelled stops the speaker within 60 ms of sound.

        Raises:
            AudioTooLongError: It would sound longer than the limit.
            InvalidConfigError: There is no such voice.
            LocalServiceError: The library does not load.
            MissingExtraError: The extra ``local`` is not installed.
            ProviderBusyError: Too many calls wait already.
        """
        return await self._lane.run(lambda stop: self._speak(text, stop))

    def _speak(self, text: str, stop: Stop) -> Audio:
        pcm = bytearray()
        # The rate is known only at the end; no voice has more samples.
        most_bytes = int(2 * 48_000 * self._max_duration_s)

        def heard(chunk: bytes) -> bool:
            pcm.extend(chunk)
            return not stop.asked and len(pcm) <= most_bytes

        rate_hz = speak(text, self._voice, self._words_per_minute, self._pitch, heard)
        if len(pcm) > 2 * rate_hz * self._max_duration_s:
            raise AudioTooLongError("text to speech", self._max_duration_s)
        return Audio(bytes(pcm) or bytes(2 * int(rate_hz * _SILENCE_S)), rate_hz)

    async def close(self) -> None:
        """End the thread."""
        await self._lane.close()
