"""A service of OpenAI's kind that fails: each way has its code, its words, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from queue import Queue
from typing import Any

import pytest

from stageflow import Audio, Message
from stageflow._utils.extras import install_command
from stageflow.errors import InvalidConfigError, NoAnswerError, StageflowError
from stageflow.providers import PCM_RATE_HZ, Answer, OpenAIService, speech_of_text, wav_bytes
from tests.utils.commands import run_command
from tests.utils.errors import failure
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


async def in_time(event: asyncio.Event) -> None:
    """Wait for what has to happen, so long that it is not the machine that is slow."""
    async with asyncio.timeout(30):
        await event.wait()


def pieces(*choices: str) -> Reply:
    """A stream of these choices, as they are."""
    return Reply(headers=EVENTS, body="".join(f'data: {{"choices": {c}}}\n\n' for c in choices))


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
    """A text that UTF-8 does not have does not fail the call."""
    assert await service.llm("echo").complete([Message("user", "a\ud800b")]) == "a?b"


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


def everything(error: BaseException | None) -> str:
    """All texts of an error and of the errors behind it."""
    if error is None:
        return ""
    texts = (str(error), repr(error), repr(error.args), repr(vars(error)))
    shown = "".join(traceback.format_exception(error))
    return "".join((*texts, shown, everything(error.__cause__), everything(error.__context__)))


BEARER = f"Authorization: Bearer {KEY}"


@pytest.mark.parametrize("call", [complete, stream, transcribe, synthesize])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, body=f'{{"error": {{"message": "bad key {KEY}"}}}}'),
        Reply(401, body=BEARER),
        Reply(500, body="x" * 290 + BEARER, headers=HTML),
        Reply(body=BEARER, headers=HTML),
        Reply(body=f'{{"error": "{BEARER}"}}'),
        Reply(body=f'{{"text": ["{BEARER}"], "choices": [{{"message": "{BEARER}"}}]}}'),
        Reply(body=f'{{"choices": [{{"message": {{"content": ["{"x" * 50}{KEY}"]}}}}]}}'),
        Reply(body=f'data: {{"error": {{"message": "{BEARER}"}}}}\n\n', headers=EVENTS),
        Reply(body=f'data: {{"{BEARER}\n\n', headers=EVENTS),
        pieces(f'[{{"delta": {{"content": ["{BEARER}"]}}}}]'),
        pieces(f'[{{"delta": {{}}, "finish_reason": "{BEARER}"}}]'),
        Reply(body="abcd", headers={"Content-Type": f"audio/mpeg; {BEARER}"}),
    ],
)
async def test_an_error_never_holds_the_key(
    call: Call, reply: Reply, server: OpenAIServer, service: OpenAIService
) -> None:
    """Neither its texts and fields nor those of the errors behind it."""
    server.script.append(reply)
    found = await failure(call(service))
    assert KEY not in everything(found)
    assert KEY[:-1] not in everything(found)


async def test_an_answer_never_holds_the_key(server: OpenAIServer, service: OpenAIService) -> None:
    """A service that repeats it in an answer, also over several pieces."""
    message = f'{{"content": "It is {KEY}!", "role": "assistant"}}'
    server.script.append(Reply(body=f'{{"choices": [{{"message": {message}}}]}}'))
    assert await complete(service) == "It is …!"
    parts = ["It is sk-", "of-the-", "tests, ask", " again. s"]
    contents = [f'[{{"delta": {{"content": "{part}"}}}}]' for part in parts]
    server.script.append(pieces(*contents, '[{"delta": {}, "finish_reason": "stop"}]'))
    assert await stream(service) == "It is …, ask again. s"
    server.script.append(Reply(body=f'{{"text": "it is {KEY}"}}'))
    assert await transcribe(service) == "it is …"


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
        (complete, Reply(body="[" * 100_000)),
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
    """Each reply that is not an answer has its error, and the next call is answered."""
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
    """A piece that only counts tokens, or keeps the connection alive, is skipped."""
    last = 'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\n'
    server.script.append(Reply(headers=EVENTS, body=empty + last))
    assert await stream(service) == "yes"


@pytest.mark.parametrize(
    ("content_type", "rate_hz"),
    [
        ("audio/pcm", PCM_RATE_HZ),
        ("audio/pcm;rate=16000", 16_000),
        ("audio/L16; rate=8000; channels=1", 8_000),
        ("audio/pcm;sample_rate=16000;encoding=pcm_s16le;bit-depth=16", 16_000),
        ('audio/x-raw; rate="44100"', 44_100),
        ("audio/pcm; sampling-rate=16000; encoding=signed-int", 16_000),
        ("audio/x-pcm; Freq=8000; layout=mono", 8_000),
        ("application/octet-stream", PCM_RATE_HZ),
    ],
)
async def test_the_content_type_tells_the_rate(
    content_type: str, rate_hz: int, server: OpenAIServer, service: OpenAIService
) -> None:
    """PCM without a rate has that of the protocol."""
    server.script.append(Reply(body="abcd", headers={"Content-Type": content_type}))
    assert await synthesize(service) == Audio(b"abcd", rate_hz)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("audio/mpeg", b"abcd"),
        ("audio/ogg", b"OggS"),
        ("audio/flac", b"fLaC"),
        ("audio/aac", b"abcd"),
        ("audio/L16; rate=8000; channels=2", b"abcd"),
        ("audio/pcm; rate=fast", b"abcd"),
        ("audio/pcm;bits=24", b"abcd"),
        ("audio/pcm;encoding=mulaw", b"abcd"),
        ("audio/pcm;format=f32le", b"abcd"),
        ("audio/pcm;endian=big", b"abcd"),
        ("audio/pcm;ch=2", b"abcd"),
        ("audio/pcm", b".snd\0\0"),
        ("audio/pcm", b"\x1f\x8b\x08\0"),
        ("audio/pcm", b"Error: no such voice"),
        ("video/mp4", b"abcd"),
        ("application/octet-stream", b"ID3\x04\0\0"),
        ("application/octet-stream", b"\xff\xfb\x90\x64"),
        ("application/octet-stream", b"OggS\0\x02"),
        ("application/octet-stream", b'{"error": "full"}.'),
    ],
)
async def test_foreign_sound_is_refused(
    content_type: str, body: bytes, server: OpenAIServer, service: OpenAIService
) -> None:
    """As samples it would be noise; the error names the content type."""
    server.script.append(Reply(body=body, headers={"Content-Type": content_type}))
    found = await failure(synthesize(service))
    assert found.code == "invalid_reply"
    assert content_type in str(found)


def ended(reason: str, content: str = '"It is"', more: str = "") -> tuple[Reply, Reply]:
    """An answer that ends for a reason, as a reply to both kinds of call."""
    message = f'{{"content": {content}{more}}}'
    return Reply(
        body=f'{{"choices": [{{"message": {message}, "finish_reason": "{reason}"}}]}}'
    ), pieces(f'[{{"delta": {message}, "finish_reason": "{reason}"}}]')


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("insufficient_system_resource", "insufficient_system_resource"),
    ],
)
async def test_an_answer_that_was_cut_says_so(
    sent: str, reason: str, server: OpenAIServer, service: OpenAIService
) -> None:
    """The answer, or the last piece of the stream, has the reason, in the protocol's words."""
    server.script.extend(ended(sent))
    answer = await service.llm("echo").complete(ASKED)
    *words, last = [piece async for piece in service.llm("echo").stream(ASKED)]
    assert (answer, "".join(words), last) == ("It is", "It is", "")
    assert isinstance(answer, Answer)
    assert isinstance(last, Answer)
    assert answer.finish_reason == last.finish_reason == reason
    assert answer.cut
    server.script.append(ended("end_turn")[0])
    assert type(await complete(service)) is str


