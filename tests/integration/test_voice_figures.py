"""How well speech is understood does not get worse, and the rate of errors is counted right."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from stageflow.pulse.dashboard import Figure, figure_runs, load_settings
from stageflow.pulse.history import MACHINE_FIELDS
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tools.voice_figures import record, word_errors

pytestmark = pytest.mark.slow

#: 22 of 57 words, 0.39, was measured of this voice, with the versions that pyproject.toml pins; the
#: room is two words, as another processor may round otherwise.
BAR = 24 / 57


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("turn on the light", "turn on the light", 0),
        ("turn on the light", "", 4),
        ("", "turn on", 2),
        ("turn on the light", "turn the light", 1),
        ("turn on the light", "turn on on the light", 1),
        ("turn on the light", "burn on the light", 1),
        ("turn on the light", "the light turn on", 4),
        ("what is two plus two", "what is too close to", 3),
    ],
)
def test_the_errors_are_the_fewest_that_explain_what_was_heard(
    said: str, heard: str, errors: int
) -> None:
    """Counted by hand: words substituted, left out and added."""
    assert word_errors(said, heard) == errors


def test_figures_are_kept_as_central_pulse_reads_them(tmp_path: Path) -> None:
    """Central Pulse reads them back, with this commit, machine and the wheels that matter."""
    figures = {
        "llm.first_token": Figure.of([80.0, 100.0, 90.0], "ms"),
        "llm.tokens": Figure(50.0, "tokens/s"),
    }
    record(tmp_path / "new" / "voice.jsonl", figures)
    record(tmp_path / "new" / "voice.jsonl", figures)
    panel = load_settings(ROOT / "benchmarks").figures
    assert panel is not None
    (run, again), notes = figure_runs(panel, tmp_path / "new")
    assert (run.figures, again.figures, notes) == (figures, figures, [])
    assert figures["llm.first_token"].value == 90.0
    head = run_command(["git", "show", "--no-patch", "--format=%H", "HEAD"], cwd=ROOT, check=True)
    assert run.commit == head.stdout.strip()
    assert set(run.machine) == set(MACHINE_FIELDS)
    assert run.environment["requirements"]["pocketsphinx"] == version("pocketsphinx")


def heard(stt: str, voices: str) -> tuple[float, str]:
    """The word error rate in a process of its own, and what it heard.

    eSpeak NG remembers what it said: after other tests the questions would sound otherwise.
    """
    code = (
        "import asyncio, json\n"
        "from tools.voice_figures import *\n"
        "async def main():\n"
        f"    async with {stt} as stt:\n"
        f"        rate, _, transcripts = await hearing(stt, {voices})\n"
        "        print(json.dumps([rate, transcripts]))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    rate, transcripts = json.loads(done.stdout)
    return float(rate), str(transcripts)


def test_any_words_are_understood_as_well_as_before() -> None:
    """The word error rate stays below a bar that was measured."""
    rate, transcripts = heard("PocketsphinxSTT()", "VOICES[:1]")
    assert rate <= BAR, transcripts


def test_commands_are_understood_in_every_voice() -> None:
    """Without an error."""
    rate, transcripts = heard("PocketsphinxSTT(grammar_of([*QUESTIONS]))", "VOICES")
    assert rate == 0, transcripts
