"""Read WAV files as the sound that the ports take, write them, and change sample rates."""

from __future__ import annotations

import io
import math
import re
import struct
import sys
import wave
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from stageflow._utils.files import atomic_write
from stageflow.errors import InvalidAudioError, ProviderError
from stageflow.providers.extras import required
from stageflow.providers.ports import Audio

N = TypeVar("N", int, float)

#: An utterance is shorter.
MAX_DURATION_S = 600.0
#: The largest share of samples at full scale. Speech exceeds it only if it was recorded too loud.
MAX_CLIPPED = 0.1

_FIX = "convert it, for instance with ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"
_FULL_SCALE = 32_767
# Ten minutes of stereo with 24 bits at 48 kHz, and some room.
_MAX_BYTES = 256 * 1024 * 1024
# Formats of samples; an extensible one names one of the others in its bytes 24 and 25.
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WIDTHS = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}
# Programs that stream write a size from here up, or 0 for the whole file, as they do not know it.
_UNKNOWN_BYTES = 0x7FFF_0000
_SIGNED = bytes((value - 128) % 256 for value in range(256))
_PCM_TYPES = {"audio/pcm", "audio/x-pcm", "audio/l16", "audio/raw", "audio/x-raw"}
_PCM_TYPES |= {"", "application/octet-stream", "binary/octet-stream"}
_CODEC = r"pcm|(?:pcm_?)?s?(?:linear)?-?16(?:le)?|signed(?:-int(?:eger)?)?"
_RATES = ("rate", "samplerate", "samplingrate", "samplefrequency", "frequency", "freq")
#: What parameters of a content type may say; others do not matter.
_PARAMETERS = {
    **dict.fromkeys(_RATES, "[1-9][0-9]{3,5}"),
    **dict.fromkeys(("bits", "bitdepth", "bitspersample"), "16"),
    **dict.fromkeys(("encoding", "codec", "codecs", "format"), _CODEC),
    **dict.fromkeys(("endian", "endianness"), "little.*"),
    **dict.fromkeys(("channels", "ch", "layout"), "1|mono"),
}
#: How MP3, AAC, Ogg, FLAC, MP4, WebM, AMR, AIFF, CAF, AU, WMA and gzip begin, and texts.
_FOREIGN = re.compile(
    rb"(?s)ID3|\xff[\xe2\xe3\xf1-\xf3\xf9-\xfb]|OggS|fLaC|.{4}ftyp|\x1aE\xdf\xa3|#!AMR|FORM|caff|\.snd"
    rb"|0&\xb2u\x8e|\x1f\x8b\x08|\s*[{<][\s\x20-\x7e]{8}|[\s\x20-\x7e]{16}"
)


def audio_too_long(where: str, max_duration_s: float) -> InvalidAudioError:
    """Return the error of sound longer than the limit."""
    problem = f"it is longer than {max_duration_s:g} s, the limit; give it in parts"
    return InvalidAudioError(f"{where}: {problem}", code="audio_too_long")


