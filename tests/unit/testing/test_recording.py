"""A recorded turn is replayed as it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from stageflow import (
    Message,
    Pipeline,
    ProviderRegistry,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
    Stream,
    stage,
)
from stageflow.codec import DEFAULT_CODEC, Codec, StoredType
from stageflow.errors import RecordedError, StageflowError, StageRaisedError
from stageflow.interceptors import RetryInterceptor
from stageflow.kernels import chat, default_providers, streaming_voice, voice
from stageflow.providers import FakeLLM, LatencyProfile
from stageflow.testing import (
    FaultType,
    Recorder,
    RecordingMismatchError,
    Simulation,
    inject_fault,
    recorded,
    simulate,
)
from stageflow.testing.recording.recorder import error_again, plain_error
from tests.utils.errors import raises_code
from tests.utils.recordings import record

KERNELS: Mapping[str, Callable[[], Pipeline]] = {
    "voice": voice,
    "streaming_voice": streaming_voice,
    "chat": chat,
}


@stage(outputs=["all"], provider="llm")
async def plain_answer(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(all=await ctx.llm.complete([Message("user", "Hi")]))


def told(result: RunResult) -> list[tuple[str, float]]:
    """Return the events and their times, to the microsecond that a file keeps."""
    return [(event.type, round(event.offset_ms, 1)) for event in result.events]


def fitting() -> list[tuple[str, FaultType]]:
    """Each provider with each fault that it can have."""
    found = []
    for provider in ("llm", "stt", "tts", "db"):
        for fault in FaultType:
            with suppress(StageflowError):
                inject_fault(provider, fault)
                found.append((provider, fault))
    return found


@pytest.mark.parametrize("faults", [[], *([fault] for fault in fitting())])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_turn_goes_as_it_was_recorded(
    kernel: str, faults: list[tuple[str, FaultType]], tmp_path: Path
) -> None:
    """Each kernel, well and under each fault: the same events at the same times."""
    path = tmp_path / "turn.json"
    before = record(path, KERNELS[kernel](), *faults)
    turn = recorded(path)
    after = turn.replay(KERNELS[kernel]())
    assert told(after) == told(before)
    assert (after.error, after.user_message) == (before.error, before.user_message)
    whole = {k: v for k, v in before.bag.items() if not isinstance(v, Stream)}
    assert {k: v for k, v in turn.outputs.items() if not isinstance(v, Stream)} == whole
    for key in {"sentences", "sound"} & before.bag.keys():
        assert (key in turn.outputs) == before.bag[key].whole
        if key in turn.outputs:
            assert turn.outputs[key].items() == before.bag[key].items()


def test_a_turn_past_its_deadline(tmp_path: Path) -> None:
    """The limit is part of the turn, and strikes again."""
    path = tmp_path / "turn.json"
    before = record(path, streaming_voice(), deadline_s=0.2)
    assert before.failure is not None
    after = recorded(path).replay(streaming_voice())
    assert after.failure is not None
    assert after.failure.code == "deadline_exceeded"
    assert told(after) == told(before)


def test_a_stage_that_was_tried_again(tmp_path: Path) -> None:
    """Each attempt is a call of its own, and the retry needs to know which errors are worth one."""
    path = tmp_path / "turn.json"
    retry = RetryInterceptor()
    script = inject_fault("llm", FaultType.INTERMITTENT, script="fail, ok")
    with script:
        before = record(path, chat(), interceptors=(retry,), seed=7)
    calls = json.loads(path.read_text())["calls"]
    assert [c["ending"] for c in calls if c["provider"] == "llm"] == ["failed", "answered"]
    after = recorded(path).replay(chat(), interceptors=(RetryInterceptor(),))
    assert told(after) == told(before)


@stage(outputs=["answer"], timeout_s=5.0, provider="ai")
async def asks_a_part(ctx: StageContext) -> StageOutput:
    answer = await ctx.provider("ai").chat.completions.create(question="Hi")
    return StageOutput.ok(answer=answer)


def test_a_call_of_a_part_of_a_client_is_recorded(tmp_path: Path) -> None:
    """By its path, as OpenAI's client has it; the replayed client has the same parts."""
    path = tmp_path / "turn.json"
    create = AsyncMock(return_value="Hello.")
    completions = SimpleNamespace(completions=SimpleNamespace(create=create))
    providers = ProviderRegistry(ai=SimpleNamespace(chat=completions))
    record(path, Pipeline("ask", [asks_a_part]), providers=providers, inputs={})
    (call,) = calls_in(path)
    assert (call["method"], call["options"]) == ("chat.completions.create", {"question": "Hi"})
    result = recorded(path).replay(Pipeline("ask", [asks_a_part]))
    assert (result.outputs["answer"], create.await_count) == ("Hello.", 1)


