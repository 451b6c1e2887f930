"""``stageflow run --live`` in a real terminal, and where there is none."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.e2e.test_cli_run import environment, python
from tests.utils.terminal import Terminal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
]

STAGES = ["stt", "profile", "memory", "llm", "tts", "speak", "persist"]
#: Two sentences, of which the second sounds for more than a second.
TEXT = "Good morning. This is what is being said here."
TURN = (
    sys.executable, "-m", "stageflow", "run", "voice", "--live", "--text", TEXT, "--scale", "0.6"
)  # fmt: skip


def speaks(screen: str) -> bool:
    """Whether the second sentence is made and the first, or it, still sounds."""
    return "… speak" in screen and "sound: 2" in screen


def terminal(tmp_path: Path, columns: int = 90, lines: int = 24, **variables: str) -> Terminal:
    return Terminal(
        TURN, cwd=tmp_path, environment=environment() | variables, columns=columns, lines=lines
    )


def signs(screen: str) -> dict[str, str]:
    """The sign of each stage, by name, from the rows of a chart."""
    return {name: sign for sign, name in re.findall(r"^(\S) (\w+) +│", screen, re.MULTILINE)}


def test_a_turn_is_drawn_while_it_runs_and_then_its_result(tmp_path: Path) -> None:
    """Each stage has a row that tells how far it is; the result takes the chart's place."""
    with terminal(tmp_path) as shown:
        during = shown.until(speaks)
        code = shown.end()
    assert signs(during) == dict(zip(STAGES, "✓✓✓✓✓…·", strict=True))
    assert re.search(r"^streaming_voice: running, \d", during, re.MULTILINE)
    assert re.search(r"^· persist .* waiting$", during, re.MULTILINE)
    assert re.search(r" ms sentences: 2$", during, re.MULTILINE)
    assert re.search(r"^♪ first sound after \d+ ms$", during, re.MULTILINE)
    assert code == 0
    assert shown.text.startswith(f"You said: {TEXT}\n")
    assert shown.text.count("speak") == 1
    assert "running" not in shown.text


def shape(frame: str) -> list[str]:
    """The lines of a frame without numbers, bars, and the axis, which are another each time."""
    lines = [re.sub(r"│.*│", "│", line) for line in frame.splitlines() if line.strip()]
    return [re.sub(r" +[\d.]+ ms", " N ms", line) for line in lines if not line.startswith("  ")]


def test_the_guide_shows_what_is_drawn(tmp_path: Path) -> None:
    """Its frame has the lines of a frame at that point of that turn."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "voice.md").read_text("utf-8")
    found = re.search(r"^\$ stageflow (run .* --live .*)\n((?s:.*?))\n```", guide, re.MULTILINE)
    assert found is not None
    argv = (sys.executable, "-m", "stageflow", *shlex.split(found[1]))
    with Terminal(argv, cwd=tmp_path, environment=environment(), columns=84) as shown:
        during = shown.until(lambda screen: speaks(screen) and "✓ tts" in screen)
        assert shown.end() == 0
    assert shape(during) == shape(found[2])


@pytest.mark.parametrize("columns", [20, 45])
def test_a_narrow_terminal(columns: int, tmp_path: Path) -> None:
    """Each stage keeps its one line, and a frame takes the place of the one before."""
    with terminal(tmp_path, columns=columns, lines=12) as shown:
        during = shown.until(lambda screen: "… speak" in screen).splitlines()
        assert shown.end() == 0
    rows = [line for line in during if line.strip()]
    assert re.match(r"\S+: runn", rows[0])
    assert [row.split()[1] for row in rows[1:] if row[0] in "✓…·"] == STAGES


def test_a_low_terminal(tmp_path: Path) -> None:
    """Of more stages than lines the last are shown."""
    with terminal(tmp_path, lines=8) as shown:
        during = shown.until(lambda screen: "… speak" in screen)
        assert shown.end() == 0
    assert signs(during).keys() == {"tts", "speak", "persist"}
    assert "… 4 more" in during


def test_an_interrupt_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    """Ctrl-C stops the turn and shows where; the terminal was never put into another state."""
    with terminal(tmp_path) as shown:
        shown.until(speaks)
        shown.press(b"\x03")
        code = shown.end()
    assert code == 130
    assert signs(shown.text)["speak"] == "⊘"
    assert "streaming_voice: cancelled" in shown.text
    assert "Interrupted." in shown.text
    assert "Traceback" not in shown.text
    # Neither a cursor hidden nor a screen switched, and after colours always the default.
    assert b"\x1b[?" not in shown.raw
    assert shown.screen.cursor.attrs.fg == "default"
    assert shown.screen.cursor.x == 0


def test_a_turn_that_fails(tmp_path: Path) -> None:
    """The chart gives way to the result, which says why."""
    argv = (*TURN, "--inject", "tts=error")
    with Terminal(argv, cwd=tmp_path, environment=environment(), lines=40) as shown:
        code = shown.end()
    assert code == 1
    assert "running" not in shown.text
    assert "error: stage 'tts'" in shown.text
    assert b"\x1b[?" not in shown.raw


def test_without_colour_a_line_an_event(tmp_path: Path) -> None:
    """With NO_COLOR a terminal is sent no escape of any kind."""
    with terminal(tmp_path, lines=50, NO_COLOR="1") as shown:
        assert shown.end() == 0
    assert b"\x1b" not in shown.raw
    assert re.search(r"^ +\d+\.\d ms  stt completed in ", shown.text, re.MULTILINE)


def test_without_a_terminal_a_line_an_event_in_their_order(tmp_path: Path) -> None:
    """Each event of the run has its line, the first sound is marked once, and no escape is sent."""
    done = python(*TURN[1:], "--scale", "0", "--events", "events.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if re.match(r" *\d+\.\d ms  ", line)]
    kept = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    who = [event["stage"] or event["data"].get("pipeline", "pipeline") for event in kept]
    assert [line.split()[2] for line in lines] == who
    (sound,) = [line for line in lines if "♪" in line]
    assert "tts first_audio" in sound
    assert "\x1b" not in done.stdout


def test_with_json_the_lines_stand_aside(tmp_path: Path) -> None:
    """The standard output is the result alone."""
    done = python(*TURN[1:], "--scale", "0", "--json", cwd=tmp_path)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert len(done.stderr.splitlines()) == len(result["events"])
    assert done.stderr.splitlines()[0].endswith("streaming_voice started")