def read_wav(
    source: str | Path | BinaryIO,
    *,
    sample_rate_hz: int | None = None,
    max_duration_s: float = MAX_DURATION_S,
) -> Audio:
    """Read a WAV file as mono sound of 16 bits.

    Integers of 8, 24 and 32 bits and floating-point samples are converted; channels are mixed.

    Args:
        source: A path, or an open binary file, which is read to its end.
        sample_rate_hz: The rate to convert to; None keeps the file's.
        max_duration_s: The limit, in seconds.

    Raises:
        InvalidAudioError: The code says why: ``audio_file`` (it cannot be read), ``not_wav``,
            ``unsupported_wav`` (its samples are compressed), ``empty_audio``, ``audio_too_long``,
            or ``clipped_audio`` (more than `MAX_CLIPPED` is at full scale).
        ProviderError: The rate must be converted, and soxr is not installed.
    """
    where = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", source))
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        else:
            content = source.read(_MAX_BYTES + 1)
    except OSError as error:
        text = f"{where}: it cannot be read ({error.strerror or error})"
        raise InvalidAudioError(text, code="audio_file") from error
    if len(content) > _MAX_BYTES:
        raise audio_too_long(where, max_duration_s)
    audio = wav_audio(content, where, max_duration_s=max_duration_s)
    samples = _little_endian(array("h", audio.pcm))
    at_full_scale = samples.count(_FULL_SCALE) + samples.count(-_FULL_SCALE - 1)
    clipped = at_full_scale / len(samples)
    if clipped > MAX_CLIPPED:
        problem = f"{clipped:.0%} of its samples are at full scale, so its peaks are cut off"
        text = f"{where}: {problem}; record it again with less gain"
        raise InvalidAudioError(text, code="clipped_audio")
    return audio if sample_rate_hz is None else resampled(audio, sample_rate_hz)


def wav_audio(
    content: bytes, where: str = "the WAV", *, max_duration_s: float = MAX_DURATION_S
) -> Audio:
    """Return the bytes of a WAV file as sound; `where` names it in errors. Raises as `read_wav`."""

    def refused(problem: str, code: str = "not_wav") -> InvalidAudioError:
        return InvalidAudioError(f"{where}: {problem}", code=code)

    if not content:
        raise refused("it is empty; give a WAV file", "empty_audio")
    if content[:4] not in (b"RIFF", b"RF64", b"BW64") or content[8:12] != b"WAVE":
        raise refused(f"it is not a WAV file; {_FIX}")
    chunks = {name: (start, size) for name, start, size in _chunks(content)}
    if b"data" not in chunks or chunks.get(b"fmt ", (0, 0))[1] < 16:
        raise refused(f"it is not a WAV file (it ends within its header); {_FIX}")
    start, _ = chunks[b"fmt "]
    kind, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", content, start)
    if kind == _EXTENSIBLE:
        kind = int.from_bytes(content[start + 24 : start + 26], "little")
    # 24 bits may be the upper ones of four bytes.
    width = max((bits + 7) // 8, frame_bytes // channels if channels else 0)
    if not (channels and rate_hz and width in _WIDTHS.get(kind, ())):
        found = f"{channels} channels of {bits} bits in format {kind:#x} at {rate_hz} Hz"
        raise refused(f"{found} cannot be read; {_FIX}", "unsupported_wav")
    data, missing = _data(content, chunks)
    if missing:
        raise refused(f"it ends {missing} bytes before its header says; copy it again")
    frames, rest = divmod(len(data), channels * width)
    if frames > int(max_duration_s * rate_hz):
        raise audio_too_long(where, max_duration_s)
    if not frames:
        raise refused("it holds a header and no sound; record it again", "empty_audio")
    samples = _mono(_samples(data[: len(data) - rest], kind, width), channels)
    return Audio(_little_endian(samples).tobytes(), rate_hz)


def pcm_rate_hz(content: bytes, content_type: str, default_hz: int) -> int | None:
    """Return the rate of a reply of PCM: 16 bits, one channel. None if it is something else."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    pairs = re.findall(r"([\w-]+)\s*=\s*\"?([\w-]+)", " ".join(parameters))
    given = {re.sub("[^a-z]", "", name): value for name, value in pairs}
    fits = all(re.fullmatch(_PARAMETERS.get(n, ".*"), value) for n, value in given.items())
    if kind not in _PCM_TYPES or _FOREIGN.match(content) or not fits:
        return None
    return next((int(given[name]) for name in _RATES if name in given), default_hz)


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and size of each chunk up to the samples."""
    name, start = b"", 12
    while name != b"data" and start + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, start)
        yield name, start + 8, size
        start += 8 + size
        start += size % 2 and not content[start : start + 1].isalpha()  # some leave padding out


