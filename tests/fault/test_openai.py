"""A service of OpenAI's kind that fails: each way has its code, its words, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from stageflow import Audio, Message
from stageflow.errors import InvalidConfigError, StageflowError
from stageflow.providers.audio import wav_bytes
from stageflow.providers.fake import speech_of_text
from stageflow.providers.openai import PCM_RATE_HZ, OpenAIService
from tests.utils.llm_server import Reply
from tests.utils.openai_server import KEY, OpenAIServer

ASKED = [Message("system", "Be brief."), Message("user", "Is it raining today?")]
HTML = {"Content-Type": "text/html"}
EVENTS = {"Content-Type": "text/event-stream"}
HELLO = speech_of_text("hello")

Call = Callable[[OpenAIService], Coroutine[Any, Any, Any]]


async def complete(service: OpenAIService) -> str:
    return await service.llm("echo").complete(ASKED)


async def stream(service: OpenAIService) -> str:
    return "".join([piece async for piece in service.llm("echo").stream(ASKED)])


async def transcribe(service: OpenAIService) -> str:
    return await service.stt("ears").transcribe(HELLO)


async def synthesize(service: OpenAIService) -> Audio:
    return await service.tts("mouth", "alloy").synthesize("hello")


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def service(server: OpenAIServer) -> AsyncIterator[OpenAIService]:
    async with connected(server.url) as service:
        yield service


def connected(url: str, key: str = KEY, timeout_s: float = 30.0) -> OpenAIService:
    return OpenAIService(url, api_key=key, timeout_s=timeout_s, trust_env=False)


async def failure(call: Awaitable[Any]) -> StageflowError:
    with pytest.raises(StageflowError) as raised:
        await call
    return raised.value


async def in_time(event: asyncio.Event) -> None:
    """Wait for what has to happen, so long that it is not the machine that is slow."""
    async with asyncio.timeout(30):
        await event.wait()


def pieces(*choices: str) -> Reply:
    """A stream of these choices, as they are."""
    return Reply(headers=EVENTS, body="".join(f'data: {{"choices": {c}}}\n\n' for c in choices))


# ── what is asked ───────────────────────────────────────────────────────────────────────────


async def test_a_conversation_is_asked_as_it_is(
    server: OpenAIServer, service: OpenAIService
) -> None:
    """Roles, order and further options reach the service; its answer comes back."""
    llm = service.llm("echo", temperature=0, max_completion_tokens=8)
    assert await llm.complete(ASKED) == "Is it raining today?"
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it raining today?"},
    ]
    options = {"temperature": 0, "max_completion_tokens": 8}
    assert server.requests == [{"model": "echo", "messages": said, **options}]
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_stream_comes_in_pieces(service: OpenAIService) -> None:
    """Each piece as the service sent it."""
    found = [piece async for piece in service.llm("echo").stream(ASKED)]
    assert found == ["Is ", "it ", "raining ", "today?"]


async def test_speech_goes_there_and_back(service: OpenAIService) -> None:
    """Sound is sent as a WAV and comes back as PCM of the rate that the protocol has."""
    spoken = await synthesize(service)
    assert spoken == Audio(HELLO.pcm, PCM_RATE_HZ)
    assert await service.stt("ears", language="en").transcribe(spoken) == "hello"


async def test_speech_in_a_wav_keeps_its_rate(server: OpenAIServer, service: OpenAIService) -> None:
    """A service that sends a WAV whatever it was asked for is understood by its header."""
    sound = Audio(b"\x01\x00\x02\x00", 16_000)
    server.script.append(Reply(body=wav_bytes(sound)))
    assert await synthesize(service) == sound


async def test_half_of_a_surrogate_pair_is_sent_as_a_question_mark(service: OpenAIService) -> None:
    """A text that UTF-8 does not have is no reason to fail."""
    assert await service.llm("echo").complete([Message("user", "a\ud800b")]) == "a?b"


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call", [complete, stream, transcribe, synthesize])
async def test_nobody_listens(call: Call) -> None:
    """The connection failed, may be tried again, and the text names the address."""
    async with OpenAIServer() as server:
        url = server.url
    async with connected(url) as service:
        found = await failure(call(service))
    assert (found.code, found.retryable) == ("connection_failed", True)
    assert url in str(found)
    assert "see that it is up" in str(found)


@pytest.mark.parametrize("call", [complete, stream, transcribe, synthesize])
async def test_a_wrong_key(call: Call, server: OpenAIServer) -> None:
    """No retry helps; the text says where the key comes from and does not hold it."""
    async with connected(server.url, key="sk-wrong") as service:
        found = await failure(call(service))
    assert (found.code, found.retryable) == ("credentials_rejected", False)
    assert "OPENAI_API_KEY" in str(found)
    assert "sk-wrong" not in "".join(traceback.format_exception(found))


async def test_a_service_that_repeats_the_key(server: OpenAIServer, service: OpenAIService) -> None:
    """What it says is told without the key, also in the traceback."""
    server.script.append(Reply(400, body=f'{{"error": {{"message": "bad key {KEY}"}}}}'))
    found = await failure(complete(service))
    assert "bad key …" in str(found)
    assert KEY not in "".join(traceback.format_exception(found))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_that_does_not_exist(streamed: bool, service: OpenAIService) -> None:
    """The request is wrong, and the text names the model."""
    llm = service.llm("gpt-0")
    asked = anext(llm.stream(ASKED)) if streamed else llm.complete(ASKED)
    found = await failure(asked)
    assert (found.code, found.retryable) == ("request_rejected", False)
    assert "model 'gpt-0'; see that it has this model" in str(found)


@pytest.mark.parametrize("call", [complete, stream, transcribe, synthesize])
async def test_too_many_calls(call: Call, server: OpenAIServer, service: OpenAIService) -> None:
    """The time to wait is the one that the service names, and the call is made once."""
    server.script.append(Reply(429, {"Retry-After": "7"}))
    found = await failure(call(service))
    assert (found.code, found.retryable, found.retry_after_s) == ("rate_limited", True, 7.0)
    assert len(server.seen) == 1, "retries are the interceptors'"


async def test_a_service_in_trouble(server: OpenAIServer, service: OpenAIService) -> None:
    """A 500 may be tried again, and is not tried again here."""
    server.script.append(Reply(500))
    assert (await failure(complete(service))).code == "service_unavailable"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (complete, Reply(body="no JSON")),
        (complete, Reply(body="<html>", headers=HTML)),
        (complete, Reply(body="{}")),
        (complete, Reply(body="[]")),
        (complete, Reply(body='{"choices": []}')),
        (complete, Reply(body='{"choices": [{"message": {"content": null}}]}')),
        (complete, Reply(body='{"choices": [{"message": {"content": " "}}]}')),
        (complete, Reply(body='{"choices": [{"message": 5}]}')),
        (stream, Reply(body="<html>", headers=HTML)),
        (stream, Reply(body='data: {"half\n\n', headers=EVENTS)),
        (stream, Reply(body="data: [1]\n\n", headers=EVENTS)),
        (stream, pieces("5")),
        (stream, pieces('[{"delta": {"content": 5}, "finish_reason": "stop"}]')),
        (transcribe, Reply(body="[]")),
        (transcribe, Reply(body='{"text": null}')),
        (synthesize, Reply(body="<html>", headers=HTML)),
        (synthesize, Reply(body="")),
        (synthesize, Reply(body="abc")),
        (synthesize, Reply(body="RIFFabc")),
    ],
)
async def test_nonsense(
    call: Call, reply: Reply, server: OpenAIServer, service: OpenAIService
) -> None:
    """Whatever is no answer is told as such, and the next call is answered."""
    server.script.append(reply)
    assert (await failure(call(service))).code == "invalid_reply"
    assert await call(service)


async def test_a_long_page_is_shown_by_its_beginning(
    server: OpenAIServer, service: OpenAIService
) -> None:
    """A log can bear the error."""
    server.script.append(Reply(500, body="x" * 100_000, headers=HTML))
    assert len(str(await failure(complete(service)))) < 600


@pytest.mark.parametrize("empty", ['data: {"choices": []}\n\n', ": alive\n\n"])
async def test_a_piece_without_a_choice_says_nothing(
    empty: str, server: OpenAIServer, service: OpenAIService
) -> None:
    """What only counts tokens, or shows that the connection is alive, is passed over."""
    last = 'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\n'
    server.script.append(Reply(headers=EVENTS, body=empty + last))
    assert await stream(service) == "yes"


# ── streams that end too early ──────────────────────────────────────────────────────────────


async def read(service: OpenAIService) -> tuple[list[str], StageflowError]:
    """The pieces that came before the failure, and the failure."""
    found: list[str] = []

    async def whole() -> None:
        async for piece in service.llm("echo").stream(ASKED):
            found.append(piece)  # noqa: PERF401 - what came before it raises counts

    error = await failure(whole())
    return found, error


async def test_a_stream_that_is_cut(server: OpenAIServer, service: OpenAIService) -> None:
    """What was said before has come, and then the connection has failed."""
    server.script.append(Reply(cut_after_pieces=2))
    found, error = await read(service)
    assert (found, error.code) == (["Is ", "it "], "connection_failed")


async def test_a_stream_that_ends_politely_before_the_answer(
    server: OpenAIServer, service: OpenAIService
) -> None:
    """Half an answer is not taken for a whole one."""
    server.script.append(pieces('[{"delta": {"content": "Is "}, "finish_reason": null}]'))
    found, error = await read(service)
    assert (found, error.code) == (["Is "], "invalid_reply")


async def test_a_stream_that_tells_of_an_error(
    server: OpenAIServer, service: OpenAIService
) -> None:
    """In the middle, without a status: the service is in trouble."""
    server.script.append(Reply(headers=EVENTS, body='data: {"error": {"message": "full"}}\n\n'))
    found, error = await read(service)
    assert (found, error.code) == ([], "service_unavailable")
    assert "full" in str(error)


# ── time, and leaving ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call", [complete, stream])
async def test_a_service_that_falls_silent(call: Call, server: OpenAIServer) -> None:
    """The limit holds, also between the pieces of a stream, and the connection is closed."""
    server.script.append(Reply(stall_after_pieces=1))
    async with connected(server.url, timeout_s=0.05) as service, asyncio.timeout(20):
        assert (await failure(call(service))).code == "operation_timeout"
        await in_time(server.left)


@pytest.mark.parametrize("call", [complete, stream])
async def test_a_cancelled_call_closes_its_connection(
    call: Call, server: OpenAIServer, service: OpenAIService
) -> None:
    """So that the service stops working on it; the next call is answered."""
    server.script.append(Reply(stall_after_pieces=1))
    task = asyncio.create_task(call(service))
    await in_time(server.stalled)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await in_time(server.left)
    assert await call(service) == "Is it raining today?"


async def test_a_stream_that_is_left_closes_its_connection(
    server: OpenAIServer, service: OpenAIService
) -> None:
    """Whoever has heard enough stops the service."""
    server.script.append(Reply(stall_after_pieces=1))
    answer = service.llm("echo").stream(ASKED)
    assert await anext(answer) == "Is "
    await answer.aclose()  # type: ignore[attr-defined]
    await in_time(server.left)


# ── setting up ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "ftp://host/v1", "http://", "http://host:0x/v1", "http://[::1"]
)
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    """Before anything is called, with an example of the right kind."""
    with pytest.raises(InvalidConfigError, match=r"such as http://127\.0\.0\.1:8080/v1"):
        OpenAIService(url, api_key=KEY)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    """Addresses are logged."""
    with pytest.raises(InvalidConfigError) as raised:
        OpenAIService("http://me:secret@host/v1", api_key=KEY)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["sk-se cret", "sk-secret\n", "sk-secret\N{EM DASH}"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key: str) -> None:
    """The error names the variable."""
    with pytest.raises(InvalidConfigError, match="OPENAI_API_KEY") as raised:
        OpenAIService(api_key=key)
    assert "sk-se" not in str(raised.value)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the error says which variable to set; no repr shows it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InvalidConfigError, match="set the environment variable OPENAI_API_KEY"):
        OpenAIService()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    service = OpenAIService()
    made = [service, service.llm("a"), service.stt("b"), service.tts("c", "d")]
    assert KEY not in repr(made)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), "5"])
def test_a_limit_of_no_time_is_refused(timeout_s: Any) -> None:
    """By name."""
    with pytest.raises(InvalidConfigError, match="timeout_s"):
        OpenAIService(api_key=KEY, timeout_s=timeout_s)


def test_without_the_client_the_error_says_what_to_install() -> None:
    """In one line that can be copied."""
    code = (
        "import sys\n"
        "sys.modules['openai'] = None\n"
        "try:\n    import stageflow.providers.openai\n"
        "except Exception as error:\n    print(error.code, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.startswith("missing_extra ")
    assert "pip install 'stageflow[openai]'" in done.stdout