@stage(outputs=["first"], timeout_s=5.0, provider="llm")
async def takes_one_piece(ctx: StageContext) -> StageOutput:
    stream: Any = ctx.llm.stream([Message("user", "Hi")])
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            return StageOutput.ok(first=piece)
    return StageOutput.fail("there was none")


@stage(outputs=["all"], timeout_s=5.0, provider="llm")
async def takes_all(ctx: StageContext) -> StageOutput:
    pieces = [piece async for piece in ctx.llm.stream([Message("user", "Hi")])]
    return StageOutput.ok(all="".join(pieces))


def calls_in(path: Path) -> list[dict[str, Any]]:
    """The calls that a file holds."""
    calls: list[dict[str, Any]] = json.loads(path.read_text())["calls"]
    return calls


def test_what_was_waited_for_is_in_the_file(tmp_path: Path) -> None:
    """When a call began, how long each piece took, and how it ended, as the fake was set."""
    path = tmp_path / "turn.json"
    llm = FakeLLM("One two three", latency=LatencyProfile.fixed(300))
    pipeline = Pipeline("all", [takes_all])
    record(path, pipeline, providers=ProviderRegistry(llm=llm), inputs={})
    (call,) = calls_in(path)
    assert call["streamed"] is True
    assert call["pieces"] == [[100.0, "One "], [100.0, "two "], [100.0, "three"]]
    assert (call["began_ms"], call["ending"], call["ending_ms"]) == (0.0, "answered", 0.0)
    record(path, chat())
    get, complete, again, put = calls_in(path)
    assert (get["streamed"], complete["streamed"]) == (False, False)
    waited = [call["pieces"][0][0] for call in (get, complete, again)]
    assert complete["began_ms"] == pytest.approx(waited[0], abs=0.01)
    assert again["began_ms"] == pytest.approx(sum(waited[:2]), abs=0.01)
    assert put["began_ms"] == pytest.approx(sum(waited), abs=0.01)


def test_a_stream_that_was_left(tmp_path: Path) -> None:
    """Its reader may leave it again, and not read on: that would be another turn."""
    path = tmp_path / "turn.json"
    llm = FakeLLM("One two three", latency=LatencyProfile.fixed(300))
    leaves = Pipeline("reads", [replace(takes_one_piece, name="read")])
    record(path, leaves, providers=ProviderRegistry(llm=llm), inputs={})
    (call,) = calls_in(path)
    assert (call["pieces"], call["ending"]) == ([[100.0, "One "]], "left")
    assert recorded(path).replay(leaves).outputs == {"first": "One "}
    stays = Pipeline("reads", [replace(takes_all, name="read", timeout_s=None)])
    with pytest.raises(
        RecordingMismatchError, match=r"call 1, llm\.stream, was left when the turn"
    ):
        recorded(path).replay(stays)


@pytest.mark.parametrize("runner", [takes_all, plain_answer])
def test_a_call_that_was_cancelled(runner: StageSpec, tmp_path: Path) -> None:
    """It is cancelled again, at the same time; a caller that waits longer gets an error."""
    path = tmp_path / "turn.json"
    llm = FakeLLM("One", latency=LatencyProfile.fixed(9_000))
    hasty = Pipeline("asks", [replace(runner, name="ask", timeout_s=1.0)])
    record(path, hasty, providers=ProviderRegistry(llm=llm), inputs={})
    (call,) = calls_in(path)
    assert (call["pieces"], call["ending"], call["ending_ms"]) == ([], "cancelled", 1_000.0)
    after = recorded(path).replay(hasty)
    assert (after.duration_ms, after.failure and after.failure.code) == (1_000.0, "stage_timeout")
    patient = Pipeline("asks", [replace(runner, name="ask", timeout_s=50.0)])
    assert recorded(path).replay(patient).duration_ms == 50_000.0
    very_patient = Pipeline("asks", [replace(runner, name="ask", timeout_s=None)])
    with pytest.raises(RecordingMismatchError, match="was cancelled when the turn was recorded"):
        recorded(path).replay(very_patient)


class Span:
    """Numbers, and nothing that a codec knows by itself."""

    def __init__(self, low: int, high: int) -> None:
        self._numbers = range(low, high)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)


class Gauge:
    """A provider of no port: a function, and a method that takes names."""

    async def __call__(self, place: str) -> float:
        return len(place) / 3

    async def between(self, *, low: int, high: int) -> Span:
        return Span(low, high)


@stage(outputs=["wind"])
async def measure(ctx: StageContext) -> StageOutput:
    gauge = ctx.provider("gauge")
    found = await gauge.between(low=1, high=3)
    return StageOutput.ok(wind=[await gauge("roof"), *found])


SPANS = Codec(
    [StoredType("span", Span, lambda s: [*s], lambda parts: Span(parts[0], parts[-1] + 1))]
)


