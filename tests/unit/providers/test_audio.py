"""Sound in WAV files: what is read, what is refused and why, and how it is written."""

from __future__ import annotations

import io
import math
import os
import struct
import sys
import wave
from array import array
from pathlib import Path

import pytest

from stageflow import Audio
from stageflow._utils.extras import install_command
from stageflow.errors import StageflowError
from stageflow.providers import read_wav, resampled, write_wav
from stageflow.providers.audio import MAX_CLIPPED
from tests.utils.commands import run_command
from tests.utils.errors import raises_code

RATE_HZ = 16_000


def tone(frequency_hz: float, duration_s: float, rate_hz: int = RATE_HZ) -> list[int]:
    """A sine of half the full scale."""
    count = int(duration_s * rate_hz)
    turn = 2 * math.pi * frequency_hz / rate_hz
    return [round(16_000 * math.sin(turn * n)) for n in range(count)]


def header(
    data_bytes: int,
    *,
    channels: int = 1,
    width: int = 2,
    rate_hz: int = RATE_HZ,
    kind: int = 1,
    riff_bytes: int | None = None,
) -> bytes:
    """The 44 bytes before the samples, as the format is written down (not by the library)."""
    block = channels * width
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + data_bytes if riff_bytes is None else riff_bytes,
        b"WAVE",
        b"fmt ",
        16,
        kind,
        channels,
        rate_hz,
        rate_hz * block,
        block,
        8 * width,
        b"data",
        data_bytes,
    )


def wav(samples: bytes, **options: int) -> io.BytesIO:
    return io.BytesIO(header(len(samples), **options) + samples)


def refused(content: bytes, code: str) -> str:
    """The text of the error by which it is refused."""
    with pytest.raises(StageflowError) as raised:
        read_wav(io.BytesIO(content))
    assert raised.value.code == code
    return str(raised.value)


def pcm(*samples: int) -> bytes:
    return struct.pack(f"<{len(samples)}h", *samples)


@pytest.mark.parametrize(
    ("samples", "width", "heard"),
    [
        (bytes([128, 0, 255, 129]), 1, (0, -32768, 32512, 256)),
        (pcm(0, -32768, 32767, 1), 2, (0, -32768, 32767, 1)),
        (b"\x00\x00\x00\x00\x00\x80\xff\xff\x7f\x00\x01\x00", 3, (0, -32768, 32767, 1)),
        (struct.pack("<4i", 0, -(2**31), 2**31 - 1, 65536), 4, (0, -32768, 32767, 1)),
    ],
)
def test_samples_of_any_width_become_16_bits(
    samples: bytes, width: int, heard: tuple[int, ...]
) -> None:
    """Eight bits are unsigned, all others signed; the upper 16 bits stay."""
    quiet = bytes(200) if width > 1 else bytes([128] * 200)
    found = read_wav(wav(samples + quiet[: 48 * width], width=width))
    assert struct.unpack("<4h", found.pcm[:8]) == heard
    assert len(found.pcm) == 2 * (4 + 48)


@pytest.mark.parametrize(
    ("frames", "channels", "heard"),
    [((100, 300, -100, -300), 2, (200, -200)), ((1, 2, 9, -1, -2, -9), 3, (4, -4))],
)
def test_channels_are_mixed_down(
    frames: tuple[int, ...], channels: int, heard: tuple[int, ...]
) -> None:
    """To their mean, sample by sample."""
    assert read_wav(wav(pcm(*frames), channels=channels)).pcm == pcm(*heard)


def test_a_file_and_its_rate(tmp_path: Path) -> None:
    """A file that the standard library wrote is read as it is."""
    path = tmp_path / "tone.wav"
    samples = array("h", tone(440, 0.1, 8_000))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    assert read_wav(path) == read_wav(str(path)) == Audio(samples.tobytes(), 8_000)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF - 44])
@pytest.mark.parametrize("riff_bytes", [0xFFFF_FFFF, 0])
def test_a_length_that_is_not_known_yet(size: int, riff_bytes: int) -> None:
    """A program that streams does not know it: the sound extends to the end of the file."""
    streamed = header(size, riff_bytes=riff_bytes) + pcm(1, 2, 3)
    assert read_wav(io.BytesIO(streamed)).pcm == pcm(1, 2, 3)


def test_a_header_that_was_not_completed() -> None:
    """A program that was stopped leaves a header without sound; the sound follows."""
    assert read_wav(io.BytesIO(header(0, riff_bytes=36) + pcm(1, 2, 3))).pcm == pcm(1, 2, 3)
    with raises_code("empty_audio", match="a header and no sound"):
        read_wav(io.BytesIO(header(0, riff_bytes=48) + b"LIST\x04\0\0\0INFO"))


