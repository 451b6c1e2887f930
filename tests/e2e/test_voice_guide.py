"""The listings of the guides on voice work, and their picture shows the kernel as it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from stageflow.kernels import streaming_voice
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "voice.md"
TEXT = GUIDE.read_text("utf-8") + GUIDE.with_name("barge-in.md").read_text("utf-8")
LISTINGS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))


def test_each_listing_has_a_name() -> None:
    """So that none is left out here."""
    assert len(LISTINGS) == TEXT.count("```python\n") == 3


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        # "You said: Good morning. " and "How are you?", each byte 60 ms.
        ("speaker", r"1\.44 s\n0\.72 s\nYou said: Good morning\. How are you\?\n"),
        # At least the nine characters of its first two words; a busy machine may hear more.
        ("barge_in", r"You said:[\w .:]* True\n"),
        ("limiter", r"turn_replaced\nYou said: Stop\..*\n"),
    ],
)
def test_a_listing_works(name: str, printed: str) -> None:
    """As it stands, without a warning, and prints what it is to print."""
    done = run_command([sys.executable, "-W", "error", "-c", LISTINGS[name]])
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(printed, done.stdout), done.stdout


def test_the_picture_shows_each_stage() -> None:
    """It is a timeline of this kernel, with a row for each of its stages."""
    (path,) = re.findall(r"\]\((\.\./images/streaming-[\w-]+\.svg)\)", TEXT)
    drawn = (GUIDE.parent / path).read_text(encoding="utf-8")
    assert "streaming_voice: completed" in drawn
    rows = set(re.findall(r">[✓ ]*([a-z]+)</text>", drawn))
    assert {spec.name for spec in streaming_voice().stages} <= rows


def test_the_drawn_flow_is_that_of_the_graph() -> None:
    """Each stage and each stream, in the order in which the turn goes."""
    (flow,) = re.findall(r"^```text\n(.*?)\n```$", TEXT, re.DOTALL | re.MULTILINE)
    graph = streaming_voice().build()
    words = re.findall(r"\w+", flow)
    assert [word for word in words if word not in graph.streams] == list(graph.topological_order())
    assert [word for word in words if word in graph.streams] == ["sentences", "sound"]
