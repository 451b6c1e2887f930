"""Providers of this machine for the tests: one model, started once, and spoken questions."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from stageflow import Audio
from stageflow.providers.local import speak


@cache
def spoken(text: str, voice: str = "en-us+f2") -> Audio:
    """`text` as eSpeak NG says it, with half a second of silence around."""
    pcm = bytearray()

    def heard(chunk: bytes) -> bool:
        pcm.extend(chunk)
        return True

    rate_hz = speak(text, voice, 150, 50, heard)
    silence = bytes(rate_hz)
    return Audio(silence + bytes(pcm) + silence, rate_hz)


def is_running(pid: int) -> bool:
    """Return whether the process exists, and is not a mere entry that nobody has read."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
