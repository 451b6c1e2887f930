"""Recorded turns: what is kept comes back, what has changed is told, what is damaged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stageflow import Message, Pipeline, ProviderRegistry, StageOutput, StageSpec, stage
from stageflow.context import StageContext
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec, StoredType
from stageflow.dlq.reproduce import RecordedError
from stageflow.errors import RateLimitedError, StageflowError
from stageflow.interceptors import RetryInterceptor
from stageflow.interceptors.base import Interceptor
from stageflow.kernels.chat import chat
from stageflow.kernels.conversation import conversation
from stageflow.kernels.defaults import default_providers
from stageflow.kernels.streaming_voice import streaming_voice
from stageflow.kernels.voice import voice
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.providers.fake import FakeLLM, speech_of_text
from stageflow.providers.latency import LatencyProfile
from stageflow.result import RunResult
from stageflow.stream import Stream
from stageflow.testing.faults import FaultType, inject_fault
from stageflow.testing.recording import (
    InvalidRecordingError,
    RecordedTurn,
    Recorder,
    RecordingFileError,
    RecordingMismatchError,
    UnrecordableValueError,
    recorded,
)
from stageflow.testing.recording.failures import error_again, plain_error
from stageflow.testing.recording.player import difference
from stageflow.testing.simulation import Simulation, simulate

KERNELS: Mapping[str, Callable[[], Pipeline]] = {
    "voice": voice,
    "streaming_voice": streaming_voice,
    "chat": chat,
}
SAID = "I want to go for a walk. Is it going to rain?"


@stage(outputs=["all"], provider="llm")
async def plain_answer(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(all=await ctx.llm.complete([Message("user", "Hi")]))


def inputs_of(pipeline: Pipeline) -> dict[str, Any]:
    given = {"audio": speech_of_text(SAID), "text": SAID, "user_id": "ada"}
    return {key: given[key] for key in pipeline.inputs}


def record(
    path: Path,
    pipeline: Pipeline,
    *faults: tuple[str, FaultType],
    interceptors: tuple[Interceptor, ...] = (),
    providers: ProviderRegistry | None = None,
    inputs: Mapping[str, Any] | None = None,
    codec: LetterCodec = DEFAULT_CODEC,
    **options: Any,
) -> RunResult:
    """Run a pipeline in virtual time, and keep the turn in a file; its result."""

    async def turn(sim: Simulation) -> RunResult:
        context = sim.context(
            inputs_of(pipeline) if inputs is None else inputs,
            providers=default_providers() if providers is None else providers,
            **options,
        )
        with ExitStack() as block:
            for provider, fault in faults:
                block.enter_context(inject_fault(provider, fault))
            recorder = block.enter_context(Recorder(context.providers, codec=codec))
            orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=interceptors)
            result = await orchestrator.run(context)
        recorder.save(path, context, result)
        return result

    return simulate(turn, seed=None).value


def told(result: RunResult) -> list[tuple[str, float]]:
    """What happened, and when, to the microsecond that a file keeps."""
    return [(event.type, round(event.offset_ms, 1)) for event in result.events]


# ── what is kept comes back ─────────────────────────────────────────────────────────────────


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
    """When a call began, how long each piece took, and how it ended, as the fake was told."""
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
    """Is cancelled again, at the same time; who waits longer now is told after a minute."""
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


class Gauge:
    """A provider of no port: a function, and a method that takes names."""

    async def __call__(self, place: str) -> float:
        return len(place) / 3

    async def between(self, *, low: int, high: int) -> range:
        return range(low, high)


@stage(outputs=["wind"])
async def measure(ctx: StageContext) -> StageOutput:
    gauge = ctx.provider("gauge")
    found = await gauge.between(low=1, high=3)
    return StageOutput.ok(wind=[await gauge("roof"), *found])


RANGES = LetterCodec([StoredType("range", range, lambda r: [r.start, r.stop], lambda p: range(*p))])


def test_any_provider_is_heard(tmp_path: Path) -> None:
    """Functions, methods of any name, arguments by name, and types that a codec knows."""
    path, pipeline = tmp_path / "turn.json", Pipeline("weather", [measure])
    record(path, pipeline, providers=ProviderRegistry(gauge=Gauge()), inputs={}, codec=RANGES)
    after = recorded(path, codec=RANGES).replay(pipeline)
    assert after.outputs == {"wind": [4 / 3, 1, 2]}


def test_a_value_that_no_file_can_hold(tmp_path: Path) -> None:
    """It is named with its call, and the earlier file is still there."""
    path, pipeline = tmp_path / "turn.json", Pipeline("weather", [measure])
    path.write_text("earlier")
    with pytest.raises(UnrecordableValueError) as caught:
        record(path, pipeline, providers=ProviderRegistry(gauge=Gauge()), inputs={})
    assert "what call 1, gauge.between, answered holds a value of type builtins.range" in str(
        caught.value
    )
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
    with pytest.raises(
        RecordingFileError, match=r"turn\.json: it cannot be written \(No such file"
    ):
        record(tmp_path / "none" / "turn.json", chat())


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "reset"),
        TimeoutError("too late"),
        KeyError("gone"),
        RateLimitedError(ValueError("slow down")),
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


# ── what has changed is told ────────────────────────────────────────────────────────────────


@pytest.fixture
def turn_of_chat(tmp_path: Path) -> Path:
    path = tmp_path / "turn.json"
    record(path, chat())
    return path


@stage(dependencies=["guard", "memory"], inputs=["text"], outputs=["answer"], provider="llm")
async def other_prompt(ctx: StageContext) -> StageOutput:
    messages = [Message("system", "You are a rude assistant."), Message("user", ctx["text"])]
    return StageOutput.ok(answer=await ctx.llm.complete(messages))


@stage(dependencies=["guard", "memory"], inputs=["text"], outputs=["answer"], provider="llm")
async def streams(ctx: StageContext) -> StageOutput:
    pieces = [piece async for piece in ctx.llm.stream([Message("user", ctx["text"])])]
    return StageOutput.ok(answer="".join(pieces))


@stage(dependencies=["guard", "memory"], inputs=["text"], outputs=["answer"])
async def asks_nobody(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(answer=f"You said: {ctx['text']}")


def edited(llm: StageSpec) -> Pipeline:
    """Today's chat, of which the stage that asks the model is another."""
    specs = [replace(llm, name="llm") if s.name == "llm" else s for s in chat().stages]
    return Pipeline("chat", specs, inputs=["text", "user_id"])


