"""How much of a conversation the model is sent: by its window, the user's limit, or the default."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import Message, Pipeline
from stageflow.errors import InvalidConfigError
from stageflow.kernels import chat, streaming_voice, voice
from stageflow.kernels.history import DEFAULT_HISTORY_TOKENS, MESSAGE_TOKENS, PROMPT_SHARE, Fitted
from stageflow.providers import Checked, FakeLLM, IdleTimeout, OpenAIService
from stageflow.providers.fake import FakeRefusal
from stageflow.providers.local import LlamaServer, LocalLLM
from stageflow.providers.ports import estimated_tokens

SYSTEM = Message("system", "s")


class Counting:
    """Keeps what it is sent; a letter is a token for it."""

    def __init__(self, context_tokens: Any = None, failure: Exception | None = None) -> None:
        self.context_tokens = context_tokens
        self.sent: list[Sequence[Message]] = []
        self._failure = failure

    def count_tokens(self, text: str) -> int:
        return len(text)

    async def complete(self, messages: Sequence[Message]) -> str:
        self.sent.append(messages)
        return "ok"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        self.sent.append(messages)
        yield "o"
        if self._failure is not None:
            raise self._failure
        yield "k"


def talk(*sizes: int) -> list[Message]:
    """A prompt of one letter, and messages of so many letters, the last one of the user."""
    roles = ["user", "assistant"] * len(sizes)
    turns = [Message(role, "x" * size) for role, size in zip(roles, sizes, strict=False)]  # type: ignore[arg-type]
    return [SYSTEM, *turns]


async def sent(
    messages: Sequence[Message], window: Any = None, limit: int | None = None
) -> list[int]:
    """The letters of each message that a model with such a window is sent, besides the prompt."""
    model = Counting(window)
    assert await Fitted(model, limit).complete(messages) == "ok"
    assert [piece async for piece in Fitted(model, limit).stream(messages)] == ["o", "k"]
    ((prompt, *rest), streamed) = model.sent
    assert [prompt, *rest] == list(streamed)
    assert prompt == SYSTEM
    return [len(message.content) for message in rest]


def window_for(*sizes: int) -> int:
    """The window that these messages just fit into, with the prompt."""
    return round((sum(sizes) + 1 + (len(sizes) + 1) * MESSAGE_TOKENS) / PROMPT_SHARE)


async def test_the_oldest_turns_go_first() -> None:
    """A message that does not fit is left out with all before it; the others stay whole."""
    messages = talk(10, 20, 30, 40, 7)
    assert await sent(messages, window_for(10, 20, 30, 40, 7)) == [10, 20, 30, 40, 7]
    assert await sent(messages, window_for(10, 20, 30, 40, 7) - 4) == [30, 40, 7]
    assert await sent(messages, window_for(30, 40, 7)) == [30, 40, 7]
    assert await sent(messages, window_for(30, 40, 7) - 4) == [7]
    assert await sent(talk(1, 1, 900, 1, 7), window_for(900, 1, 7) - 4) == [7]


async def test_an_answer_is_not_sent_without_its_question() -> None:
    """Where only the answer fits, its turn is left out."""
    assert await sent(talk(90, 5, 30, 40, 7), window_for(5, 30, 40, 7)) == [30, 40, 7]


async def test_the_newest_message_is_sent_whatever_its_length() -> None:
    """The model, and not an estimate, decides whether it is too long."""
    assert await sent(talk(1, 1, 999), 10) == [999]
    assert await sent(talk(999), 10) == [999]


async def test_the_smaller_limit_counts() -> None:
    """The user's limit is for the earlier messages alone; without any, the default holds."""
    pair = 50 + 2 * MESSAGE_TOKENS
    messages = talk(20, 30, 20, 30, 7)
    assert await sent(messages, 10_000, pair) == [20, 30, 7]
    assert await sent(messages, None, pair) == [20, 30, 7]
    assert await sent(messages, None, pair - 1) == [7]
    assert await sent(messages, None, 0) == [7]
    assert await sent(messages, window_for(7), 10_000) == [7]
    half = DEFAULT_HISTORY_TOKENS // 2 - MESSAGE_TOKENS
    assert await sent(talk(1, 1, half, half, 7)) == [half, half, 7]
    assert await sent(talk(1, 1, half, half + 1, 7)) == [7]


async def test_a_window_that_is_not_a_number_is_ignored() -> None:
    """A stand-in may have an attribute of any name."""
    assert await sent(talk(20, 30, 7), lambda: 1) == [20, 30, 7]


async def test_wrapped_models_tell_their_window() -> None:
    """The window and the counter are seen through the providers around a provider."""
    model = Counting(window_for(7))
    await Fitted(Checked(IdleTimeout(model, 1.0))).complete(talk(20, 30, 7))
    assert [len(message.content) for message in model.sent[0]] == [1, 7]


async def test_without_a_counter_tokens_are_estimated() -> None:
    """By `estimated_tokens`: the fake refuses by the same measure."""
    model = FakeLLM("ok", context_tokens=100)
    messages = talk(*[30] * 9)
    with pytest.raises(FakeRefusal, match="91 tokens are more than"):
        await FakeLLM("ok", context_tokens=90).complete(messages)
    assert await Fitted(model).complete(messages) == "ok"
    assert model.calls == 1


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("你好", 2), ("\ud800", 1)]
)
def test_estimate(text: str, tokens: int) -> None:
    """A token for three bytes, rounded up."""
    assert estimated_tokens(text) == tokens


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(0, 400))
async def test_what_is_sent_fits_and_is_the_end(sizes: list[int], window: int) -> None:
    """For any sizes: the newest messages, from a question on, within the window."""
    sizes = sizes if len(sizes) % 2 else sizes[1:] or [0]
    left = await sent(talk(*sizes), window)
    assert left
    assert sizes[-len(left) :] == left
    assert len(left) % 2 == 1
    assert len(left) == 1 or window_for(*left) * PROMPT_SHARE <= int(window * PROMPT_SHARE) + 1


async def test_what_has_begun_is_not_tried_again() -> None:
    """An answer that breaks off raises, whatever the reason: it must not begin anew."""
    model = Counting(failure=FakeRefusal(413, "too long"))
    with pytest.raises(FakeRefusal):
        _ = [piece async for piece in Fitted(model).stream(talk(20, 30, 7))]
    assert len(model.sent) == 1


@pytest.mark.parametrize("kernel", [chat, voice, streaming_voice])
@pytest.mark.parametrize("tokens", [-1, 1.5, True, "9"])
def test_a_wrong_limit_is_refused(kernel: Callable[..., Pipeline], tokens: Any) -> None:
    """When the kernel is made, and not in its turns."""
    with pytest.raises(InvalidConfigError, match="history_tokens"):
        kernel(history_tokens=tokens)


@pytest.mark.parametrize("kernel", [chat, voice, streaming_voice])
def test_a_kernel_with_a_limit_is_valid(kernel: Callable[..., Pipeline]) -> None:
    """It has the same stages; without a limit, equal ones."""
    names = [spec.name for spec in kernel().build().specs]
    assert [spec.name for spec in kernel(history_tokens=10).build().specs] == names
    assert kernel().stages == kernel().stages


async def test_real_providers_tell_their_window() -> None:
    """The local model knows it; a service cannot be asked, so the user says it."""
    async with OpenAIService("http://127.0.0.1:1/v1", api_key="x") as service:
        assert service.llm("m").context_tokens is None
        assert service.llm("m", context_tokens=8_192).context_tokens == 8_192
    with LlamaServer(context_tokens=512) as server:
        assert LocalLLM(server).context_tokens == 512
