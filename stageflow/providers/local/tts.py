"""Text to speech on this machine, by eSpeak NG, which knows a hundred languages."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from stageflow._utils.closing import AsyncClosing
from stageflow._utils.fork import renew_after_fork
from stageflow.errors import InvalidConfigError, LocalServiceError
from stageflow.providers.audio import MAX_DURATION_S, audio_too_long
from stageflow.providers.extras import required
from stageflow.providers.local.helper import SerialExecutor, Stop
from stageflow.providers.ports import Audio

# A text without sound (an emoji, a dash) becomes a short silence: 16-bit samples of 0.1 s.
_SILENCE_S = 0.1

# Names of espeak-ng/speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _PITCH = 1, 3
_CHUNK_MS = 60
_SEED = ctypes.c_long(1)
_CONTINUE, _ABORT = 0, 1

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class EspeakTTS(AsyncClosing):
    """Text to speech by eSpeak NG.

    Args:
        voice: Name of a voice of eSpeak NG, such as ``en-us``, ``en-us+f2`` or ``de``.
        words_per_minute: How fast, 80 to 450.
        pitch: How high, 0 to 99.
        max_duration_s: The longest sound, in seconds.
    """

    def __init__(
        self,
        voice: str = "en-us",
        *,
        words_per_minute: int = 150,
        pitch: int = 50,
        max_duration_s: float = MAX_DURATION_S,
    ) -> None:
        for field, value, bounds in (
            ("words_per_minute", words_per_minute, range(80, 451)),
            ("pitch", pitch, range(100)),
        ):
            if value not in bounds:
                fix = f"give a whole number from {bounds.start} to {bounds.stop - 1}"
                raise InvalidConfigError("EspeakTTS", field, value, fix)
        self._how = voice, words_per_minute, pitch
        self._max_duration_s = max_duration_s
        self._executor = SerialExecutor("text to speech")

    async def synthesize(self, text: str) -> Audio:
        """Return `text` as sound; a cancelled call stops within 60 ms of sound.

        Raises:
            InvalidAudioError: The sound is longer than the limit.
            InvalidConfigError: There is no such voice.
            ProviderError: The library is missing or does not load, or too many calls wait already.
        """
        return await self._executor.run(lambda stop: self._speak(text, stop))

    def _speak(self, text: str, stop: Stop) -> Audio:
        pcm = bytearray()
        # The rate is known only at the end; no voice has more samples.
        most_bytes = int(2 * 48_000 * self._max_duration_s)

        def heard(chunk: bytes) -> bool:
            pcm.extend(chunk)
            return not stop.asked and len(pcm) <= most_bytes

        rate_hz = speak(text, *self._how, heard)
        if len(pcm) > 2 * rate_hz * self._max_duration_s:
            raise audio_too_long("text to speech", self._max_duration_s)
        return Audio(bytes(pcm) or bytes(2 * int(rate_hz * _SILENCE_S)), rate_hz)

    async def close(self) -> None:
        """End the thread."""
        await self._executor.close()


class _Lock:
    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make a new lock: a thread of the parent may hold the old one."""
        self.lock = threading.Lock()


_speaking = _Lock()


@cache
def _library() -> tuple[Any, int]:
    wheel = required("espeakng_loader", "local", "text to speech")
    try:
        library = ctypes.CDLL(wheel.get_library_path())
    except OSError as error:
        raise LocalServiceError("eSpeak NG", f"does not load ({error})") from error
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
        ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    rate_hz = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, _CHUNK_MS, wheel.get_data_path().encode(), 0
    )
    if rate_hz <= 0:
        raise LocalServiceError("eSpeak NG", f"does not find its data ({rate_hz})")
    return library, rate_hz


def speak(
    text: str, voice: str, words_per_minute: int, pitch: int, heard: Callable[[bytes], bool]
) -> int:
    """Speak a text in this thread, one at a time; return the samples a second, as `EspeakTTS`.

    `heard` receives each 60 ms of 16-bit PCM, and stops the speech by returning false.
    """

    def pass_on(samples: Any, count: int, _events: Any) -> int:
        if not samples or not count:
            return _CONTINUE
        return _CONTINUE if heard(ctypes.string_at(samples, 2 * count)) else _ABORT

    encoded = text.replace("\0", " ").encode("utf-8", "replace")
    callback = _Callback(pass_on)
    with _speaking.lock:
        library, rate_hz = _library()
        if library.espeak_SetVoiceByName(voice.encode()):
            fix = "name one that eSpeak NG has, such as 'en-us' or 'de'"
            raise InvalidConfigError("EspeakTTS", "voice", voice, fix)
        # Voices contain noise; with a seed, the same texts in the same order sound the same.
        library.espeak_ng_SetRandSeed(_SEED)
        library.espeak_SetParameter(_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetSynthCallback(callback)
        library.espeak_Synth(
            encoded, len(encoded) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
    return rate_hz
