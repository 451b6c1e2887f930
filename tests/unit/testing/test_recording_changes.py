"""A replay reports what has changed since the recording, and refuses a damaged file."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stageflow import Message, Pipeline, RunResult, StageContext, StageOutput, StageSpec, stage
from stageflow.kernels import chat, voice
from stageflow.kernels.conversation import conversation
from stageflow.testing import (
    FaultType,
    RecordedTurn,
    RecordingMismatchError,
    Simulation,
    recorded,
    simulate,
)
from stageflow.testing.recording.player import difference
from tests.utils.errors import raises_code
from tests.utils.recordings import record


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
    assert str(caught.value).endswith("; if that is meant, record the turn again")


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
    """Also where the run itself does not notice: the report has the first difference."""
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
def test_the_error_says_where_a_difference_is(
    expected: object, got: object, shown: tuple[str, str, str]
) -> None:
    """By the way that leads to it, and with what stands there, shortened around it."""
    assert difference("it", expected, got) == shown


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
            " that recorded it, or record the turn again",
        ),
    ],
)
def test_a_file_that_is_not_a_turn(text: str | None, problem: str, tmp_path: Path) -> None:
    """The error names the defect and the fix."""
    path = tmp_path / "turn.json"
    if text is not None:
        path.write_text(text)
    with raises_code("invalid_recording") as caught:
        recorded(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without("calls"), "KeyError: 'calls'"),
        (without("calls", 0, "method"), "'method'"),
        (of("calls", {}), "calls is dict, not list"),
        (of("inputs", []), "inputs is list, not dict"),
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
    with raises_code("invalid_recording") as caught:
        recorded(changed(turn_of_chat, change))
    assert problem in str(caught.value)
    assert "it is damaged" in str(caught.value)


def bomb(times: int, size: int) -> Callable[[dict[str, Any]], None]:
    """Make the inputs name one blob of many zeros, many times."""

    def change(turn: dict[str, Any]) -> None:
        content = bytes(size)
        name = hashlib.sha256(content).hexdigest()
        turn["blobs"][name] = base64.b64encode(zlib.compress(content, 9)).decode()
        turn["inputs"] = {"a": times * [{"$": "blob", "v": name}]}

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (bomb(1, 100_000_000), "it holds more than"),
        (bomb(100_000, 10_000), "it holds more than"),
        (of("inputs", {"a": json.loads(900 * "[" + 900 * "]")}), "RecursionError"),
    ],
)
def test_a_small_file_does_not_fill_the_memory(
    change: Callable[[dict[str, Any]], None], problem: str, turn_of_chat: Path
) -> None:
    """Nor the stack: what it would become is limited."""
    with raises_code("invalid_recording") as caught:
        recorded(changed(turn_of_chat, change))
    assert problem in str(caught.value)


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    """Wherever a file breaks off, it is refused, and never taken for a shorter turn."""
    path = tmp_path / "turn.json"
    record(path, voice())
    text = path.read_text().rstrip()
    for end in range(0, len(text), 97):
        path.write_text(text[:end])
        with raises_code("invalid_recording"):
            recorded(path)


def test_sound_that_was_changed(tmp_path: Path) -> None:
    """Stands there compressed once, and is known by its digest."""
    path = tmp_path / "turn.json"
    record(path, voice())
    blobs = json.loads(path.read_text())["blobs"]
    assert len(blobs) == 2  # what came in, and what was answered
    first, second = blobs
    with raises_code("invalid_recording", match=r"are not those that were recorded"):
        recorded(changed(path, of("blobs", {first: blobs[second], second: blobs[first]})))


def test_half_a_character(tmp_path: Path) -> None:
    """Is kept as it is, in a file that is UTF-8."""
    path = tmp_path / "turn.json"
    record(path, chat(), inputs={"text": "Grüße \ud83d", "user_id": "ada"})
    assert "Grüße" in path.read_text("utf-8")
    assert recorded(path).inputs["text"] == "Grüße \ud83d"
