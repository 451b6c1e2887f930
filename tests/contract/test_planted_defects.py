"""Each assertion about providers and interceptors is held by one defect."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest

from stageflow import Audio, Event, Interceptor, PipelineContext, StageContext, StageOutput
from stageflow.errors import StageFailedError
from stageflow.events import EventLog
from stageflow.interceptors import CallNext
from stageflow.providers import Tool
from stageflow.testing import (
    DatabaseContractTest,
    InterceptorContractTest,
    LlmContractTest,
    ScriptedError,
    SpeakerContractTest,
    SttContractTest,
    ToolContractTest,
    TtsContractTest,
)
from tests.utils.stage_cases import both_loops, names_of_tests

pytestmark = pytest.mark.untraced

# ── providers ───────────────────────────────────────────────────────────────────────────────────


def gives(*values: Any) -> Any:
    """A method that gives one value after another, then the last again and again."""

    async def call(self: object, *_: object) -> Any:
        left = vars(self).setdefault("values", list(values))
        await asyncio.sleep(0.001)
        return left.pop(0) if len(left) > 1 else left[0]

    return call


def streams(*answers: Sequence[Any]) -> Any:
    """A method that streams one answer after another, then the last again and again."""

    async def call(self: object, *_: object) -> AsyncIterator[Any]:
        left = vars(self).setdefault("answers", list(answers))
        for piece in left.pop(0) if len(left) > 1 else left[0]:
            await asyncio.sleep(0.001)
            yield piece

    return call


class Unclosable:
    def __init__(self) -> None:
        self.left = ["a", "b"]

    def __aiter__(self) -> Unclosable:
        return self

    async def __anext__(self) -> str:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()


async def swallows(self: object, *_: object) -> Any:
    try:
        await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return "x"
    return "x"


def plays(share: float) -> Any:
    """A method that plays for a share of the time that it should."""

    async def play(self: object, audio: Audio) -> None:
        await asyncio.sleep(audio.duration_s * share)

    return play


async def plays_nothing(self: object, audio: Audio) -> None: ...


class Kept:
    """A right database, which a defect is built into."""

    def __init__(self) -> None:
        self.records: dict[Any, Any] = {}

    def at(self, collection: str, key: str) -> Any:
        return collection, key

    async def get(self, collection: str, key: str) -> Any:
        await asyncio.sleep(0)
        return copy.deepcopy(self.records.get(self.at(collection, key)))

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        self.records[self.at(collection, key)] = copy.deepcopy(record)


class Inventive(Kept):
    async def get(self, collection: str, key: str) -> Any:
        return await super().get(collection, key) or {}


class ForgetsLongKeys(Kept):
    async def get(self, collection: str, key: str) -> Any:
        return await super().get(collection, key) if len(key) < 200 else None


class Merges(Kept):
    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        await super().put(collection, key, {**(await self.get(collection, key) or {}), **record})


class Mixes(Kept):
    def at(self, collection: str, key: str) -> Any:
        return key


class ForgetsTheFirst(Kept):
    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        self.records = {at: kept for at, kept in self.records.items() if at[0] == collection}
        await super().put(collection, key, record)


class KeepsWhatIsPut(Kept):
    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        self.records[collection, key] = record


class GivesWhatIsKept(Kept):
    async def get(self, collection: str, key: str) -> Any:
        return self.records.get((collection, key))


class LosesWritesAtOnce(Kept):
    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        before = dict(self.records)
        await asyncio.sleep(0)
        self.records = {**before, (collection, key): copy.deepcopy(record)}


class Halves(Kept):
    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        await super().put(collection, key, {"a": 1})
        await asyncio.sleep(0.001)
        await super().put(collection, key, record)


RIGHT: dict[Any, dict[str, Any]] = {
    LlmContractTest: {"complete": gives("x"), "stream": streams(["x", "y"])},
    SttContractTest: {"transcribe": gives("x")},
    TtsContractTest: {"synthesize": gives(Audio(b"xx"))},
    SpeakerContractTest: {"play": plays(0.95)},
    DatabaseContractTest: {"base": Kept},
}

#: The contract, the test, what the provider does, and what the test says.
DEFECTS: list[tuple[Any, str, dict[str, Any], str]] = [
    (LlmContractTest, "completes_with_text", {"complete": gives(None)}, r"gave a NoneType"),
    (LlmContractTest, "completes_with_text", {"complete": gives("")}, "gave an empty answer"),
    (LlmContractTest, "streams_text", {"stream": streams(["a", 1])}, "gave 1, which is not text"),
    (LlmContractTest, "streams_text", {"stream": streams(["", ""])}, "gave nothing"),
    (
        LlmContractTest,
        "a_stream_can_be_left",
        {"stream": lambda *_: Unclosable()},
        "gave something that cannot be closed",
    ),
    (
        LlmContractTest,
        "a_stream_can_be_left",
        {"stream": streams(["x"], [])},
        "the stream after it gave nothing",
    ),
    (LlmContractTest, "can_be_cancelled", {"complete": swallows}, r"\(wait 1\), and went on"),
    (
        LlmContractTest,
        "calls_at_once_are_answered",
        {"complete": gives("x", "", "x")},
        r"several at once got \['x', '', 'x', 'x', 'x'\]",
    ),
    (
        LlmContractTest,
        "calls_at_once_are_answered",
        {"complete": gives("x", 7, "x")},
        r"several at once got \['x', 7,",
    ),
    (SttContractTest, "gives_text", {"transcribe": gives(7)}, "gave a int"),
    (SttContractTest, "gives_text", {"transcribe": gives(" ")}, "heard nothing"),
    (
        SttContractTest,
        "hears_the_same_again",
        {"transcribe": gives("a", "b")},
        "heard 'a', then 'b'",
    ),
    (SttContractTest, "can_be_cancelled", {"transcribe": swallows}, "went on"),
    (TtsContractTest, "gives_sound", {"synthesize": gives(b"x")}, "gave a bytes"),
    (TtsContractTest, "gives_sound", {"synthesize": gives(Audio(b""))}, "silence of no length"),
    (TtsContractTest, "can_be_cancelled", {"synthesize": swallows}, "went on"),
    (
        SpeakerContractTest,
        "returns_when_it_has_sounded",
        {"play": plays_nothing},
        r"took \S+ s, the sound 0\.05 s",
    ),
    (SpeakerContractTest, "can_be_cancelled", {"play": swallows}, "went on"),
    *(
        (DatabaseContractTest, name, {"base": cls}, said)
        for name, cls, said in (
            ("a_missing_record_is_none", Inventive, r"gave \{\} for a key that nobody has put"),
            ("a_stored_record_is_returned", ForgetsLongKeys, "not what was put under 'xxx"),
            (
                "a_later_record_replaces_the_earlier_one",
                Merges,
                r"\{'a': 3, 'b': 2\} is there after",
            ),
            ("collections_are_separate", Mixes, r"two collections have \[\{'b': 2\}, \{'b': 2\}\]"),
            ("collections_are_separate", ForgetsTheFirst, r"collections have \[None, \{'b': 2\}\]"),
            ("records_are_copies", KeepsWhatIsPut, "what was put is kept, and not a copy"),
            ("records_are_copies", GivesWhatIsKept, "what was got is what is kept"),
            ("writes_at_once_are_all_kept", LosesWritesAtOnce, "twenty writes at once left"),
            ("can_be_cancelled", Halves, "half of it is there"),
        )
    ),
]


def of_provider(owner: Any, methods: Mapping[str, Any], **fields: Any) -> Any:
    """The contract of a provider that is right but for these methods."""
    cls = type("Made", (methods.get("base", object),), {**RIGHT[owner], **methods})

    async def make(self: object) -> Any:
        return cls()

    makers = {"make_audio": lambda self: Audio(b"xx"), owner._maker: make}
    return type("Made", (owner,), {**makers, **fields})()


@both_loops
@pytest.mark.parametrize(("owner", "name", "methods", "said"), DEFECTS)
def test_a_defect_of_a_provider_is_found(
    owner: Any, name: str, methods: Mapping[str, Any], said: str, real_io: bool
) -> None:
    """By the test that is there for it, and by its words."""
    made = of_provider(owner, methods, real_io=real_io)
    with pytest.raises(AssertionError, match=said):
        getattr(made, f"test_{name}")()


@both_loops
@pytest.mark.parametrize("owner", RIGHT)
def test_a_provider_without_a_defect_passes(owner: Any, real_io: bool) -> None:
    """Every test; so each of the above is found for its defect."""
    made = of_provider(owner, RIGHT[owner], real_io=real_io)
    for name in sorted(names_of_tests(owner)):
        getattr(made, name)()


@pytest.mark.parametrize("scale", [1.0, 600.0])
def test_a_speaker_may_be_a_tenth_too_early(scale: float) -> None:
    """No more, whatever a second takes it; a speaker knows its own buffer only roughly."""
    for share in (0.91, 0.89):
        methods = {"play": plays(share * scale)}
        made = of_provider(SpeakerContractTest, methods, scale=scale, real_io=False)
        if share > 0.9:
            made.test_returns_when_it_has_sounded()
        else:
            with pytest.raises(AssertionError, match="the sound"):
                made.test_returns_when_it_has_sounded()


# ── tools ───────────────────────────────────────────────────────────────────────────────────────


async def finds(query: str) -> str:
    """Find something."""
    await asyncio.sleep(0.001)
    return query


async def finds_in_silence(query: str) -> str:
    await asyncio.sleep(0.001)
    return query


async def finds_another(query: str) -> str:
    """Find something else each time."""
    await asyncio.sleep(0.001)
    return f"{query} {asyncio.get_running_loop().time()}"


async def finds_at_all_costs(query: str) -> str:
    """Find something."""
    found = await swallows(None)
    return f"{found}"


class OfTuples(Tool):
    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "names": ("query",)}


class TakesAnything(Tool):
    def read(self, arguments: str) -> dict[str, Any]:
        return {"query": "tea"}


class GivesNumbers(Tool):
    async def call(self, *given: Any, **options: Any) -> Any:
        return len(await super().call(*given, **options))


TOOLS: list[tuple[Any, dict[str, str]]] = [
    (finds, {}),
    (finds_in_silence, {"is_described": "finds_in_silence has no docstring and no description"}),
    (OfTuples(finds), {"is_described": "its schema is not JSON"}),
    (
        TakesAnything(finds),
        {"refuses_other_arguments": r"it takes \{\"query\": \"tea\", \"no_such\""},
    ),
    (
        finds_another,
        {"a_call_made_again_has_the_same_result": "the first call returned 'tea .*', the second"},
    ),
    (GivesNumbers(finds), {"calls_at_once_have_results": r"several got \[3, 3, 3, 3, 3\]"}),
    (finds_at_all_costs, {"can_be_cancelled": "went on: let CancelledError pass"}),
]


@both_loops
@pytest.mark.parametrize(("tool", "expected"), TOOLS)
def test_a_defect_of_a_tool_is_found(tool: Any, expected: dict[str, str], real_io: bool) -> None:
    """By exactly the test that is there for it."""

    async def make_tool(self: object) -> Any:
        return tool

    fields = {"make_tool": make_tool, "make_arguments": lambda self: {"query": "tea"}}
    made = type("Made", (ToolContractTest,), {**fields, "real_io": real_io})()
    for name in sorted(names_of_tests(ToolContractTest)):
        said = expected.get(name.removeprefix("test_"))
        with pytest.raises(AssertionError, match=said) if said else nullcontext():
            getattr(made, name)()


# ── interceptors ────────────────────────────────────────────────────────────────────────────────


def around(hook: Callable[[StageContext, CallNext], Any]) -> type[Interceptor]:
    """An interceptor of one function."""

    async def wrap(self: object, ctx: StageContext, call_next: CallNext, /) -> Any:
        return await hook(ctx, call_next)

    return type("Made", (Interceptor,), {"around": wrap})


@around
async def lets_pass(ctx: StageContext, call_next: CallNext) -> StageOutput:
    return await call_next(ctx)


async def tried(ctx: StageContext, call_next: CallNext) -> tuple[bool, StageOutput]:
    """Whether the stage waits, and its output."""
    attempt = call_next(ctx)
    try:
        attempt.send(None)
    except StopIteration as stop:
        return False, stop.value
    attempt.close()
    return True, await call_next(ctx)


@around
async def changes_what_waited(ctx: StageContext, call_next: CallNext) -> StageOutput:
    waited, output = await tried(ctx, call_next)
    return StageOutput.ok(k=0) if output.outputs and waited else output


@around
async def changes_what_did_not_wait(ctx: StageContext, call_next: CallNext) -> StageOutput:
    waited, output = await tried(ctx, call_next)
    return StageOutput.ok(k=0) if output.outputs and not waited else output


@around
async def raises_otherwise(ctx: StageContext, call_next: CallNext) -> StageOutput:
    try:
        return await call_next(ctx)
    except ScriptedError:
        raise ValueError("another") from None


@around
async def fails_otherwise(ctx: StageContext, call_next: CallNext) -> StageOutput:
    try:
        return await call_next(ctx)
    except StageFailedError:
        return StageOutput.fail("another reason")


@around
async def skips_otherwise(ctx: StageContext, call_next: CallNext) -> StageOutput:
    output = await call_next(ctx)
    return StageOutput.skip("another reason") if output.status == "skipped" else output


@around
async def comes_back(ctx: StageContext, call_next: CallNext) -> StageOutput:
    try:
        return await call_next(ctx)
    except asyncio.CancelledError:
        return StageOutput.ok(k="k by s")


@around
async def makes_it_a_failure(ctx: StageContext, call_next: CallNext) -> StageOutput:
    try:
        return await call_next(ctx)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        raise ValueError("cancelled") from None


@around
async def never_calls(ctx: StageContext, call_next: CallNext) -> StageOutput:
    return StageOutput.ok(k="k by s")


class Mixed(Interceptor):
    def __init__(self) -> None:
        self.latest: StageOutput | None = None

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        output = self.latest = await call_next(ctx)
        await asyncio.sleep(0)
        return self.latest if output.outputs else output


class Tires(Interceptor):
    """Refuses after its third run."""

    def __init__(self) -> None:
        self.runs = 0

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        self.runs += "number" not in ctx.run.inputs
        if self.runs > 3:
            raise ValueError("tired")
        return await call_next(ctx)


WITHOUT = "ends as .*, and without it as"
WRONG: list[tuple[Any, dict[str, str]]] = [
    (lets_pass, {}),
    (
        changes_what_waited,
        {"a_completed_stage_stays_completed": WITHOUT, "runs_at_once_do_not_mix": "0"},
    ),
    (changes_what_did_not_wait, {"a_stage_that_never_suspends_completes": WITHOUT}),
    (raises_otherwise, {"a_stage_that_raises_fails_the_same_way": WITHOUT}),
    (fails_otherwise, {"a_failed_output_fails_the_same_way": WITHOUT}),
    (skips_otherwise, {"a_skipped_stage_stays_skipped": WITHOUT}),
    (comes_back, {"a_cancellation_passes": "a cancelled stage came back: let Cancelled"}),
    (makes_it_a_failure, {"a_cancellation_passes": "a cancelled stage came back"}),
    (Mixed, {"runs_at_once_do_not_mix": "runs 0 to 4 ended with"}),
    (Tires, {"an_instance_serves_many_runs": "the first run ended as .*, the others as"}),
]


def of_interceptor(cls: type[Interceptor], **fields: Any) -> Any:
    """The contract of an interceptor."""
    maker = {"make_interceptors": lambda self: [cls()]}
    return type("Made", (InterceptorContractTest,), {**maker, **fields})()


@both_loops
@pytest.mark.parametrize(("cls", "expected"), WRONG, ids=lambda value: str(value)[:40])
def test_a_defect_of_an_interceptor_is_found(
    cls: type[Interceptor], expected: dict[str, str], real_io: bool
) -> None:
    """By exactly the tests that are there for it."""
    made, red = of_interceptor(cls, real_io=real_io), {}
    for name in sorted(names_of_tests(InterceptorContractTest)):
        try:
            getattr(made, name)()
        except AssertionError as error:
            red[name.removeprefix("test_")] = str(error)
    assert red.keys() == expected.keys()
    for name, said in expected.items():
        with pytest.raises(AssertionError, match=said):
            getattr(made, f"test_{name}")()


def test_a_cancellation_that_reaches_no_stage_is_found() -> None:
    """On a real loop; in simulated time the run itself is cancelled before its stage."""
    with pytest.raises(AssertionError, match="no cancellation reached the stage"):
        of_interceptor(never_calls, real_io=True).test_a_cancellation_passes()


@both_loops
def test_a_cancelled_run_that_says_otherwise_is_found(
    real_io: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of the engine: the caller is cancelled, and the run has completed."""
    completed = mock.PropertyMock(return_value="completed")
    monkeypatch.setattr(PipelineContext, "status", completed, raising=False)
    with pytest.raises(AssertionError, match="the caller was cancelled, and the run completed"):
        of_interceptor(lets_pass, real_io=real_io).test_a_cancellation_passes()


@both_loops
def test_a_cancellation_that_ends_as_a_failure_is_found(
    real_io: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of the engine, as the interceptor lets the cancellation pass."""
    shown = PipelineContext.get_events

    def failed(event: Event) -> Event:
        cancelled = event.what == "cancelled" and event.stage
        return dataclasses.replace(event, type="stage.s.failed") if cancelled else event

    monkeypatch.setattr(PipelineContext, "get_events", lambda self: tuple(map(failed, shown(self))))
    with pytest.raises(AssertionError, match="a cancellation became a failure"):
        of_interceptor(lets_pass, real_io=real_io).test_a_cancellation_passes()


@both_loops
def test_a_run_without_a_start_is_found(real_io: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the engine: the events are looked at whether the run is cancelled or not."""
    snapshot = EventLog.snapshot
    monkeypatch.setattr(EventLog, "snapshot", lambda self: snapshot(self)[1:])
    made = of_interceptor(lets_pass, real_io=real_io)
    for name in ("test_a_completed_stage_stays_completed", "test_a_cancellation_passes"):
        with pytest.raises(AssertionError):
            getattr(made, name)()
