"""eSpeak NG by ctypes: one voice at a time, as the library keeps its state for the process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from stageflow.errors import InvalidConfigError
from stageflow.providers.extras import required
from stageflow.providers.local.helper import LocalServiceError

# Names of espeak-ng/speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _PITCH = 1, 3
_CHUNK_MS = 60
_SEED = ctypes.c_long(1)
_GO_ON, _ABORT = 0, 1

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_lock = threading.Lock()
_loaded: tuple[Any, int] | None = None


def speak(
    text: str, voice: str, words_per_minute: int, pitch: int, heard: Callable[[bytes], bool]
) -> int:
    """Speak; blocks until all is spoken, and for as long as another thread speaks.

    Args:
        text: What to say.
        voice: Name of a voice, such as ``en-us``.
        words_per_minute: How fast, 80 to 450.
        pitch: How high, 0 to 99.
        heard: Called with each 60 ms of 16-bit PCM; false stops.

    Returns:
        Samples a second of what was heard.

    Raises:
        InvalidConfigError: There is no such voice.
        LocalServiceError: The library does not load.
        MissingExtraError: The extra ``local`` is not installed.
    """

    def pass_on(samples: Any, count: int, _events: Any) -> int:
        if not samples or not count:
            return _GO_ON
        return _GO_ON if heard(ctypes.string_at(samples, 2 * count)) else _ABORT

    said = text.replace("\0", " ").encode("utf-8", "replace")
    callback = _Callback(pass_on)
    with _lock:
        library, rate_hz = _library()
        if library.espeak_SetVoiceByName(voice.encode()):
            raise InvalidConfigError(
                "EspeakTTS", "voice", voice, "name one that eSpeak NG has, such as 'en-us' or 'de'"
            )
        # Its voices hold noise; drawn from a seed, the same texts in the same order sound the same.
        library.espeak_ng_SetRandSeed(_SEED)
        library.espeak_SetParameter(_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetSynthCallback(callback)
        library.espeak_Synth(said, len(said) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
    return rate_hz


def _library() -> tuple[Any, int]:
    global _loaded  # noqa: PLW0603 - as the library itself, one for the process
    if _loaded is None:
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
        _loaded = library, rate_hz
    return _loaded