TOOLS = ', "tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}]'


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (ended("tool_calls", "null", TOOLS), "tool_calls"),
        (ended("stop", "null", TOOLS), "tool_calls"),
        (ended("length", "null"), "length"),
        (ended("length", '" "'), "length"),
        (ended("content_filter", '""'), "content_filter"),
        (ended("stop", "null", ', "refusal": "I will not."'), "refusal"),
    ],
)
async def test_what_is_not_an_answer(
    reply: tuple[Reply, Reply], reason: str, server: OpenAIServer, service: OpenAIService
) -> None:
    """A call of a tool, a refusal, or nothing: no retry of the same request helps."""
    server.script.extend(reply)
    for call in (complete, stream):
        error = await failure(call(service))
        assert isinstance(error, NoAnswerError)
        assert (error.code, error.retryable, error.finish_reason) == ("no_answer", False, reason)


async def read(service: OpenAIService) -> tuple[list[str], StageflowError]:
    """The pieces that came before the failure, and the failure."""
    found: list[str] = []

    async def whole() -> None:
        async for piece in service.llm("echo").stream(ASKED):
            found.append(piece)  # noqa: PERF401 - what came before it raises counts

    error = await failure(whole())
    return found, error


async def test_a_stream_that_is_cut(server: OpenAIServer, service: OpenAIService) -> None:
    """The pieces before the cut arrive, and then the connection has failed."""
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


