"""Sound in WAV files: read into what the ports take, and written; see `read_wav`.

The standard library reads the container; what it does not read (floating point, compression) is
refused. Only a change of the sample rate needs a library, soxr, which comes with the extra
``local``.
"""

from __future__ import annotations

import io
import os
import sys
import wave
from array import array
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from stageflow.errors import ErrorCategory, ProviderError
from stageflow.providers.extras import required
from stageflow.providers.ports import Audio

#: A turn is an utterance, not a recording of a meeting.
MAX_DURATION_S = 600.0
#: A share of samples at full scale that no speech has unless it was recorded too loud.
MAX_CLIPPED = 0.1

_MEND = "convert it, for instance with ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"
_FULL_SCALE = 32_767
# Ten minutes of stereo with 24 bits at 48 kHz, and some room.
_MAX_BYTES = 256 * 1024 * 1024
# A length from here up is what a program writes that does not know it yet.
_UNKNOWN_BYTES = 0x7FFF_0000
_SIGNED = bytes((value - 128) % 256 for value in range(256))


class InvalidAudioError(ProviderError):
    """A file of sound that cannot be used; the text says where, what is wrong, and the mend."""

    code = "invalid_audio"

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")


class NotWavError(InvalidAudioError):
    """It is no WAV file, or one that breaks off."""

    code = "not_wav"


class UnsupportedWavError(InvalidAudioError):
    """It is a WAV file of a kind that is not read: compressed, or of floating-point samples."""

    code = "unsupported_wav"


class EmptyAudioError(InvalidAudioError):
    """It holds no sample."""

    code = "empty_audio"


class AudioTooLongError(InvalidAudioError):
    """It sounds longer than the limit.

    Attributes:
        max_duration_s: The limit in seconds.
    """

    code = "audio_too_long"
    user_message = "That is more than I can listen to at once. Please keep it shorter."

    def __init__(self, where: str, max_duration_s: float) -> None:
        super().__init__(
            where, f"it sounds longer than {max_duration_s:g} s, the limit; give it in parts"
        )
        self.max_duration_s = max_duration_s


class ClippedAudioError(InvalidAudioError):
    """It was recorded too loud: its peaks are cut off.

    Attributes:
        clipped: Share of the samples at full scale, 0 to 1.
    """

    code = "clipped_audio"
    user_message = "That was too loud for me to understand. Please say it again, a little softer."

    def __init__(self, where: str, clipped: float) -> None:
        super().__init__(
            where,
            f"{clipped:.0%} of its samples are at full scale, so its peaks are cut off; record it"
            " again with less gain",
        )
        self.clipped = clipped


class AudioFileError(InvalidAudioError):
    """The file cannot be opened or written."""

    code = "audio_file"
    category = ErrorCategory.SYSTEMIC


# ── reading ─────────────────────────────────────────────────────────────────────────────────


def read_wav(
    source: str | Path | BinaryIO,
    *,
    sample_rate_hz: int | None = None,
    max_duration_s: float = MAX_DURATION_S,
) -> Audio:
    """The sound of a WAV file as the ports take it: mono, 16 bits.

    Samples of 8, 24 and 32 bits are brought to 16; several channels are mixed down.

    Args:
        source: A path, or an open binary file, which is read to its end.
        sample_rate_hz: Change the rate to this one, in samples a second; None keeps the file's.
        max_duration_s: The limit, in seconds.

    Raises:
        AudioFileError: The file cannot be read.
        NotWavError: It is no WAV file.
        UnsupportedWavError: Its samples are compressed or floating-point.
        EmptyAudioError: It holds no sample.
        AudioTooLongError: It is longer than the limit.
        ClippedAudioError: More than `MAX_CLIPPED` of it is at full scale.
        MissingExtraError: The rate has to be changed, and soxr is not installed.
    """
    where = str(getattr(source, "name", source)) if not isinstance(source, Path) else str(source)
    audio = wav_audio(_content(source, where, max_duration_s), where, max_duration_s=max_duration_s)
    clipped = _clipped(audio.pcm)
    if clipped > MAX_CLIPPED:
        raise ClippedAudioError(where, clipped)
    return audio if sample_rate_hz is None else resampled(audio, sample_rate_hz)


def _content(source: str | Path | BinaryIO, where: str, max_duration_s: float) -> bytes:
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        else:
            content = source.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise AudioFileError(where, f"it cannot be read ({reason})") from error
    if len(content) > _MAX_BYTES:
        raise AudioTooLongError(where, max_duration_s)
    return content


