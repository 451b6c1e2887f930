"""The listings of docs/guides/tools.md work, and a voice user calls a tool and breaks in."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.e2e.test_journeys import script
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "tools.md"
TEXT = GUIDE.read_text(encoding="utf-8")
LISTINGS = {
    name: (code, printed)
    for name, code, printed in re.findall(
        r"^```python\n# (\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?",
        TEXT,
        re.DOTALL | re.MULTILINE,
    )
}


def test_each_listing_has_a_name() -> None:
    assert len(LISTINGS) == TEXT.count("```python\n")


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_prints_what_stands_below_it(name: str) -> None:
    code, printed = LISTINGS[name]
    done = run_command([sys.executable, "-W", "error", "-c", code])
    assert (done.returncode, done.stderr, done.stdout) == (0, "", printed)


VOICE = """\
import asyncio, sys

from stageflow import PipelineContext
from stageflow.kernels import default_providers, streaming_voice
from stageflow.providers import Answer, FakeLLM, FakeTTS, calling, speech_of_text, text_of_speech

began, ended = asyncio.Event(), []


async def find_order(number: str) -> str:
    "Return where an order is."
    began.set()
    try:
        if sys.argv[1] == "breaks in":
            await asyncio.Event().wait()
        return f"{number} is on its way."
    finally:
        ended.append(number)


def model(messages):
    last = messages[-1]
    if last.role == "tool":
        return last.content
    if "never mind" in last.content:
        return "All right."
    call = calling("find_order", number="A7")
    return Answer("One moment.", tool_calls=call.tool_calls)


async def main() -> None:
    providers = default_providers(scale=0)
    providers.register("llm", FakeLLM(model))
    turn = streaming_voice(tools=[find_order])

    def asks(text):
        inputs = {"audio": speech_of_text(text), "user_id": "ada"}
        return PipelineContext(inputs, providers=providers)

    first = asks("Where is order A7?")
    run = asyncio.ensure_future(turn.run(first))
    await began.wait()
    if sys.argv[1] == "breaks in":
        run.cancel()
        await asyncio.wait([run])
        await turn.run(asks("Oh, never mind."))
    await asyncio.wait([run])
    print("".join(text_of_speech(sound) for sound in providers["speaker"].heard))
    print(ended, [e.what for e in first.get_events() if e.what.startswith("tool_")])


asyncio.run(main())
"""


def test_somebody_asks_a_tool_by_voice(tmp_path: Path) -> None:
    """The user hears the model's first words once, and then the tool's result."""
    assert script(VOICE, "listens", cwd=tmp_path) == [
        "One moment.",
        "",
        "A7 is on its way.",
        "['A7'] ['tool_started', 'tool_completed']",
    ]


def test_somebody_breaks_in_while_a_tool_runs(tmp_path: Path) -> None:
    """The tool is cancelled, and recorded as such; the next turn is answered."""
    *heard, calls = script(VOICE, "breaks in", cwd=tmp_path)
    assert heard[-1].endswith("All right.")
    assert calls == "['A7'] ['tool_started', 'tool_cancelled']"
