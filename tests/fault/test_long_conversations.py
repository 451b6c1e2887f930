"""Conversations that outgrow the model's window: every later turn is still answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest

from stageflow import Message, Pipeline, PipelineContext, ProviderRegistry, RunResult
from stageflow.kernels import chat, default_providers, streaming_voice, voice
from stageflow.kernels.history import Fitted
from stageflow.providers import FakeLLM, FakeSTT, OpenAIService, speech_of_text
from stageflow.providers.local import LlamaServer, LocalLLM
from tests.utils.assertions import assert_run_sound
from tests.utils.errors import raises_code
from tests.utils.http_llm import HttpLLM
from tests.utils.llm_server import LlmServer, Reply
from tests.utils.openai_server import KEY, OpenAIServer

WORDS = "word " * 700  # 3,500 characters


class RefusedError(Exception):
    """The error that a service's client raises."""

    def __init__(self, status_code: int, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.status_code = status_code
        self.code = code


class Window(FakeLLM):
    """Takes so many characters, says so to nobody, and keeps what it was sent."""

    def __init__(self, chars: int, refusal: Exception | None = None) -> None:
        super().__init__("noted")
        self.conversations: list[Sequence[Message]] = []
        self._chars = chars
        self._refusal = refusal or RefusedError(413, "too much")

    def _take_in(self, messages: Sequence[Message]) -> None:
        self.conversations.append(messages)
        if sum(len(message.content) for message in messages) > self._chars:
            raise self._refusal

    async def complete(self, messages: Sequence[Message]) -> str:
        self._take_in(messages)
        return await super().complete(messages)

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self._take_in(messages)
        async for piece in super().stream(messages):
            yield piece


async def take_turn(pipeline: Pipeline, text: str, providers: ProviderRegistry) -> RunResult:
    """One turn of a kernel; the transcript is `text`, whatever the sound."""
    spoken = "audio" in pipeline.inputs
    if spoken:
        providers.register("stt", FakeSTT(text))
    given: Mapping[str, Any] = {"audio": speech_of_text("x")} if spoken else {"text": text}
    ctx = PipelineContext({**given, "user_id": "ada"}, providers=providers)
    result = await pipeline.run(ctx)
    assert_run_sound(pipeline, result)
    return result


def providers_with(llm: object) -> ProviderRegistry:
    providers = default_providers(scale=0)
    providers.register("llm", llm)
    return providers


async def remembered(providers: ProviderRegistry, *turns: tuple[str, str]) -> None:
    """Put a conversation into the database."""
    kept = [{"user": user, "assistant": answer, "refused": False} for user, answer in turns]
    await providers.db.put("conversations", "ada", {"turns": kept})


each_kernel = pytest.mark.parametrize("kernel", [voice, streaming_voice, chat])


@each_kernel
async def test_a_long_conversation_goes_on(kernel: Callable[[], Pipeline]) -> None:
    """Six long messages, a window of 30,000 characters: each turn is answered, and so is "hi"."""
    llm = Window(30_000)
    providers = providers_with(llm)
    for _ in range(12):
        (await take_turn(kernel(), WORDS, providers)).unwrap()
    (await take_turn(kernel(), "hi", providers)).unwrap()
    system, *earlier, newest = llm.conversations[-1]
    assert (system.role, newest) == ("system", Message("user", "hi"))
    assert [message.role for message in earlier[:2]] == ["user", "assistant"]


@each_kernel
async def test_a_kernel_has_a_limit_of_its_own(kernel: Callable[..., Pipeline]) -> None:
    """No more of the history is sent than the user allows."""
    llm = Window(30_000)
    providers = providers_with(llm)
    await remembered(providers, ("one", "two"), ("three", "four"))
    (await take_turn(kernel(history_tokens=15), "hi", providers)).unwrap()
    assert [message.content for message in llm.conversations[-1][1:]] == ["three", "four", "hi"]


@each_kernel
@pytest.mark.parametrize(
    "refusal",
    [
        RefusedError(413, "Payload Too Large"),
        RefusedError(400, "Bad Request", "context_length_exceeded"),
        RefusedError(400, "This model's maximum context length is 512 tokens."),
        RefusedError(400, "request (931 tokens) exceeds the available context size (512 tokens)"),
        RefusedError(400, "prompt is too long: 213462 tokens > 200000 maximum"),
        RefusedError(422, "The input token count exceeds the maximum number of tokens allowed"),
        RefusedError(400, "Please reduce the length of the messages or completion."),
        RefusedError(400, "This model's maximum prompt length is 512 but the request has 931."),
        RefusedError(422, "`inputs` tokens + `max_new_tokens` must be <= 2048"),
        RefusedError(422, "Input validation error: `inputs` must have less than 4096 tokens"),
    ],
)
async def test_a_refusal_for_length_is_answered_with_less_history(
    kernel: Callable[[], Pipeline], refusal: Exception
) -> None:
    """Once with the newer half, then with the user's newest message alone."""
    llm = Window(400, refusal)
    providers = providers_with(llm)
    await remembered(providers, ("a" * 90, "b" * 90), ("c" * 90, "d" * 90), ("e", "f" * 400))
    (await take_turn(kernel(), "hi", providers)).unwrap()
    sent = [[message.content[0] for message in sent[1:]] for sent in llm.conversations]
    assert sent == [[*"abcdef", "h"], [*"ef", "h"], ["h"]]
    assert len({sent[0] for sent in llm.conversations}) == 1, "the prompt is always whole"


@each_kernel
async def test_a_message_that_alone_is_too_long_fails_alone(
    kernel: Callable[[], Pipeline],
) -> None:
    """Its error says so, to the program and to the user; the next turn is answered."""
    llm = Window(1_000)
    providers = providers_with(llm)
    await remembered(providers, ("one", "two"))
    failed = await take_turn(kernel(), WORDS, providers)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.retryable) == ("request_too_long", False)
    assert failed.user_message is not None
    assert "shorter" in failed.user_message
    assert [len(sent) for sent in llm.conversations] == [4, 2]
    (await take_turn(kernel(), "hi", providers)).unwrap()
    assert [message.content for message in llm.conversations[-1][1:]] == ["one", "two", "hi"]


