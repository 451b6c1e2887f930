"""``stageflow say``: a text as a WAV file, to be asked with."""

from __future__ import annotations

import argparse
import asyncio

from stageflow.cli.options import Commands, described, say
from stageflow.cli.providers import add_voice, check_voice, opened_voice
from stageflow.providers.audio import write_wav
from stageflow.providers.ports import Audio

_EXAMPLES = """\
  stageflow say "What do bees make?" --out question.wav
  stageflow run voice --provider local --in question.wav --out answer.wav
"""


def add_command(commands: Commands) -> None:
    """Add the command ``say``."""
    parser = described(commands, "say", "speak a text into a WAV file", _EXAMPLES)
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--out", required=True, metavar="FILE", help="the WAV file to write")
    add_voice(parser, default="local")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    check_voice(arguments)
    audio = asyncio.run(_spoken(arguments))
    write_wav(arguments.out, audio)
    say(f"{arguments.out}: {audio.duration_s:.1f} s")
    return 0


async def _spoken(arguments: argparse.Namespace) -> Audio:
    async with opened_voice(arguments) as voice:
        return await voice.synthesize(arguments.text)
