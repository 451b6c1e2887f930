"""Providers of this machine for the tests: one model, started once, and spoken questions."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from stageflow import Audio


@cache
def spoken(text: str, voice: str = "en-us+f2") -> Audio:
    """`text` as eSpeak NG says it, with half a second of silence around.

    In a process of its own: the sound depends on all that the library has said before in this one.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SPEAK, text, voice], capture_output=True, check=True
    )
    rate, _, pcm = done.stdout.partition(b"\n")
    silence = bytes(int(rate))
    return Audio(silence + pcm + silence, int(rate))


_SPEAK = """
import sys
from stageflow.providers.local import speak
pcm = []
rate_hz = speak(sys.argv[1], sys.argv[2], 150, 50, lambda chunk: not pcm.append(chunk))
sys.stdout.buffer.write(b"%d\\n" % rate_hz + b"".join(pcm))
"""


def is_running(pid: int) -> bool:
    """Return whether the process exists, and is not a mere entry that nobody has read."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