@pytest.mark.parametrize(
    ("llm", "problem"),
    [
        (
            other_prompt,
            "call 2, llm.complete, asks something else than when the turn was recorded: argument"
            " 1[0].content was 'You are a friendly assistant. Answer briefly.', and is",
        ),
        (streams, "llm.stream is called once more than it was when the turn was recorded, with"),
        (asks_nobody, "call 2, llm.complete, is not made any more"),
    ],
)
def test_a_pipeline_that_asks_something_else(
    llm: StageSpec, problem: str, turn_of_chat: Path
) -> None:
    """The error names the call, what it expected and what it got."""
    with pytest.raises(RecordingMismatchError) as caught:
        recorded(turn_of_chat).replay(edited(llm))
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{turn_of_chat}: ")
    assert str(caught.value).endswith("; if that is meant, record the turn anew")


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The file, in which something is another."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


def of(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value at the top."""
    return lambda found: found.update({key: value})


def call_of(provider: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the first call of a provider."""

    def change(found: dict[str, Any]) -> None:
        next(c for c in found["calls"] if c["provider"] == provider).update(values)

    return change


def without(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A file in which something is missing."""

    def change(found: Any) -> None:
        *steps, last = path
        for step in steps:
            found = found[step]
        del found[last]

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (of("outputs", {"answer": "Good day."}), "the output 'answer' was 'Good day.', and is 'Y"),
        (of("outputs", {"mood": "fine"}), "the output 'mood' is not written any more"),
        (of("events", []), "the run went nothing, and goes started → completed"),
        (of("status", "failed"), "the run was failed, and is completed (None)"),
        (without("events", -2), "stage 'persist' went started, and goes started → completed"),
        (
            call_of("db", arguments=["conversations", "bob"]),
            "call 1, db.get, asks something else than when the turn was recorded: argument 2 was"
            " 'bob', and is 'ada'",
        ),
        (
            call_of("db", arguments=["conversations"]),
            "call 1, db.get, takes another number of arguments than when recorded",
        ),
        (
            call_of("llm", pieces=[], ending="cancelled", ending_ms=5.0),
            "call 2, llm.complete, was cancelled when the turn was recorded, and now its caller",
        ),
    ],
)
def test_a_turn_that_goes_another_way(
    change: Callable[[dict[str, Any]], None], problem: str, turn_of_chat: Path
) -> None:
    """Also where the run itself takes no notice: of what is told, the first difference."""
    with pytest.raises(RecordingMismatchError) as caught:
        recorded(changed(turn_of_chat, change)).replay(
            chat() if "cancelled" not in problem else edited(replace(plain_llm, timeout_s=None))
        )
    assert problem in str(caught.value)


@stage(
    dependencies=["guard", "memory"],
    inputs=["text", "history", "refusal"],
    outputs=["answer"],
    provider="llm",
)
async def plain_llm(ctx: StageContext) -> StageOutput:
    messages = conversation(ctx["text"], ctx["history"])
    return StageOutput.ok(answer=await ctx.llm.complete(messages))


def test_an_optional_stage_that_asks_something_else(turn_of_chat: Path) -> None:
    """The run completes without it; the check does not let that pass."""
    turn = recorded(changed(turn_of_chat, without("calls", -1)))

    async def main(sim: Simulation) -> RunResult:
        return await chat().run(sim.context(turn.inputs, providers=turn.providers))

    result = simulate(main, seed=None).value
    assert result.status == "completed"
    with pytest.raises(RecordingMismatchError, match=r"db\.put is called once more"):
        turn.check(result)


def test_a_turn_can_be_replayed_in_any_order(turn_of_chat: Path) -> None:
    """Answers are found by what is asked, and not by the order in which it is."""
    for seed in range(20):
        turn = recorded(turn_of_chat)

        async def main(sim: Simulation, turn: RecordedTurn = turn) -> RunResult:
            return await chat().run(sim.context(turn.inputs, providers=turn.providers))

        turn.check(simulate(main, seed=seed).value)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ({"code": "rate_limited"}, "it failed with rate_limited of stage 'llm', and fails with se"),
        ({"stage": "guard"}, "it failed with service_unavailable of stage 'guard', and fails with"),
    ],
)
def test_another_failure(error: dict[str, str], problem: str, tmp_path: Path) -> None:
    """Is another turn, but for its words, which may tell times."""
    path = tmp_path / "turn.json"
    record(path, chat(), ("llm", FaultType.ERROR))
    kept = json.loads(path.read_text())["error"]
    recorded(changed(path, of("error", kept | {"message": "other"}))).replay(chat())
    with pytest.raises(RecordingMismatchError, match=problem):
        recorded(changed(path, of("error", kept | error))).replay(chat())


def test_another_pipeline(turn_of_chat: Path) -> None:
    """Is refused before anything is run."""
    with pytest.raises(RecordingMismatchError, match="a turn of the pipeline 'chat', not of 'voi"):
        recorded(turn_of_chat).replay(voice())


@dataclass(frozen=True)
class Point:
    x: int
    tags: tuple[str, ...] = ()


LONG = "a" * 100


@pytest.mark.parametrize(
    ("expected", "got", "shown"),
    [
        (1, 2, ("it", "1", "2")),
        (1, "1", ("it", "1", "'1'")),
        ([1, [2, 3]], [1, [2, 4]], ("it[1][1]", "3", "4")),
        ([1], [1, 2], ("it", "[1]", "[1, 2]")),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ("it['b']", "2", "3")),
        ({"a": 1}, {"b": 1}, ("it", "{'a': 1}", "{'b': 1}")),
        (Point(1, ("x", "y")), Point(1, ("x", "z")), ("it.tags[1]", "'y'", "'z'")),
        (f"{LONG}b", f"{LONG}c", ("it", f"…'{'a' * 30}b'", f"…'{'a' * 30}c'")),
        ("b" + LONG, "c", ("it", f"'b{'a' * 58}…", "'c'")),
        (bytes(90), b"x", ("it", "b'" + r"\x00" * 14 + r"\x… (90 bytes)", "b'x'")),
    ],
)
def test_a_difference_is_told_where_it_is(
    expected: object, got: object, shown: tuple[str, str, str]
) -> None:
    """By the way that leads to it, and with what stands there, shortened around it."""
    assert difference("it", expected, got) == shown


# ── what is damaged is refused ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "it cannot be read (No such file or directory)"),
        ("", "it is damaged, or no recorded turn (Expecting value"),
        ("[" * 100_000, "it is damaged, or no recorded turn"),
        ("[]", "it holds no recorded turn; stageflow run … --record FILE makes one"),
        ('{"version": 1}', "it holds no recorded turn"),
        ('{"format": "stageflow turn", "version": 1}', "it is damaged (KeyError: 'blobs')"),
        (
            '{"format": "stageflow turn", "version": 2}',
            "it is of version 2, and this stageflow reads version 1; replay it with the stageflow"
            " that recorded it, or record the turn anew",
        ),
    ],
)
def test_a_file_that_is_no_turn(text: str | None, problem: str, tmp_path: Path) -> None:
    """What is wrong with it is told, and what to do."""
    path = tmp_path / "turn.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidRecordingError) as caught:
        recorded(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without("calls"), "KeyError: 'calls'"),
        (without("calls", 0, "method"), "'method'"),
        (of("calls", {}), "'calls' is dict"),
        (of("inputs", []), "'inputs' is list"),
        (call_of("llm", ending="well"), "call 2 ends as 'well'"),
        (call_of("llm", ending_ms=-1), "call 2 waits for no number of milliseconds"),
        (call_of("llm", pieces=[["soon", "x"]]), "call 2 waits for no number of milliseconds"),
        (call_of("llm", pieces=[]), "call 2 has 0 answers"),
        (call_of("llm", ending="failed"), "call 2 fails without an error"),
        (call_of("llm", arguments=[{"$": "sprocket", "v": 1}]), "sprocket"),
    ],
)
def test_a_file_that_was_damaged(
    change: Callable[[dict[str, Any]], None], problem: str, turn_of_chat: Path
) -> None:
    """Each part that a replay needs is looked at before it begins."""
    with pytest.raises(InvalidRecordingError) as caught:
        recorded(changed(turn_of_chat, change))
    assert problem in str(caught.value)
    assert "it is damaged" in str(caught.value)


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    """Wherever a file breaks off, it is refused, and never taken for a shorter turn."""
    path = tmp_path / "turn.json"
    record(path, voice())
    text = path.read_text().rstrip()
    for end in range(0, len(text), 97):
        path.write_text(text[:end])
        with pytest.raises(InvalidRecordingError):
            recorded(path)


def test_sound_that_was_changed(tmp_path: Path) -> None:
    """Stands there compressed once, and is known by its digest."""
    path = tmp_path / "turn.json"
    record(path, voice())
    blobs = json.loads(path.read_text())["blobs"]
    assert len(blobs) == 2  # what came in, and what was answered
    first, second = blobs
    with pytest.raises(InvalidRecordingError, match=r"are not those that were recorded"):
        recorded(changed(path, of("blobs", {first: blobs[second], second: blobs[first]})))


def test_half_a_character(tmp_path: Path) -> None:
    """Is kept as it is, in a file that is UTF-8."""
    path = tmp_path / "turn.json"
    record(path, chat(), inputs={"text": "Grüße \ud83d", "user_id": "ada"})
    assert "Grüße" in path.read_text("utf-8")
    assert recorded(path).inputs["text"] == "Grüße \ud83d"
