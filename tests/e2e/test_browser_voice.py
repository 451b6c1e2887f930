"""The voice agent of the examples, in a real browser whose microphone is a file."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import runpy
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from stageflow import Audio
from stageflow.providers import text_of_speech, write_wav
from stageflow.providers.local import PocketsphinxSTT
from tests.utils.asv_repo import ROOT
from tests.utils.browser import FLAGS, PATIENCE_MS, find_browser
from tests.utils.local import spoken

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "browser_voice.py"
QUESTION = "how many days are in a week"

#: Runs the example with a model that stops early: an answer takes as long as it is heard.
BRIEFLY = """
import functools, runpy, sys
from stageflow.providers import local
local.LocalLLM = functools.partial(local.LocalLLM, options={"temperature": 0, "max_tokens": 24})
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def agent(*arguments: str) -> Iterator[str]:
    """The address of the running example, which ends as by Ctrl-C."""
    command = [sys.executable, "-c", BRIEFLY, str(EXAMPLE), "--port", "0", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


@contextmanager
def visitor(address: str, folder: Path, audio: Audio) -> Iterator[Page]:
    """A page of the agent whose visitor says `audio` once, after a second."""
    second = bytes(2 * audio.sample_rate_hz)
    said = Audio(second + audio.pcm + second * 3, audio.sample_rate_hz)
    write_wav(folder / "question.wav", said)
    microphone = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={folder / 'question.wav'}%noloop",
    ]
    with sync_playwright() as playwright:
        options = {"executable_path": find_browser(), "args": [*FLAGS, *microphone]}
        browser = playwright.chromium.launch(**options)  # type: ignore[arg-type]
        try:
            page = browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            page.get_by_role("button", name="Talk").click()
            yield page
            assert errors == []
        finally:
            browser.close()


def sounds(page: Page) -> list[Audio]:
    """Return the sounds that the page received for playing."""
    found = page.evaluate(
        """() => played.map(({rate, samples}) =>
            [rate, btoa(Array.from(new Uint8Array(samples.buffer),
                                   (byte) => String.fromCharCode(byte)).join(""))])"""
    )
    return [Audio(base64.b64decode(pcm), rate) for rate, pcm in found]


def test_a_spoken_question_is_answered(tmp_path: Path) -> None:
    """By the speech and the model of this machine; the sound says what the page shows."""
    with agent() as address, visitor(address, tmp_path, spoken(QUESTION)) as page:
        you = page.get_by_text("You said: ")
        expect(you).to_be_visible()
        # The browser's filters change the sound, and so a word now and then.
        assert len(words(you.inner_text()) & words(QUESTION)) >= 4
        answer = " ".join(page.locator(".agent").all_inner_texts())
        heard = sounds(page)
    (rate_hz,) = {audio.sample_rate_hz for audio in heard}
    said = asyncio.run(transcript(Audio(b"".join(audio.pcm for audio in heard), rate_hz)))
    assert len(words(said) & words(answer)) >= len(words(answer)) / 3, (said, answer)


async def transcript(audio: Audio) -> str:
    async with PocketsphinxSTT() as stt:
        return await stt.transcribe(audio)


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


#: Says something into the socket, as the microphone does, whose file has ended.
SPEAK = """() => {
    const loud = Int16Array.from({length: 512}, (_, n) => n % 80 < 40 ? 9000 : -9000);
    for (let n = 0; n < 20; n++) socket.send(loud);
    for (let n = 0; n < 30; n++) socket.send(new Int16Array(512));
}"""


def test_the_answer_stops_when_the_user_speaks(tmp_path: Path) -> None:
    """The page stops the old sound, and the newer question is answered."""
    with agent("--fakes") as address, visitor(address, tmp_path, spoken(QUESTION)) as page:
        page.wait_for_function("played.length > 0")
        (first, *_) = sounds(page)
        assert text_of_speech(first).startswith("I can hear that you speak.")
        page.evaluate(SPEAK)
        expect(page.get_by_text("(interrupted)")).to_be_visible()
        page.wait_for_function("sources.length === 0 || played.length > 1")
        page.get_by_text("You said: ?").wait_for()
        said = [text_of_speech(sound) for sound in sounds(page)]
    assert "".join(said).count("I can hear that you speak.") >= 4


def test_other_sites_and_pages_are_refused() -> None:
    """Only the page of this server may open its socket."""
    with agent("--fakes") as address, sync_playwright() as playwright:
        request = playwright.request.new_context()
        assert request.get(f"{address}/").headers["content-type"] == "text/html; charset=utf-8"
        assert request.get(f"{address}/other").status == 404
        handshake = {
            "Origin": "http://example.org",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        }
        assert request.get(f"{address}/talk", headers=handshake).status == 403
        request.dispose()


def test_an_ear_finds_utterances() -> None:
    """By their loudness, with a little before them, also in a noisy room; silence is none."""
    ear = runpy.run_path(str(EXAMPLE))["Ear"]()
    tone, hum = (array("h", [n, -n] * 8_000).tobytes() for n in (9_000, 90))  # a second each
    assert list(ear.hear(hum * 3)) == []
    (begin,) = ear.hear(tone)
    assert begin is None
    (heard,) = ear.hear(hum)
    assert tone in heard.pcm
    assert 1.0 < heard.duration_s < 2.5
    assert list(ear.hear(hum * 9)) == []
    assert [found is None for found in ear.hear(tone * 31)] == [True, False, True], "30 s at most"
