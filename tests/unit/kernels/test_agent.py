"""The loop of a model and its tools, in all kernels: calls, events, retries and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from stageflow import (
    Message,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
    StageContext,
    stage,
)
from stageflow.dlq import SQLiteDeadLetterStore, replay
from stageflow.errors import ToolError
from stageflow.interceptors import RetryInterceptor, RetryPolicy
from stageflow.kernels import Agent, chat, default_providers, streaming_voice, voice
from stageflow.providers import (
    Answer,
    Checked,
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    Fallback,
    IdleTimeout,
    Tool,
    Toolbox,
    ToolCall,
    calling,
    speech_of_text,
)
from stageflow.providers.local import LocalLLM
from stageflow.testing import FaultType, Recorder, Simulation, explore, inject_fault, recorded
from tests.utils.assertions import assert_run_sound
from tests.utils.mocks import RecordingSink
from tests.utils.virtual_time import run_virtual

KERNELS: list[Callable[..., Pipeline]] = [
    chat,
    voice,
    streaming_voice,
    lambda **options: chat(streaming=True, **options),
]
kernels = pytest.mark.parametrize(
    "kernel", KERNELS, ids=["chat", "voice", "streaming_voice", "streaming_chat"]
)


class Shop:
    """Two tools, and what they were called with."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.calls: list[Any] = []
        self.keys: list[str] = []
        self.failures: list[Exception] = []
        self.at_once = self.most_at_once = 0

    async def find_order(self, number: str, idempotency_key: str) -> dict[str, str]:
        """Return where an order is."""
        self.calls.append(number)
        self.keys.append(idempotency_key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if self.failures:
            raise self.failures.pop(0)
        return {"state": f"{number} is on its way"}

    def tool(self, **options: Any) -> Tool:
        return Tool(self.find_order, **options)


def asked(*numbers: str, text: str = "", reason: str = "tool_calls") -> Answer:
    """An answer that calls the tool for each number."""
    calls = [ToolCall(f"id-{n}", "find_order", json.dumps({"number": n})) for n in numbers]
    return Answer(text, reason, tool_calls=calls)


class Model(FakeLLM):
    """A fake that keeps the conversations and tools that it was given."""

    def __init__(self, *answers: str, **options: Any) -> None:
        super().__init__(answers, **options)
        self.asked: list[list[Message]] = []
        self.tools: list[Any] = []

    async def complete(self, messages: Sequence[Message], *, tools: Any = ()) -> str:
        self.asked.append(list(messages))
        self.tools.append(tools)
        return await super().complete(messages)

    async def stream(self, messages: Sequence[Message], *, tools: Any = ()) -> AsyncIterator[str]:
        self.asked.append(list(messages))
        self.tools.append(tools)
        async for piece in super().stream(messages):
            yield piece


def context(llm: Any, **more: Any) -> PipelineContext:
    """Return a context for any kernel."""
    providers = ProviderRegistry(
        llm=llm, stt=FakeSTT(), tts=FakeTTS(), db=FakeDatabase(), speaker=FakeSpeaker(), **more
    )
    inputs = {"text": "Where is A7?", "audio": speech_of_text("Where is A7?"), "user_id": "ada"}
    return PipelineContext(inputs, providers=providers, seed=1)


def taken(pipeline: Pipeline, llm: Any, **more: Any) -> RunResult:
    """A turn, in virtual time."""
    return run_virtual(lambda: pipeline.run(context(llm, **more)))


def words(result: RunResult) -> list[str]:
    """The events of the tools, in order."""
    return [e.what.removeprefix("tool_") for e in result.events if e.what.startswith("tool_")]


def code(result: RunResult) -> str:
    return "" if result.failure is None else result.failure.code


@kernels
def test_a_kernel_calls_tools_by_one_argument(kernel: Callable[..., Pipeline]) -> None:
    """The model gets the schemas, then the results, and its answer is the turn's."""
    shop, model = Shop(), Model(asked("A7"), "It is on its way.")
    pipeline = kernel(tools=[shop.find_order])
    result = taken(pipeline, model)
    assert result.unwrap()["answer"] == "It is on its way."
    assert_run_sound(pipeline, result)
    assert shop.calls == ["A7"]
    assert model.tools == [[Tool(shop.find_order).to_dict()]] * 2
    call, answer = (message.to_dict() for message in model.asked[1][-2:])
    function = {"name": "find_order", "arguments": '{"number": "A7"}'}
    call_again = [{"id": "id-A7", "type": "function", "function": function}]
    assert call == {"role": "assistant", "content": "", "tool_calls": call_again}
    state = '{"state": "A7 is on its way"}'
    assert answer == {"role": "tool", "content": state, "tool_call_id": "id-A7"}
    started, completed = (dict(e.data) for e in result.events if e.what.startswith("tool_"))
    assert started["arguments"] == '{"number": "A7"}'
    assert completed["result"] == state
    assert started["idempotency_key"] == completed["idempotency_key"] == shop.keys[0]


@kernels
def test_tools_of_one_reply_run_at_once(kernel: Callable[..., Pipeline]) -> None:
    """So that two calls take the time of one; their results keep the order of the calls."""
    shop, model = Shop(takes_s=2.0), Model(asked("A", "B"), "Both are.")
    result = taken(kernel(tools=[shop.find_order]), model)
    assert result.unwrap()["answer"] == "Both are."
    assert shop.most_at_once == 2
    found = [message.to_dict()["tool_call_id"] for message in model.asked[1][-2:]]
    assert found == ["id-A", "id-B"]
    assert words(result) == ["started", "started", "completed", "completed"]


@kernels
def test_what_the_model_says_before_a_call_is_said_once(kernel: Callable[..., Pipeline]) -> None:
    model = Model(asked("A7", text="Let me look."), "It is on its way.")
    result = taken(kernel(tools=[Shop().find_order]), model)
    assert result.unwrap()["answer"] == "Let me look.\n\nIt is on its way."
    if "sentences" in result.bag:
        assert list(result.bag["sentences"].items()) == [
            "Let me look.\n",
            "\nIt is on its way.",
        ]


def one(name: str, arguments: str) -> Answer:
    return Answer("", tool_calls=[ToolCall("1", name, arguments)])


def replies() -> dict[str, tuple[Any, str, str, list[str]]]:
    """Yield replies of a service with their code, part of the answer, and the calls' outcome."""
    fine, bad = "It is on its way.", ["started", "failed"]
    return {
        "a call": ([asked("A7"), fine], "", fine, ["started", "completed"]),
        "half JSON": ([one("find_order", '{"number": "A'), fine], "", fine, bad),
        "HTML": ([one("find_order", "<html></html>"), fine], "", fine, bad),
        "a list": ([one("find_order", '["A7"]'), fine], "", fine, bad),
        "a wrong type": ([one("find_order", '{"number": 7}'), fine], "", fine, bad),
        "a wrong name": ([one("find_order", '{"numbr": "7"}'), fine], "", fine, bad),
        "arguments of None": ([one("find_order", cast("str", None)), fine], "", fine, bad),
        "no arguments": ([one("find_order", ""), fine], "", fine, bad),
        "an unknown tool": ([one("find_ordr", "{}"), fine], "", fine, bad),
        "a tool without a name": ([one("", "{}"), fine], "", fine, bad),
        "endless rounds": ([asked("A7")], "too_many_tool_calls", "", ["started", "completed"] * 3),
        "too many at once": ([asked(*map(str, range(6)))], "too_many_tool_calls", "", []),
        "cut in a call": ([asked("A7", reason="length")], "no_answer", "", []),
        "filtered in a call": ([asked("A7", reason="content_filter")], "no_answer", "", []),
        "nothing": ([""], "invalid_reply", "", []),
        "nothing after a call": ([asked("A7"), " "], "invalid_reply", "", ["started", "completed"]),
        "cut": ([asked("A7"), Answer("It is", "length")], "", "It is", ["started", "completed"]),
        "a refusal": ([Answer("I will not.", "refusal")], "", "I will not.", []),
    }


@kernels
@pytest.mark.parametrize("reply", replies())
def test_each_reply_has_its_outcome(reply: str, kernel: Callable[..., Pipeline]) -> None:
    """A mistake of the model is reported to it; what cannot be an answer is a typed error."""
    answers, failure, said, calls = replies()[reply]
    shop = Shop()
    pipeline = kernel(tools=Toolbox([shop.find_order], max_rounds=3, max_calls=5))
    result = taken(pipeline, Model(*answers))
    assert (code(result), words(result)) == (failure, calls)
    assert_run_sound(pipeline, result)
    if failure:
        assert result.user_message
        assert "tool" not in str(result.user_message)
    else:
        assert result.unwrap()["answer"] == said


def test_a_cut_or_refused_answer_is_an_event() -> None:
    for answer, what in ((Answer("It", "length"), "cut"), (Answer("No.", "refusal"), "refused")):
        result = taken(chat(tools=[Shop().find_order]), Model(answer))
        assert [e.what for e in result.events if e.what.startswith("answer_")] == [f"answer_{what}"]


def test_the_error_of_bad_arguments_reaches_the_model() -> None:
    """Its text names what was wrong, so that the model can correct the call."""
    model = Model(calling("find_order", nummer="A7"), asked("A7"), "Found.")
    assert taken(chat(tools=[Shop().find_order]), model).unwrap()["answer"] == "Found."
    told = json.loads(model.asked[1][-1].content)["error"]
    assert "nummer is not an argument, did you mean 'number'?; number is missing" in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ToolError("there is no order A7"), "there is no order A7"),
        (ConnectionError("postgres://ada:secret@db"), "it failed: connection_failed"),
        (ValueError("secret"), "it failed: stage_raised"),
    ],
)
def test_what_a_tool_raises_is_reported_to_the_model(error: Exception, told: str) -> None:
    """The text of a ToolError, and of others only the code, as they may hold secrets."""
    shop, model = Shop(), Model(asked("A7"), "Sorry.")
    shop.failures.append(error)
    result = taken(chat(tools=[shop.find_order]), model)
    assert result.unwrap()["answer"] == "Sorry."
    assert json.loads(model.asked[1][-1].content) == {"error": told}
    assert words(result) == ["started", "failed"]