def wav_audio(
    content: bytes, where: str = "the WAV", *, max_duration_s: float = MAX_DURATION_S
) -> Audio:
    """The bytes of a WAV file as sound; `where` is what errors call it. Raises as `read_wav`."""
    if not content:
        raise EmptyAudioError(where, "it holds nothing, not even a header; give a WAV file")
    try:
        with wave.open(io.BytesIO(content)) as file:
            return _samples(file, content, where, max_duration_s)
    except (wave.Error, EOFError) as error:
        if content[:4] == b"RIFF" and "unknown format" in str(error):
            raise UnsupportedWavError(
                where, f"its samples are no linear PCM ({error}); {_MEND}"
            ) from error
        raise NotWavError(where, f"it is no WAV file ({_reason(error)}); {_MEND}") from error


def _samples(file: wave.Wave_read, content: bytes, where: str, max_duration_s: float) -> Audio:
    channels, width, rate_hz, frames, *_ = file.getparams()
    if not (channels and rate_hz and 1 <= width <= 4):
        raise UnsupportedWavError(
            where, f"{channels} channels of {8 * width} bits at {rate_hz} Hz make no sound; {_MEND}"
        )
    limit = int(max_duration_s * rate_hz)
    read = file.readframes(min(frames, limit + 1))
    size = channels * width
    if len(read) // size > limit:
        raise AudioTooLongError(where, max_duration_s)
    promised = frames * size
    if len(read) < promised < _UNKNOWN_BYTES:
        raise NotWavError(
            where,
            f"it breaks off: its header promises {promised} bytes of sound, and {len(read)} are"
            " there; copy it again",
        )
    read = read[: len(read) - len(read) % size]
    if not read:
        raise EmptyAudioError(where, "it holds a header and no sound; record it again")
    return Audio(_mono(_to_16_bits(read, width), channels), rate_hz)


def _reason(error: Exception) -> str:
    return str(error) or "it ends within its header"


def _to_16_bits(data: bytes, width: int) -> bytes:
    if width == 2:
        return data
    wide = bytearray(2 * (len(data) // width))
    if width == 1:  # the only unsigned one
        wide[1::2] = data.translate(_SIGNED)
    else:
        wide[0::2], wide[1::2] = data[width - 2 :: width], data[width - 1 :: width]
    return bytes(wide)


def _mono(pcm: bytes, channels: int) -> bytes:
    if channels == 1:
        return pcm
    samples = _from_little_endian(pcm)
    lanes = [samples[channel::channels] for channel in range(channels)]
    mixed = array("h", (sum(frame) // channels for frame in zip(*lanes, strict=True)))
    if sys.byteorder == "big":
        mixed.byteswap()
    return mixed.tobytes()


def _from_little_endian(pcm: bytes) -> array[int]:
    samples = array("h", pcm)
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _clipped(pcm: bytes) -> float:
    samples = _from_little_endian(pcm)
    at_full_scale = samples.count(_FULL_SCALE) + samples.count(-_FULL_SCALE - 1)
    return at_full_scale / len(samples)


def resampled(audio: Audio, sample_rate_hz: int) -> Audio:
    """The same sound at another rate, in samples a second; itself if it has that rate.

    Raises:
        MissingExtraError: soxr is not installed.
    """
    if audio.sample_rate_hz == sample_rate_hz:
        return audio
    purpose = f"changing a sample rate from {audio.sample_rate_hz} to {sample_rate_hz} Hz"
    soxr = required("soxr", "local", purpose)
    numpy = required("numpy", "local", purpose)
    samples = numpy.frombuffer(audio.pcm, dtype="<i2")
    changed = soxr.resample(samples, audio.sample_rate_hz, sample_rate_hz)
    return Audio(changed.astype("<i2").tobytes(), sample_rate_hz)


# ── writing ─────────────────────────────────────────────────────────────────────────────────


def wav_bytes(audio: Audio) -> bytes:
    """The sound as the bytes of a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.sample_rate_hz)
        file.writeframes(audio.pcm)
    return buffer.getvalue()


def write_wav(path: str | Path, audio: Audio) -> None:
    """Write the sound as a WAV file; whoever looks finds the earlier file or the whole new one.

    Raises:
        AudioFileError: It cannot be written; what was there is still there.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_bytes(wav_bytes(audio))
        partial.replace(target)
    except OSError as error:
        raise AudioFileError(str(path), f"it cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):  # a folder that is not there holds no part either
            partial.unlink(missing_ok=True)