def test_any_provider_is_heard(tmp_path: Path) -> None:
    """Functions, methods of any name, arguments by name, and types that a codec knows."""
    path, pipeline = tmp_path / "turn.json", Pipeline("weather", [measure])
    record(path, pipeline, providers=ProviderRegistry(gauge=Gauge()), inputs={}, codec=SPANS)
    after = recorded(path, codec=SPANS).replay(pipeline)
    assert after.outputs == {"wind": [4 / 3, 1, 2]}


def test_a_value_that_no_file_can_hold(tmp_path: Path) -> None:
    """It is named with its call, and the earlier file is still there."""
    path, pipeline = tmp_path / "turn.json", Pipeline("weather", [measure])
    path.write_text("earlier")
    with raises_code("unrecordable_value") as caught:
        record(path, pipeline, providers=ProviderRegistry(gauge=Gauge()), inputs={})
    where = "call 1, gauge.between: answered['pieces'][0][1] is of type"
    assert f"{where} {Span.__module__}.Span: " in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == ["turn.json"]
    assert path.read_text() == "earlier"


def test_an_output_that_no_file_can_hold(tmp_path: Path) -> None:
    """Is left out, and not asked for; the others are held to."""

    @stage(outputs=["odd", "even"])
    async def makes(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(odd=object(), even=[2])

    path, pipeline = tmp_path / "turn.json", Pipeline("makes", [makes])
    record(path, pipeline, providers=ProviderRegistry(), inputs={})
    assert json.loads(path.read_text())["unkept"] == ["odd"]
    assert recorded(path).outputs == {"even": [2]}
    assert recorded(path).replay(pipeline).outputs["even"] == [2]


def test_an_error_that_is_not_known_any_more(tmp_path: Path) -> None:
    """Has the code, the category and the words of then."""
    told = plain_error(StageflowError("no bread left"), DEFAULT_CODEC) | {
        "code": "gone",
        "category": "policy",
        "user_message": "Come back tomorrow.",
        "retryable": True,
        "retry_after_s": 5.0,
    }
    again = error_again(told, DEFAULT_CODEC)
    assert isinstance(again, RecordedError)
    assert (again.code, again.category, str(again)) == ("gone", "policy", "no bread left")
    assert (again.user_message, again.retryable) == ("Come back tomorrow.", True)
    assert again.retry_after_s == 5.0


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names it and why."""
    with raises_code("recording_file", match=r"turn\.json: it cannot be written \(No such file"):
        record(tmp_path / "none" / "turn.json", chat())


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "reset"),
        TimeoutError("too late"),
        KeyError("gone"),
        StageRaisedError(ValueError("slow down"), "rate_limited"),
    ],
)
def test_an_error_is_of_the_same_class(error: Exception, tmp_path: Path) -> None:
    """A stage that handles one error and not another goes the same way again."""

    class Broken(FakeLLM):
        async def complete(self, messages: object) -> str:
            raise error

    @stage(outputs=["seen"])
    async def ask(ctx: StageContext) -> StageOutput:
        try:
            await ctx.llm.complete([Message("user", "Hi")])
        except type(error) as seen:
            return StageOutput.ok(seen=str(seen))
        return StageOutput.ok(seen="nothing")

    pipeline = Pipeline("asks", [ask])
    path = tmp_path / "turn.json"
    record(path, pipeline, providers=ProviderRegistry(llm=Broken()), inputs={})
    assert recorded(path).replay(pipeline).outputs == {"seen": str(error)}


def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    """Wherever it stood: what was said, what was answered, what an error tells."""
    secret = "sk-0123456789"
    path = tmp_path / "turn.json"

    async def turn(sim: Simulation) -> None:
        context = sim.context(
            {"text": f"My key is {secret}", "user_id": secret}, providers=default_providers()
        )
        with Recorder(context.providers, secrets=[secret]) as recorder:
            result = await chat().run(context)
        recorder.save(path, context, result)

    simulate(turn)
    assert secret not in path.read_text()
    assert recorded(path).replay(chat()).outputs["answer"] == "You said: My key is [secret]"


def test_the_order_of_a_set_or_dictionary_does_not_matter(tmp_path: Path) -> None:
    """It depends on how they were filled, and for texts on the process."""
    path, orders = tmp_path / "turn.json", iter([(0, 8), (8, 0)])

    @stage(outputs=["seen"])
    async def looks(ctx: StageContext) -> StageOutput:
        order = next(orders)
        high = await ctx.provider("gauge").between(low=set(order), high=dict.fromkeys(order))
        return StageOutput.ok(seen=[set(order), dict.fromkeys(order), high])

    class Counting:
        async def between(self, *, low: set[int], high: dict[int, None]) -> int:
            return len(low)

    pipeline = Pipeline("looks", [looks])
    record(path, pipeline, providers=ProviderRegistry(gauge=Counting()), inputs={})
    assert recorded(path).replay(pipeline).status == "completed"