def test_a_known_length_within_a_file_of_unknown_length() -> None:
    """A chunk behind the samples is not sound."""
    streamed = header(4, riff_bytes=0) + pcm(1, 2) + b"LIST\x04\0\0\0INFO"
    assert read_wav(io.BytesIO(streamed)).pcm == pcm(1, 2)


def extensible(samples: bytes, *, kind: int, width: int) -> io.BytesIO:
    """A WAVE_FORMAT_EXTENSIBLE file, which ffmpeg writes for other samples than 16 bits."""
    guid = struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE_HZ, 0, width, 8 * width, 22, 8 * width, 4)
    body = b"WAVEfmt " + struct.pack("<I", 40) + form + guid
    body += b"LIST\x03\0\0\0odd\0" + b"data" + struct.pack("<I", len(samples)) + samples
    return io.BytesIO(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize(
    ("samples", "kind", "width"),
    [
        (b"\x00\x00\x00\x00\x00\xc0\xff\x00\x40", 1, 3),
        (pcm(0, -16_384, 16_384), 1, 2),
        (struct.pack("<3f", 0.0, -0.5, 0.5), 3, 4),
        (struct.pack("<3d", 0.0, -0.5, 0.5), 3, 8),
    ],
)
def test_extensible_and_floating_point_samples(samples: bytes, kind: int, width: int) -> None:
    """The sub-format of an extensible file, or the format itself, tells what the samples are."""
    heard = pcm(0, -16_384, 16_384)
    assert read_wav(extensible(samples, kind=kind, width=width)).pcm == heard
    assert read_wav(wav(samples, kind=kind, width=width)).pcm == heard


def test_what_is_not_a_number_is_silent() -> None:
    assert read_wav(wav(struct.pack("<2f", math.nan, 0.5), kind=3, width=4)).pcm == pcm(0, 16_384)


def test_24_bits_in_four_bytes() -> None:
    """The size of a frame says how many bytes a sample has."""
    padded = bytearray(wav(struct.pack("<3i", 0, -(1 << 30), 1 << 30), width=4).getvalue())
    padded[34:36] = b"\x18\0"
    assert read_wav(io.BytesIO(padded)).pcm == pcm(0, -16_384, 16_384)


def test_a_chunk_without_its_padding() -> None:
    """Some programs leave the byte out that makes a chunk's size even."""
    plain = wav(pcm(1, 2)).getvalue()
    assert read_wav(io.BytesIO(plain[:36] + b"note\3\0\0\0odd" + plain[36:])).pcm == pcm(1, 2)


@pytest.mark.parametrize("form", [b"RF64", b"BW64"])
def test_a_file_with_sizes_of_64_bits(form: bytes) -> None:
    """The size of the samples is in a chunk of its own; what follows is not sound."""
    plain = header(0xFFFF_FFFF, riff_bytes=0xFFFF_FFFF)
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, 4, 2, 0)
    content = form + plain[4:12] + sizes + plain[12:] + pcm(1, 2) + b"LIST\4\0\0\0INFO"
    assert read_wav(io.BytesIO(content)).pcm == pcm(1, 2)


def test_floating_point_samples_beyond_full_scale_are_clipped() -> None:
    """Any number that is too large becomes the largest sample."""
    samples = struct.pack("<20f", 1.5, math.inf, *[0.0] * 18)
    assert read_wav(wav(samples, kind=3, width=4)).pcm[:4] == pcm(32_767, 32_767)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_another_rate_is_changed(rate_hz: int) -> None:
    """A tone stays the same tone: as long, as high, and (without aliases) as pure."""
    given = wav(pcm(*tone(440, 0.5, rate_hz)), rate_hz=rate_hz)
    found = read_wav(given, sample_rate_hz=RATE_HZ)
    assert found.sample_rate_hz == RATE_HZ
    assert found.duration_s == pytest.approx(0.5, abs=0.001)
    heard = struct.unpack(f"<{len(found.pcm) // 2}h", found.pcm)
    wanted = tone(440, 0.5)
    inner = slice(800, len(heard) - 800)
    assert max(abs(a - b) for a, b in zip(heard[inner], wanted[inner], strict=False)) < 100


def test_what_is_too_high_for_the_new_rate_is_not_heard_as_another_tone() -> None:
    """12 kHz at 44.1 kHz would come back as 4 kHz if samples were only left out."""
    found = resampled(Audio(pcm(*tone(12_000, 0.2, 44_100)), 44_100), RATE_HZ)
    heard = struct.unpack(f"<{len(found.pcm) // 2}h", found.pcm)
    assert max(map(abs, heard[400:-400])) < 100


