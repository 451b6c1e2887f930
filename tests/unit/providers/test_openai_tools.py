"""Tool calls by OpenAI's protocol: what is sent, what comes back whole and in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stageflow import Message, PipelineContext, ProviderRegistry
from stageflow.errors import InvalidReplyError, NoAnswerError
from stageflow.kernels import chat
from stageflow.providers import (
    Answer,
    FakeDatabase,
    OpenAIService,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from tests.utils.errors import failure
from tests.utils.llm_server import Reply
from tests.utils.openai_server import KEY, OpenAIServer

EVENTS = {"Content-Type": "text/event-stream"}
ASKED = [Message("user", "Where is A7?")]


async def find_order(number: str) -> str:
    """Return where an order is."""
    return f"{number} is on its way"


OFFERED = [Tool(find_order).to_dict()]
CALL = {"id": "1", "type": "function", "function": {"name": "find_order", "arguments": "{}"}}


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def service(server: OpenAIServer) -> AsyncIterator[OpenAIService]:
    async with OpenAIService(server.url, api_key=KEY, trust_env=False) as service:
        yield service


def whole(message: Any, reason: str = "tool_calls", **more: Any) -> Reply:
    choice = {"message": {"content": None, **message}, "finish_reason": reason}
    return Reply(body=json.dumps({"choices": [choice], **more}))


def streamed(*deltas: Any, reason: str = "tool_calls", **more: Any) -> Reply:
    """A stream of these deltas, a reason, and then an event with what is `more`."""
    choices: list[Any] = [[{"delta": delta}] for delta in deltas]
    choices.append([{"delta": {}, "finish_reason": reason}])
    events = [{"choices": found} for found in choices] + ([{"choices": [], **more}] if more else [])
    return Reply(headers=EVENTS, body="".join(f"data: {json.dumps(e)}\n\n" for e in events))


async def both(service: OpenAIService, tools: Any = OFFERED) -> list[Any]:
    """The answer to a whole call, then the pieces of a stream."""
    llm = service.llm("echo")
    answer = await llm.complete(ASKED, tools=tools)
    return [answer, [piece async for piece in llm.stream(ASKED, tools=tools)]]


async def test_tools_calls_and_results_are_sent_as_the_protocol_says(
    server: OpenAIServer, service: OpenAIService
) -> None:
    call = ToolCall("1", "find_order", '{"number": "A7"}')
    result = Message("tool", ToolResult("It is \ud800 on its way.", "1"))
    asked = [*ASKED, Message("assistant", Answer("", tool_calls=[call])), result]
    await service.llm("echo").complete(asked, tools=OFFERED)
    (sent,) = server.requests
    assert sent["tools"] == OFFERED
    assert sent["messages"] == [
        {"role": "user", "content": "Where is A7?"},
        {"role": "assistant", "content": "", "tool_calls": [call.to_dict()]},
        {"role": "tool", "content": "It is ? on its way.", "tool_call_id": "1"},
    ]


async def test_calls_come_whole_and_in_pieces(server: OpenAIServer, service: OpenAIService) -> None:
    """Parts of two calls that arrive in turn are joined by their index."""
    parts: list[Any] = [
        {"content": "Let me "},
        {"content": "look."},
        {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "find_order"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"num'}}]},
        {"tool_calls": [{"index": 1, "id": "2", "function": {"name": "f", "arguments": ""}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": 'ber": "A7"}'}},
                {"index": 1, "function": {"arguments": "{}"}},
            ]
        },
    ]
    calls = [
        {"id": "1", "function": {"name": "find_order", "arguments": '{"number": "A7"}'}},
        {"id": "2", "function": {"name": "f", "arguments": "{}"}},
    ]
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    server.script.append(whole({"content": "Let me look.", "tool_calls": calls}, usage=usage))
    server.script.append(streamed(*parts, usage=usage))
    answer, (*words, last) = await both(service)
    assert (answer, "".join(words), last) == ("Let me look.", "Let me look.", "")
    for found in (answer, last):
        assert isinstance(found, Answer)
        assert found.finish_reason == "tool_calls"
        assert found.usage == Usage(12, 3)
        assert found.tool_calls == (
            ToolCall("1", "find_order", '{"number": "A7"}'),
            ToolCall("2", "f", "{}"),
        )


@pytest.mark.parametrize(
    ("call", "read"),
    [
        (CALL, ToolCall("1", "find_order", "{}")),
        ({**CALL, "id": None}, ToolCall("call_0", "find_order", "{}")),
        (
            {**CALL, "function": {"name": "f", "arguments": {"a": 1}}},
            ToolCall("1", "f", '{"a": 1}'),
        ),
        ({**CALL, "function": {"name": "f", "arguments": None}}, ToolCall("1", "f", "")),
        ({**CALL, "id": f"x{KEY}"}, ToolCall("x…", "find_order", "{}")),
    ],
)
async def test_what_services_leave_out_or_send_otherwise(
    call: Any, read: ToolCall, server: OpenAIServer, service: OpenAIService
) -> None:
    server.script += [whole({"tool_calls": [call]}), streamed({"tool_calls": [call]})]
    answer, pieces = await both(service)
    assert answer.tool_calls == pieces[-1].tool_calls == (read,)


@pytest.mark.parametrize(
    ("sent", "read"), [(["1", "1"], ["1", "call_1"]), (["call_1", ""], ["call_1", "call_2"])]
)
async def test_calls_with_one_id_stay_distinct(
    sent: list[str], read: list[str], server: OpenAIServer, service: OpenAIService
) -> None:
    calls = [{**CALL, "id": sent[n], "index": n} for n in range(2)]
    server.script += [whole({"tool_calls": calls}), streamed({"tool_calls": calls})]
    answer, pieces = await both(service)
    for found in (answer, pieces[-1]):
        assert [call.id for call in found.tool_calls] == read


@pytest.mark.parametrize("index", [{"index": 0}, {"index": [0]}, {}])
async def test_calls_come_apart_without_a_good_index(
    index: Any, server: OpenAIServer, service: OpenAIService
) -> None:
    """A second id begins a second call; what has no id belongs to the call before."""
    rest = {**index, "function": {"arguments": "{}"}}
    begun = [{**CALL, **index, "id": i, "function": {"name": i, "arguments": ""}} for i in "ab"]
    parts = [{"tool_calls": [part]} for part in (begun[0], rest, begun[1], rest)]
    server.script.append(streamed(*parts))
    found: list[Any] = [one async for one in service.llm("echo").stream(ASKED, tools=OFFERED)]
    assert found[-1].tool_calls == (ToolCall("a", "a", "{}"), ToolCall("b", "b", "{}"))


@pytest.mark.parametrize(
    "calls",
    [
        "find_order",
        7,
        ["find_order"],
        [None],
        [{"id": "1"}],
        [{**CALL, "function": None}],
        [{**CALL, "function": {"arguments": "{}"}}],
        [{**CALL, "function": {"name": 7, "arguments": "{}"}}],
        [{**CALL, "id": 7}],
    ],
)
async def test_calls_that_are_none_are_an_invalid_reply(
    calls: Any, server: OpenAIServer, service: OpenAIService
) -> None:
    """It can be retried, and leaves nothing half done."""
    server.script += [whole({"tool_calls": calls})] * 2
    error = await failure(service.llm("echo").complete(ASKED, tools=OFFERED))
    assert isinstance(error, InvalidReplyError), error
    server.script.clear()
    server.script.append(streamed({"tool_calls": calls}))

    async def read() -> list[str]:
        return [piece async for piece in service.llm("echo").stream(ASKED, tools=OFFERED)]

    assert isinstance(await failure(read()), InvalidReplyError)


async def test_a_refusal_is_an_answer_where_tools_are_given(
    server: OpenAIServer, service: OpenAIService
) -> None:
    server.script.append(whole({"refusal": "I will not."}, "stop"))
    server.script.append(streamed({"refusal": "I will "}, {"refusal": "not."}, reason="stop"))
    answer, (*words, last) = await both(service)
    assert answer == "".join(words) == "I will not."
    assert answer.finish_reason == last.finish_reason == "refusal"


async def test_what_some_services_send(server: OpenAIServer, service: OpenAIService) -> None:
    """Halves of a character in two pieces, no delta at the end, a refusal in several pieces."""
    halves = str(streamed({"content": "a\ud83d"}, {"content": "\ude0a"}, reason="stop").body)
    server.script.append(Reply(headers=EVENTS, body=halves.replace('"delta": {}', '"delta": null')))
    server.script.append(streamed({"refusal": "I will "}, {"refusal": "not."}, reason="stop"))
    llm = service.llm("echo")
    assert [piece async for piece in llm.stream(ASKED)] == [
        "a",
        "\N{SMILING FACE WITH SMILING EYES}",
    ]
    with pytest.raises(NoAnswerError, match="I will not"):
        await anext(llm.stream(ASKED))


async def test_a_call_in_the_older_form(server: OpenAIServer, service: OpenAIService) -> None:
    server.script.append(whole({"function_call": {"name": "sum", "arguments": "[]"}}, "stop"))
    answer = await service.llm("echo").complete(ASKED, tools=OFFERED)
    assert getattr(answer, "tool_calls", None) == (ToolCall("call_0", "sum", "[]"),)


@pytest.mark.parametrize("reason", ["tool_calls", "function_call", "length"])
async def test_a_reason_without_calls_is_not_an_answer(
    reason: str, server: OpenAIServer, service: OpenAIService
) -> None:
    server.script.append(whole({}, reason))
    error = await failure(service.llm("echo").complete(ASKED, tools=OFFERED))
    assert isinstance(error, NoAnswerError)
    assert error.finish_reason == reason


@pytest.mark.parametrize("usage", [None, "12", {}, {"prompt_tokens": "1", "completion_tokens": 2}])
async def test_a_usage_that_is_none_is_left_out(
    usage: Any, server: OpenAIServer, service: OpenAIService
) -> None:
    server.script.append(whole({"content": "Hello."}, "stop", usage=usage))
    assert type(await service.llm("echo").complete(ASKED)) is str


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_chat_calls_a_tool_of_a_real_client(
    streaming: bool, server: OpenAIServer, service: OpenAIService
) -> None:
    """The service gets the result of the call, and its answer is the turn's."""
    function = {"name": "find_order", "arguments": '{"number": "A7"}'}
    made = {"tool_calls": [{**CALL, "index": 0, "function": function}]}
    server.script.append(streamed(made) if streaming else whole(made))
    providers = ProviderRegistry(llm=service.llm("echo"), db=FakeDatabase())
    ctx = PipelineContext({"text": "Where is A7?", "user_id": "ada"}, providers=providers)
    result = await chat(tools=[find_order], streaming=streaming).run(ctx)
    # The server repeats the last message, which is the result.
    assert result.unwrap()["answer"] == "A7 is on its way"
    assert server.requests[1]["messages"][-1]["tool_call_id"] == "1"
