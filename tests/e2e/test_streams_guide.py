"""What the guide to streams shows is what happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from stageflow.events import log as events
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "streams.md"


def blocks(language: str) -> str:
    """The guide's listings in that language, one after another."""
    text = GUIDE.read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def test_the_examples_print_what_the_guide_says() -> None:
    """They run as they stand, in their order, and print the output below them."""
    done = run_command([sys.executable, "-W", "error", "-c", blocks("python")])
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks("text")


def test_the_guide_tells_all_events_of_a_stream() -> None:
    """Its table has a row for each, in the order in which they come."""
    told = re.findall(
        r"^\| `stage\.<name>\.(\w+)`", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert told == list(events.STREAMING)
