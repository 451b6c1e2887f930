"""What the guide to streams shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from stageflow import events

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "streams.md"


def block(language: str) -> str:
    """The guide's one listing in that language."""
    text = GUIDE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_example_prints_what_the_guide_says() -> None:
    """The example runs as it stands and prints the output below it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block("python")],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == block("text")


def test_the_guide_tells_all_events_of_a_stream() -> None:
    """Its table has a row for each, in the order in which they come."""
    told = re.findall(
        r"^\| `stage\.<name>\.(\w+)`", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert told == list(events.STREAMING)