def _data(content: bytes, chunks: Mapping[bytes, tuple[int, int]]) -> tuple[bytes, int]:
    """Return the bytes of the samples, and how many more the header promises."""
    start, promised = chunks[b"data"]
    if content[:4] != b"RIFF" and b"ds64" in chunks:  # it has sizes of 64 bits
        (promised,) = struct.unpack_from("<Q", content, chunks[b"ds64"][0] + 8)
    data, file_bytes = content[start:], int.from_bytes(content[4:8], "little")
    if 0 < promised <= len(data):
        return data[:promised], 0
    if file_bytes + 8 <= start or max(file_bytes, promised) >= _UNKNOWN_BYTES:
        return data, 0
    return data[:promised], promised - len(data[:promised])


def _samples(data: bytes, kind: int, width: int) -> array[int]:
    """Return samples of any width as 16 bits in the byte order of this machine."""
    if kind == _FLOAT:
        floats = _little_endian(array("f" if width == 4 else "d", data))
        # What is not a number is silent.
        scaled = (min(max(32_768.0 * v, -32_768.0), 32_767.0) for v in floats)
        return array("h", (0 if math.isnan(value) else round(value) for value in scaled))
    wide = bytearray(2 * (len(data) // width))
    if width == 1:  # the only unsigned one
        wide[1::2] = data.translate(_SIGNED)
    else:
        wide[0::2], wide[1::2] = data[width - 2 :: width], data[width - 1 :: width]
    return _little_endian(array("h", bytes(wide)))


def _mono(samples: array[int], channels: int) -> array[int]:
    if channels == 1:
        return samples
    lanes = [samples[channel::channels] for channel in range(channels)]
    return array("h", (sum(frame) // channels for frame in zip(*lanes, strict=True)))


def _little_endian(samples: array[N]) -> array[N]:
    """Swap the bytes of samples from or for a file if this machine has to."""
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def resampled(audio: Audio, sample_rate_hz: int) -> Audio:
    """Return the sound at another rate, in Hz; raise `ProviderError` if soxr is missing."""
    if audio.sample_rate_hz == sample_rate_hz:
        return audio
    purpose = f"changing a sample rate from {audio.sample_rate_hz} to {sample_rate_hz} Hz"
    soxr = required("soxr", "local", purpose)
    numpy = required("numpy", "local", purpose)
    samples = numpy.frombuffer(audio.pcm, dtype="<i2")
    changed = soxr.resample(samples, audio.sample_rate_hz, sample_rate_hz)
    return Audio(changed.astype("<i2").tobytes(), sample_rate_hz)


def at_rate(audio: Audio, sample_rate_hz: int) -> Audio:
    """Return `resampled`, or without soxr the interpolated samples: less pure, but intelligible."""
    with suppress(ProviderError):
        return resampled(audio, sample_rate_hz)
    samples = _little_endian(array("h", audio.pcm))
    step, last = audio.sample_rate_hz / sample_rate_hz, len(samples) - 1
    changed = array("h")
    for number in range(int(len(samples) / step)):
        place = int(number * step)
        before, after = samples[place], samples[min(place + 1, last)]
        changed.append(before + round((after - before) * (number * step - place)))
    return Audio(_little_endian(changed).tobytes(), sample_rate_hz)


def wav_bytes(audio: Audio) -> bytes:
    """Return the sound as the bytes of a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, audio.sample_rate_hz, 0, "NONE", ""))
        file.writeframes(audio.pcm)
    return buffer.getvalue()


def write_wav(path: str | Path, audio: Audio) -> None:
    """Write the sound as a WAV file, or leave the earlier file and raise `InvalidAudioError`."""
    try:
        with atomic_write(Path(path)) as file:
            file.buffer.write(wav_bytes(audio))
    except OSError as error:
        text = f"{path}: it cannot be written ({error.strerror})"
        raise InvalidAudioError(text, code="audio_file") from error
