"""Conversations of hours, with emoji, and with the markup that a model writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_journeys import script

pytestmark = pytest.mark.slow

LONG = """\
import asyncio

from stageflow.kernels import chat
from stageflow import ProviderRegistry
from stageflow.providers import FakeDatabase, FakeLLM

sizes = []


def answer(messages):
    sizes.append(len(messages))
    return f"{messages[-1].content} " * 3


async def main() -> None:
    model = FakeLLM(answer, context_tokens=2_000)
    turn = chat().bind(providers=ProviderRegistry(llm=model, db=FakeDatabase()))
    for number in range(500):
        text = f"This is number {number}. " * (1 + number % 7)
        result = await turn.run(text=text, user_id="ada")
        assert result.unwrap()["answer"].startswith(text)
    print(model.calls, max(sizes) > 10, min(sizes[20:]) > 2)


asyncio.run(main())
"""

HEARD = """\
import asyncio, sys

from stageflow.kernels import default_providers, streaming_voice
from stageflow.providers import FakeLLM, FakeTTS, speech_of_text, text_of_speech


async def main(answer: str) -> None:
    providers = default_providers(scale=0)
    providers.register("llm", FakeLLM(answer))
    providers.register("tts", FakeTTS(refuse_unspeakable=True))
    turn = streaming_voice().bind(providers=providers)
    result = await turn.run(audio=speech_of_text(sys.argv[2]), user_id="ada")
    assert result.unwrap()["answer"] == answer
    record = await providers.db.get("conversations", "ada")
    assert record["turns"][0]["user"] == sys.argv[2]
    assert record["turns"][0]["assistant"] == answer
    print("".join(text_of_speech(sound) for sound in providers["speaker"].heard))


asyncio.run(main(sys.argv[1]))
"""


def test_somebody_talks_for_500_turns(tmp_path: Path) -> None:
    """The model takes 2,000 tokens; each turn is answered at its first call, with what fits."""
    assert script(LONG, cwd=tmp_path) == ["500 True True"]


def test_somebody_sends_an_emoji(tmp_path: Path) -> None:
    """Both ways: it is shown and stored, and never reaches a voice that cannot say it."""
    assert script(HEARD, "Great, done! 😊", "👍", cwd=tmp_path) == ["Great, done! "]


def test_somebody_hears_markdown(tmp_path: Path) -> None:
    """As words, without marks, code and addresses."""
    steps = "1. Open **Settings**.\n2. See [the page](https://a.example/b?c)."
    answer = f"## Steps\n\n{steps}\n```sh\nmake x\n```\n"
    spoken = "\n".join(script(HEARD, answer, "How?", cwd=tmp_path))
    assert spoken.split() == ["Steps", "1.", "Open", "Settings.", "2.", "See", "the", "page."]