@kernels
def test_what_a_tool_raises_fails_the_turn_by_choice(kernel: Callable[..., Pipeline]) -> None:
    """Calls at the same time are cancelled, and say so."""
    shop = Shop(takes_s=1.0)

    async def pay() -> None:
        """Pay."""
        raise ConnectionError("no route to the bank")

    answer = Answer("", tool_calls=[*asked("A7").tool_calls, ToolCall("2", "pay", "{}")])
    result = taken(kernel(tools=[shop.find_order, Tool(pay, on_error="fail")]), Model(answer))
    assert code(result) == "connection_failed"
    assert words(result) == ["started", "started", "failed", "cancelled"]
    assert shop.at_once == 0


async def cancelled(number: str) -> str:
    """Await what somebody cancelled."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    return str(await waiting)


def test_a_cancellation_within_a_tool_is_a_failure_of_the_tool() -> None:
    """Nobody has cancelled the turn, so it goes on."""
    model = Model(one("cancelled", '{"number": "A7"}'), "I cannot see it now.")
    result = taken(chat(tools=[cancelled]), model)
    assert result.unwrap()["answer"] == "I cannot see it now."
    assert "stray_cancellation" in model.asked[1][-1].content
    assert words(result) == ["started", "failed"]


def test_what_is_not_an_exception_ends_the_run_with_an_event() -> None:
    """As in a stage; no call is left without its end."""

    class StopError(BaseException):
        pass

    async def stop() -> str:
        raise StopError

    async def run() -> list[str]:
        sink = RecordingSink()
        with pytest.raises(StopError), chat(tools=[stop]).bind(sinks=[sink]) as turn:
            await turn.run(context(Model(one("stop", "{}"))))
        return [event.what for event in sink.events if "tool" in event.what]

    assert run_virtual(run) == ["tool_started", "tool_failed"]


def test_each_call_has_its_own_time_and_retry() -> None:
    """The attempts of a call share its key."""
    shop, model = Shop(takes_s=1.0), Model(asked("A7"), "Fine.")
    shop.failures.append(ConnectionError("reset"))
    tool = shop.tool(retry=RetryPolicy(attempts=2))
    result = taken(chat(tools=[tool]), model)
    assert words(result) == ["started", "retrying", "completed"]
    assert len(shop.keys) == 2
    assert len(set(shop.keys)) == 1
    slow = taken(chat(tools=[shop.tool(timeout_s=0.5)]), model := Model(asked("A7"), "Fine."))
    assert words(slow) == ["started", "failed"]
    assert "longer than 0.5 s" in model.asked[1][-1].content


def test_the_time_of_all_rounds_is_limited() -> None:
    """It is the time limit of the stage; the call that runs is cancelled, and recorded."""
    shop = Shop(takes_s=3.0)
    box = Toolbox([shop.find_order], timeout_s=5.0)
    result = taken(chat(tools=box), Model(asked("A7")))
    assert code(result) == "stage_timeout"
    assert words(result) == ["started", "completed", "started", "cancelled"]


@kernels
def test_a_cancelled_turn_records_the_call(kernel: Callable[..., Pipeline]) -> None:
    """Barge-in while a tool runs: the tool is cancelled before the run has ended."""
    shop, ctx = Shop(takes_s=60.0), context(Model(asked("A7", "A8")))

    async def main() -> None:
        run = asyncio.ensure_future(kernel(tools=[shop.tool(timeout_s=100.0)]).run(ctx))
        await asyncio.sleep(20.0)
        assert shop.at_once == 2
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled()

    run_virtual(main)
    assert shop.at_once == 0
    calls = [e.what for e in ctx.get_events() if e.what.startswith("tool_")]
    assert calls == ["tool_started"] * 2 + ["tool_cancelled"] * 2


class Dying(Model):
    """A model that is down for some calls, counted from 1."""

    def __init__(self, *answers: str, down: Sequence[int]) -> None:
        super().__init__(*answers)
        self._down = down

    async def complete(self, messages: Sequence[Message], *, tools: Any = ()) -> str:
        if len(self.asked) + 1 in self._down:
            self.asked.append(list(messages))
            raise ConnectionError("reset")
        return await super().complete(messages, tools=tools)


def test_a_retry_of_the_stage_does_not_repeat_a_call() -> None:
    """The call that completed has its result, and says that it is the earlier one."""
    shop = Shop()
    model = Dying(asked("A7"), asked("A7"), "Fine.", down=[2])
    turn = PipelineOrchestrator(
        chat(tools=[shop.find_order]).build(), interceptors=[RetryInterceptor()]
    )
    result = run_virtual(lambda: turn.run(context(model)))
    assert result.unwrap()["answer"] == "Fine."
    assert shop.calls == ["A7"]
    assert words(result) == ["started", "completed", "completed"]


@pytest.mark.parametrize("seed", [None, 3])
async def test_a_replay_does_not_repeat_a_call(seed: int | None, tmp_path: Path) -> None:
    """Of the dead letter of a run that failed after the call; nor does a second replay."""
    shop = Shop()
    turn = PipelineOrchestrator(chat(tools=[shop.find_order]).build())
    first = Dying(asked("A7"), down=[2])
    async with SQLiteDeadLetterStore(tmp_path / "letters.db") as store:
        ctx = context(first)
        ctx = PipelineContext(ctx.inputs, providers=ctx.providers, dead_letters=store, seed=seed)
        assert code(await turn.run(ctx)) == "connection_failed"
        letter = ctx.dlq_entry
        assert letter is not None
        again = Dying(asked("A7", "B8"), down=[2])
        failed = await replay(letter, turn, store, providers=context(again).providers)
        assert code(failed) == "connection_failed"
        assert shop.calls == ["A7", "B8"]
        last = Model(asked("B8"), asked("A7"), "Both are.")
        result = await replay(letter.id, turn, store, providers=context(last).providers)
    assert result.unwrap()["answer"] == "Both are."
    assert shop.calls == ["A7", "B8"]
    assert len(set(shop.keys)) == 2


def test_equal_calls_of_one_turn_are_both_made() -> None:
    shop = Shop()
    taken(chat(tools=[shop.find_order]), Model(asked("A7"), asked("A7"), "Fine."))
    assert len(set(shop.keys)) == 2


@kernels
@pytest.mark.parametrize(
    "kind", ["timeout", "error", "slow", "rate_limited", "disconnect", "empty"]
)
def test_faults_meet_the_calls(kind: str, kernel: Callable[..., Pipeline]) -> None:
    """Each fault of a tool is reported to the model, which answers."""
    shop = Shop()
    with inject_fault("tools", kind, method="find_order") as fault:
        result = taken(kernel(tools=[shop.find_order]), Model(asked("A7"), "Sorry."))
    assert (fault.injected, result.unwrap()["answer"]) == (1, "Sorry.")
    assert words(result)[-1] == ("completed" if kind == "slow" else "failed")


def test_a_fault_of_one_tool_spares_the_others() -> None:
    shop = Shop()
    with inject_fault("tools", FaultType.INVALID, method="pay", allow_unused=True) as fault:
        result = taken(chat(tools=[shop.find_order]), Model(asked("A7"), "Fine."))
    assert (fault.calls, words(result)) == (0, ["started", "completed"])


def test_a_provider_called_tools_takes_the_place_of_the_functions() -> None:
    class Double:
        async def find_order(self, number: str) -> dict[str, str]:
            return {"state": f"{number} from a test"}

    shop, model = Shop(), Model(asked("A7"), "Fine.")
    taken(chat(tools=[shop.find_order]), model, tools=Double())
    assert shop.calls == []
    assert model.asked[1][-1].content == '{"state": "A7 from a test"}'


@kernels
def test_a_recorded_turn_replays_without_the_functions(
    kernel: Callable[..., Pipeline], tmp_path: Path
) -> None:
    shop, ctx = Shop(takes_s=1.0), context(Model(asked("A7"), "It is on its way."))

    async def record() -> None:
        with Recorder(ctx.providers) as recorder:
            result = await kernel(tools=[shop.find_order]).run(ctx)
        recorder.save(tmp_path / "turn.json", ctx, result)

    run_virtual(record)
    result = recorded(tmp_path / "turn.json").replay(kernel(tools=[shop.find_order]))
    assert result.unwrap()["answer"] == "It is on its way."
    assert shop.calls == ["A7"]


class Simple:
    """A model without tools."""

    async def complete(self, messages: Sequence[Message]) -> str:
        return "Hello."

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield "Hello."


@kernels
@pytest.mark.parametrize("wrap", [lambda m: m, Checked, lambda m: IdleTimeout(Checked(m), 5.0)])
def test_a_model_that_cannot_call_tools_says_so(
    kernel: Callable[..., Pipeline], wrap: Callable[[Any], Any]
) -> None:
    result = taken(kernel(tools=[Shop().find_order]), wrap(Simple()))
    assert code(result) == "tools_unsupported"
    assert "Simple cannot call tools" in str(result.failure)
    assert taken(kernel(), wrap(Simple())).unwrap()["answer"] == "Hello."


def test_the_model_on_this_machine_cannot_call_tools() -> None:
    """It says so before its process starts."""
    result = taken(chat(tools=[Shop().find_order]), object.__new__(LocalLLM))
    assert code(result) == "tools_unsupported"
    assert "LocalLLM cannot call tools" in str(result.failure)


@kernels
def test_a_fallback_that_cannot_call_tools_says_so(kernel: Callable[..., Pipeline]) -> None:
    with inject_fault("primary", "error") as fault:
        model = Fallback(fault.around(Model("x")), Simple())
        result = taken(kernel(tools=[Shop().find_order]), model)
    assert code(result) == "tools_unsupported"


@kernels
def test_wrappers_hand_calls_on(kernel: Callable[..., Pipeline]) -> None:
    shop = Shop()
    model = Fallback(IdleTimeout(Checked(Model(asked("A7"), "Fine.")), 5.0), Model("No."))
    assert taken(kernel(tools=[shop.find_order]), model).unwrap()["answer"] == "Fine."
    assert shop.calls == ["A7"]


def test_the_calls_of_the_newest_question_are_not_history() -> None:
    """The whole of them is sent, however few tokens the history may have."""
    shop, model = Shop(), Model("Hello.", asked("A7"), "Fine.")
    providers = context(model).providers
    turn = chat(tools=[shop.find_order], history_tokens=0).bind(providers=providers)

    async def main() -> None:
        await turn.run(text="Hi", user_id="ada")
        await turn.run(text="Where is A7?", user_id="ada")

    run_virtual(main)
    assert [message.role for message in model.asked[2]] == ["system", "user", "assistant", "tool"]


async def test_an_agent_in_a_stage_of_ones_own() -> None:
    shop = Shop()

    @stage(provider="llm")
    async def answer(ctx: StageContext, question: str) -> str:
        return await Agent(ctx, [shop.find_order]).complete([Message("user", question)])

    providers = ProviderRegistry(llm=Model(asked("A7"), "Fine."))
    turn = Pipeline("own", [answer], inputs=["question"]).bind(providers=providers)
    assert (await turn.run(question="Where?")).unwrap()["answer"] == "Fine."


async def ordered(sim: Simulation) -> None:
    shop, ctx = Shop(takes_s=0.2), context(Model(asked("A", "B"), asked("C"), "Fine."))
    pipeline = streaming_voice(tools=[shop.find_order])
    result = await pipeline.run(ctx)
    assert result.unwrap()["answer"] == "Fine."
    assert sorted(shop.calls) == ["A", "B", "C"]
    assert_run_sound(pipeline, result)


def test_calls_end_in_any_order() -> None:
    """Each call that begins ends, and the turn is sound."""
    explore(ordered, runs=3)


def test_defaults_have_no_tools() -> None:
    result = run_virtual(
        lambda: chat(tools=[]).run(
            PipelineContext({"text": "Hi", "user_id": "ada"}, providers=default_providers())
        )
    )
    assert result.unwrap()["answer"] == "You said: Hi"