@each_kernel
async def test_another_refusal_is_not_tried_again(kernel: Callable[[], Pipeline]) -> None:
    """An error that is not about the length fails at the first call."""
    llm = Window(0, RefusedError(400, "unknown parameter 'temprature'"))
    providers = providers_with(llm)
    await remembered(providers, ("one", "two"))
    failed = await take_turn(kernel(), "hi", providers)
    assert failed.failure is not None
    assert failed.failure.code == "request_rejected"
    assert len(llm.conversations) == 1


TOO_LONG = Reply(
    400,
    body='{"error": {"message": "Too much.", "type": "invalid_request_error",'
    ' "code": "context_length_exceeded"}}',
)


@each_kernel
@pytest.mark.parametrize("reply", [TOO_LONG, Reply(413)], ids=["400", "413"])
async def test_a_service_refuses_for_length(kernel: Callable[[], Pipeline], reply: Reply) -> None:
    """By its code or its status; the turn is answered without history."""
    async with OpenAIServer() as server, OpenAIService(server.url, api_key=KEY) as service:
        providers = providers_with(service.llm("echo"))
        await remembered(providers, ("one", "two"), ("three", "four"))
        server.script += [reply, reply]
        assert (await take_turn(kernel(), "hi", providers)).unwrap()["answer"] == "hi"
        assert [len(request["messages"]) for request in server.requests] == [6, 4, 2]


@each_kernel
async def test_a_client_of_ones_own_passes_the_refusal_on(
    kernel: Callable[[], Pipeline],
) -> None:
    """The body of the answer says why, where the client's exception does not."""
    async with LlmServer() as server, HttpLLM(server.port) as llm:
        providers = providers_with(llm)
        await remembered(providers, ("one", "two"))
        server.script.append(TOO_LONG)
        assert (await take_turn(kernel(), "hi", providers)).unwrap()["answer"] == "hi"
        assert [len(request["messages"]) for request in server.requests] == [4, 2]


async def test_a_real_model_with_a_small_window_answers() -> None:
    """It refuses a conversation that is too long, and says how long its window is."""
    talk = [Message("user", WORDS), Message("assistant", WORDS), Message("user", "hi")]
    with LlamaServer(context_tokens=512) as server:
        async with LocalLLM(server, options={"temperature": 0, "max_tokens": 1}) as llm:
            with raises_code("request_too_long", match=r"512 tokens.*send less"):
                await llm.complete(talk)
            with raises_code("request_too_long", match=r"512 tokens.*send less"):
                _ = [piece async for piece in llm.stream(talk)]
            assert await Fitted(llm).complete(talk)
            assert [piece async for piece in Fitted(llm).stream(talk)]