@pytest.mark.parametrize("call", [complete, stream])
async def test_a_service_that_falls_silent(call: Call, server: OpenAIServer) -> None:
    """The limit holds, also between the pieces of a stream, and the connection is closed."""
    server.script.append(Reply(stall_after_pieces=1))
    # Long enough for the request to arrive on a busy machine.
    async with connected(server.url, timeout_s=0.5) as service, asyncio.timeout(20):
        assert (await failure(call(service))).code == "operation_timeout"
        await in_time(server.left)


@pytest.mark.parametrize(
    ("call", "alive"), [(complete, b"\n"), (stream, b": alive\n\n"), (transcribe, b" ")]
)
async def test_signs_of_life_are_not_an_answer(call: Call, alive: bytes) -> None:
    """The limit of time holds however often the service shows that it is there."""

    async def live(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(alive)
                await writer.drain()
                await asyncio.sleep(0.02)
        left.set()

    left = asyncio.Event()
    async with await asyncio.start_server(live, "127.0.0.1", 0) as endless:
        url = f"http://127.0.0.1:{endless.sockets[0].getsockname()[1]}/v1"
        async with connected(url, timeout_s=0.2) as service, asyncio.timeout(20):
            found = await failure(call(service))
            await left.wait()
    assert found.code == "operation_timeout"
    assert "no part of an answer within 0.2 s" in str(found)


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
    """A caller that has enough stops the service."""
    server.script.append(Reply(stall_after_pieces=1))
    answer = service.llm("echo").stream(ASKED)
    assert await anext(answer) == "Is "
    await answer.aclose()  # type: ignore[attr-defined]
    await in_time(server.left)


async def test_a_connection_that_is_not_to_be_kept_serves_one_call(server: OpenAIServer) -> None:
    """A service that closes idle connections could do so just when the next call is sent."""
    for keep_alive, said in ((False, "close"), (True, "keep-alive")):
        async with OpenAIService(
            server.url, api_key=KEY, trust_env=False, keep_alive=keep_alive
        ) as service:
            await complete(service)
        assert server.seen[-1].headers["connection"] == said


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


def test_a_service_on_this_machine_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is called directly, whatever proxy the environment names."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0"):
        OpenAIService(f"http://{host}:8080/v1")
    with pytest.raises(InvalidConfigError, match="api_key"):
        OpenAIService("http://127.evil.example/v1", trust_env=False)


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:9", "socks5://me:secret@127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to set, and does not show a password."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidConfigError, match=r"ALL_PROXY.*trust_env=False") as raised:
        OpenAIService("http://models.example/v1", api_key=KEY)
    assert "secret" not in str(raised.value)
    OpenAIService("http://models.example/v1", api_key=KEY, trust_env=False)


def test_a_service_in_several_event_loops() -> None:
    """Each has its own connections; closing those of one loop leaves the others usable."""
    ready: Queue[tuple[str, Callable[[], object]]] = Queue()

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with OpenAIServer() as server:
            ready.put((server.url, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    async def once(call: Call) -> Any:
        async with shared:
            return await call(shared)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, stop = ready.get(timeout=20)
    shared = connected(url)
    try:
        answers = [asyncio.run(once(call)) for call in (complete, stream, complete)]
    finally:
        stop()
        thread.join(20)
    assert answers == ["Is it raining today?"] * 3


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
    done = run_command([sys.executable, "-c", code], check=True, env=os.environ)
    assert done.stdout.startswith("missing_extra ")
    assert install_command("openai") in done.stdout