def test_the_same_rate_is_left_alone() -> None:
    """Nothing is touched, and no library is needed."""
    sound = Audio(pcm(1, 2, 3), RATE_HZ)
    assert resampled(sound, RATE_HZ) is sound


@pytest.mark.parametrize("content", [b"ID3\x04 an mp3", b"RIFF", b"RIFF\x04\x00\x00\x00AVI ", b"x"])
def test_a_file_that_is_not_a_wav(content: bytes) -> None:
    """With the command that makes one of it."""
    assert "ffmpeg" in refused(content, "not_wav")


def test_a_file_that_breaks_off() -> None:
    """The error says how much is missing."""
    text = refused(header(1000) + bytes(10), "not_wav")
    assert "it ends 990 bytes before its header says" in text


@pytest.mark.parametrize("kind", [3, 6, 0x55])
def test_samples_of_another_format(kind: int) -> None:
    """Floating point of 16 bits, A-law and MP3 are refused."""
    assert "ffmpeg" in refused(header(4, kind=kind) + bytes(4), "unsupported_wav")
    form = extensible(bytes(4), kind=kind, width=2).getvalue()
    assert "ffmpeg" in refused(form, "unsupported_wav")


@pytest.mark.parametrize("content", [b"", header(0), header(1) + b"x"])
def test_a_file_without_a_sample(content: bytes) -> None:
    """An empty file, a header alone, and half a sample are refused."""
    refused(content, "empty_audio")


def test_a_recording_of_more_than_ten_minutes() -> None:
    """Is refused by its header's rate, before anything is made of it."""
    text = refused(wav(bytes(2 * 100 * 601), rate_hz=100).getvalue(), "audio_too_long")
    assert "600 s" in text


def test_the_limit_itself_is_allowed() -> None:
    """Ten minutes and no sample more."""
    assert read_wav(wav(bytes(2 * 100 * 600), rate_hz=100)).duration_s == 600
    with raises_code("audio_too_long", match=r"0\.5 s"):
        read_wav(wav(bytes(2 * 51), rate_hz=100), max_duration_s=0.5)


@pytest.mark.parametrize("peak", [32_767, -32_768])
def test_a_recording_with_its_peaks_cut_off(peak: int) -> None:
    """More than a tenth at full scale is refused, a tenth is not."""
    clipped = int(1000 * MAX_CLIPPED)
    assert read_wav(wav(pcm(*[peak] * clipped, *[5] * (1000 - clipped))))
    text = refused(
        wav(pcm(*[peak] * (clipped + 10), *[5] * (990 - clipped))).getvalue(), "clipped_audio"
    )
    assert "11% of its samples" in text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """By its name and the reason."""
    with pytest.raises(StageflowError, match=r"none\.wav: .*No such file") as raised:
        read_wav(tmp_path / "none.wav")
    assert raised.value.code == "audio_file"


def test_another_rate_without_the_library_says_what_to_install() -> None:
    """Everything else works without it."""
    code = (
        "import sys\n"
        "sys.modules['soxr'] = None\n"
        "from stageflow.providers.audio import Audio, resampled, wav_audio, wav_bytes\n"
        "sound = wav_audio(wav_bytes(Audio(bytes(8), 8000)))\n"
        "try:\n    resampled(sound, 16000)\n"
        "except Exception as error:\n    print(error.code, error)\n"
    )
    done = run_command([sys.executable, "-c", code], check=True, env=os.environ)
    assert done.stdout.startswith(
        "missing_extra changing a sample rate from 8000 to 16000 Hz needs"
    )
    assert install_command("local") in done.stdout


def test_what_is_written_is_read_by_others(tmp_path: Path) -> None:
    """The bytes are those of the format, and nothing else is in the folder."""
    path = tmp_path / "out.wav"
    path.write_text("an older file")
    write_wav(path, Audio(pcm(1, -1), 8_000))
    assert path.read_bytes() == header(4, rate_hz=8_000) + pcm(1, -1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    """A folder in its place, and a folder that is not there; no part is left behind."""
    taken = tmp_path / "taken.wav"
    taken.mkdir()
    for path in (taken, tmp_path / "nowhere" / "out.wav"):
        with pytest.raises(StageflowError, match="cannot be written") as raised:
            write_wav(path, Audio(pcm(1)))
        assert raised.value.code == "audio_file"
    assert list(tmp_path.iterdir()) == [taken]
