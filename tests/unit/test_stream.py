"""Streams in whole runs, small enough that what has to come is written by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    PipelineDefinitionError,
    PipelineOrchestrator,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageStatus,
    Stream,
    stage,
    subpipeline,
)
from stageflow.dlq.codec import LetterCodec
from stageflow.dlq.replay import replay
from stageflow.dlq.sqlite import SQLiteDeadLetterStore
from stageflow.dlq.store import InMemoryDeadLetterStore
from stageflow.errors import (
    DuplicateOutputError,
    InvalidConfigError,
    InvalidContextError,
    InvalidDeclarationError,
    OutputIsStreamError,
    OutputMismatchError,
    StageFailedError,
    StreamCancelledError,
    StreamClosedError,
    StreamFailedError,
    StreamNotKeptError,
    StreamReopenedError,
    UndeclaredStreamError,
)
from stageflow.interceptors.retry import RetryInterceptor, RetryPolicy
from stageflow.letter import Unstorable
from stageflow.stage import StageFunction, StageSpec
from stageflow.stream import StreamRoute, StreamWriter
from stageflow.testing.invariants import check_run
from tests.utils.virtual_time import run_virtual

WORDS = ("one", "two", "three")


async def _say(ctx: StageContext) -> StageOutput:
    words = ctx.open("words")
    for word in WORDS:
        await words.put(word)
        await asyncio.sleep(1.0)
    return StageOutput.ok()


async def _hear(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(heard=[word async for word in ctx["words"]])


def say(runner: StageFunction = _say, name: str = "say", **fields: Any) -> StageSpec:
    """A stage that writes the stream ``words``."""
    return StageSpec(name, runner, **{"streams": ("words",), **fields})


def hear(runner: StageFunction = _hear, name: str = "hear", **fields: Any) -> StageSpec:
    """A stage that reads it all."""
    given = {"dependencies": ("say",), "inputs": ("words",), "outputs": ("heard",), **fields}
    return StageSpec(name, runner, **given)


def run(*specs: StageSpec, context: PipelineContext | None = None, **options: Any) -> RunResult:
    """Run a pipeline in virtual time, and check its events."""
    pipeline = Pipeline("test", specs)
    result = run_virtual(lambda: pipeline.run(context or PipelineContext(), **options))
    check_run(pipeline, result)
    return result


def at(result: RunResult, kind: str) -> float:
    """When the event of that type was, in milliseconds since the run began."""
    (event,) = [event for event in result.events if event.type == kind]
    return event.offset_ms


# ── declaring ───────────────────────────────────────────────────────────────────────────────


def test_a_decorated_stage_declares_streams() -> None:
    """`@stage(streams=[…])` is the same as the spec's field, lists being tuples."""

    @stage(streams=["words"])
    async def says(ctx: StageContext) -> StageOutput:
        return StageOutput.ok()

    assert says.streams == ("words",)
    assert StageSpec("s", _say, streams=["words"]).streams == ("words",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("specs", "defect"),
    [
        ([say(outputs=("words",))], OutputIsStreamError),
        ([say(), say(name="other")], DuplicateOutputError),
        ([say(), StageSpec("other", _say, outputs=("words",))], DuplicateOutputError),
        ([say(streams=("words", "words"))], InvalidDeclarationError),
        ([say(streams="words")], InvalidDeclarationError),
        ([say(streams=(1,))], InvalidDeclarationError),
    ],
)
def test_a_wrong_declaration_is_one_typed_problem(specs: list[StageSpec], defect: type) -> None:
    """A key is an output or a stream of one stage, and streams are a list of distinct names."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("test", specs)
    assert defect in [type(problem) for problem in caught.value.problems]


def test_a_stream_that_nothing_before_the_reader_writes_is_a_missing_producer() -> None:
    """A reader depends on the producer, as it would for an output."""
    with pytest.raises(PipelineDefinitionError, match="add 'say' to its dependencies"):
        Pipeline("test", [say(), hear(dependencies=())]).build()


# ── edges ───────────────────────────────────────────────────────────────────────────────────


def test_the_graph_tells_stream_edges_and_who_is_live() -> None:
    """Live: nothing but this stream makes the reader wait. Late: something else may do so, too."""
    graph = Pipeline(
        "test",
        [
            say(outputs=("text",), streams=("words", "tones")),
            hear(name="live"),
            hear(name="reads_text", inputs=("words", "text"), outputs=()),
            hear(name="reads_both", inputs=("words", "tones"), outputs=()),
            hear(name="behind", dependencies=("say", "live"), outputs=()),
            hear(name="far", dependencies=("live",), outputs=()),
        ],
    ).build()
    late = ("reads_text", "reads_both", "behind", "far")
    assert graph.streams["words"] == StreamRoute("say", ("live",), late)
    assert graph.streams["tones"] == StreamRoute("say", (), ("reads_both",))
    names = [spec.name for spec in graph.specs]
    edges = {(names[a], names[b]): keys for (a, b), keys in graph.stream_edges.items()}
    assert edges == {
        ("say", "live"): {"words"},
        ("say", "reads_both"): {"words", "tones"},
        ("say", "behind"): {"words"},
    }


def test_a_reader_in_a_circle_of_streams_is_late() -> None:
    """Of a diamond of streams one side holds back, the others could wait for each other."""
    relay = StageSpec("relay", _say, ("say",), ("words",), streams=("echo",))
    both = StageSpec("both", _hear, ("say", "relay"), ("words", "echo"))
    graph = Pipeline("test", [say(), relay, both]).build()
    assert graph.streams["words"] == StreamRoute("say", ("relay",), ("both",))
    assert graph.streams["echo"] == StreamRoute("relay", (), ("both",))


def test_a_reader_starts_at_the_opening_and_everybody_else_at_the_end() -> None:
    """Only who reads nothing but streams of a stage overtakes its end."""
    waiter = StageSpec("waiter", _hear, ("say",), ("words", "text"), ("heard2",))

    async def wait(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(heard2=[word async for word in ctx["words"]])

    async def text(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(0.5)
        await _say(ctx)
        return StageOutput.ok(text="")

    result = run(
        say(text, outputs=("text",)),
        hear(),
        StageSpec("waiter", wait, waiter.dependencies, waiter.inputs, waiter.outputs),
        StageSpec("plain", _nothing, ("say",)),
    )
    assert result.outputs["heard"] == result.outputs["heard2"] == list(WORDS)
    assert at(result, "stage.say.stream_opened") == at(result, "stage.hear.started") == 500.0
    assert at(result, "stage.say.completed") == at(result, "stage.waiter.started") == 3500.0
    assert at(result, "stage.plain.started") == 3500.0


async def _nothing(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


def test_a_reader_waits_for_all_streams_that_it_reads() -> None:
    """Two streams opened at 1 s and at 2 s let it start at 2 s."""

    async def two(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1.0)
        ctx.open("words")
        await asyncio.sleep(1.0)
        ctx.open("tones")
        await asyncio.sleep(1.0)
        return StageOutput.ok()

    reader = hear(inputs=("words", "tones"))
    result = run(say(two, streams=("words", "tones")), reader)
    assert at(result, "stage.hear.started") == 2000.0


def test_opening_in_a_task_of_the_stage_starts_the_reader() -> None:
    """A helper task may open while the stage itself waits, and leaves its variables to itself."""

    async def helped(ctx: StageContext) -> StageOutput:
        async with asyncio.TaskGroup() as group:
            group.create_task(_say(ctx))
        return StageOutput.ok()

    result = run(say(helped), hear())
    assert at(result, "stage.hear.started") == 0.0
    assert result.outputs["heard"] == list(WORDS)


def test_who_never_opens_lets_readers_start_at_its_end() -> None:
    """A producer that skipped or failed makes the input absent, and says why."""
    asked: list[str] = []

    async def ask(ctx: StageContext) -> StageOutput:
        with pytest.raises(Exception, match="which provides it, was skipped"):
            ctx["words"]
        asked.append(ctx.name)
        return StageOutput.ok(heard=ctx.get("words", "nothing"))

    async def skip(ctx: StageContext) -> StageOutput:
        return StageOutput.skip("no voice")

    assert run(say(skip), hear(ask)).outputs["heard"] == "nothing"
    never = say(condition=lambda ctx: False)
    assert run(never, hear(ask)).outputs["heard"] == "nothing"
    assert asked == ["hear", "hear"]


def test_who_completes_without_having_opened_fails_and_writes_nothing() -> None:
    """A declared stream that was not opened is a missing output."""

    async def forget(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(text="x")

    result = run(say(forget, outputs=("text",)))
    assert isinstance(result.failure, OutputMismatchError)
    assert result.failure.unopened == ("words",)
    assert "ctx.open('words')" in str(result.failure)
    assert result.outputs == {}


def test_interceptors_are_told_of_a_stream_that_was_not_opened() -> None:
    """As of an output that is missing: to them, too, the stage has failed."""
    told: list[str] = []

    class Told(Interceptor):
        def failed(self, ctx: StageContext, error: BaseException, /) -> None:
            told.append(type(error).__name__)

    result = run(say(_nothing), interceptors=[Told()])
    assert told == ["OutputMismatchError"]
    assert result.stages["say"].status is StageStatus.FAILED


def test_the_critical_path_runs_beside_a_producer() -> None:
    """A stream's reader begins with its producer: the heavier of both counts, not their sum."""
    first = StageSpec("first", _nothing)
    graph = Pipeline("test", [first, say(dependencies=("first",)), hear()]).build()
    weights = {"first": 1.0, "say": 5.0, "hear": 6.0}
    assert graph.critical_path(weights) == (("first", "hear"), 7.0)
    assert graph.critical_path({**weights, "hear": 2.0}) == (("first", "say"), 6.0)


def test_a_drawing_tells_streams_from_other_edges() -> None:
    """A stream edge is thick and names its keys."""
    drawn = Pipeline("test", [say(), hear(), StageSpec("plain", _nothing, ("say",))]).draw()
    assert "    s0 ==>|words| s1\n" in drawn
    assert "    s0 --> s2\n" in drawn


# ── writing and reading ─────────────────────────────────────────────────────────────────────


def test_put_waits_for_the_slowest_live_reader() -> None:
    """With room for two, the fourth item goes in when the slow reader has taken its second."""
    put_at: list[float] = []

    async def fast(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=2)
        for word in range(4):
            assert await words.put(word)
            put_at.append(ctx.now())
        return StageOutput.ok()

    async def slow(ctx: StageContext) -> StageOutput:
        async for _ in ctx["words"]:
            await asyncio.sleep(1.0)
        return StageOutput.ok(slow=1)

    run(say(fast), hear(), hear(slow, "slow", outputs=("slow",)))
    assert put_at == [0.0, 0.0, 0.0, 1.0]


def test_puts_that_wait_are_let_in_in_their_order() -> None:
    """One that comes later, when there is room again, does not overtake those that wait."""

    async def many(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(words.put(number))
        return StageOutput.ok()

    assert run(say(many), hear()).outputs["heard"] == [0, 1, 2, 3, 4, 5]


def test_a_put_that_was_let_in_is_not_overtaken_before_it_comes() -> None:
    """There is room for one, and one has been told of it: whoever puts now stands behind it."""

    async def crowded(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        await words.put(0)
        first = asyncio.create_task(words.put(1))
        await asyncio.sleep(1.0)
        reader_goes_on.set()
        await asyncio.sleep(0)
        assert not first.done()
        assert words._stream._putting[0].done(), "it has been let in, and not been told yet"
        await words.put(2)
        await first
        return StageOutput.ok()

    async def patient(ctx: StageContext) -> StageOutput:
        await reader_goes_on.wait()
        return StageOutput.ok(heard=[number async for number in ctx["words"]])

    reader_goes_on = asyncio.Event()
    assert run(say(crowded), hear(patient)).outputs["heard"] == [0, 1, 2]


def test_when_the_last_live_reader_leaves_all_that_wait_are_let_in() -> None:
    """The late reader is still to come, and holds nobody back."""

    async def many(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(words.put(number))
        return StageOutput.ok(text="")

    async def leave(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1.0)
        return StageOutput.ok(left=True)

    result = run(
        say(many, outputs=("text",)),
        hear(leave, "leave", outputs=("left",)),
        hear(inputs=("words", "text")),
    )
    assert result.outputs["heard"] == [0, 1, 2, 3]


def test_a_put_that_is_cancelled_has_put_nothing_and_makes_way() -> None:
    """Also one that had just been let in: whoever waits behind it takes the room."""

    async def impatient(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        await words.put(0)
        first, second = (asyncio.create_task(words.put(number)) for number in (1, 2))
        await asyncio.sleep(1.0)
        reader_goes_on.set()
        await asyncio.sleep(0)
        assert not first.done()
        assert words._stream._putting[0].done(), "it has been let in, and not been told yet"
        first.cancel()
        assert await second
        assert first.cancelled()
        return StageOutput.ok()

    async def patient(ctx: StageContext) -> StageOutput:
        await reader_goes_on.wait()
        return StageOutput.ok(heard=[number async for number in ctx["words"]])

    reader_goes_on = asyncio.Event()
    assert run(say(impatient), hear(patient)).outputs["heard"] == [0, 2]


def test_put_is_refused_once_nobody_reads_on() -> None:
    """A reader that closes, and one that ends, tell the producer that it is not wanted."""
    taken: list[bool] = []

    async def stubborn(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(words.put(number)).add_done_callback(
                    lambda task: taken.append(task.result())
                )
        assert not words.wanted
        return StageOutput.ok()

    async def leave(ctx: StageContext) -> StageOutput:
        async for _ in ctx["words"]:
            await ctx["words"].aclose()
            assert [word async for word in ctx["words"]] == []
        return StageOutput.ok(heard=None)

    run(say(stubborn), hear(leave))
    assert taken == [True, False, False, False]


def test_a_put_into_a_stream_of_a_stage_that_has_ended_is_an_error() -> None:
    """A task that outlives its stage learns that, also one that was waiting for room."""
    left: list[asyncio.Task[bool]] = []
    contexts: list[StageContext] = []
    told_at: list[float] = []

    async def careless(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        left.extend(asyncio.create_task(words.put(number)) for number in range(2))
        contexts.append(ctx)
        left[1].add_done_callback(lambda _: told_at.append(ctx.now()))
        await asyncio.sleep(1.0)
        return StageOutput.ok()

    async def slow(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(5.0)
        return StageOutput.ok(heard=[word async for word in ctx["words"]])

    result = run(say(careless), hear(slow))
    assert result.outputs["heard"] == [0]
    assert left[0].result()
    assert isinstance(left[1].exception(), StreamClosedError)
    assert told_at == [1.0]
    with pytest.raises(StreamClosedError):
        contexts[0].open("words")


def test_opening_is_checked() -> None:
    """An undeclared key, a capacity that is none, and a second opening after a put are refused."""
    seen: list[type[Exception]] = []

    async def wrong(ctx: StageContext) -> StageOutput:
        for key, capacity in (("wrods", 1), ("words", 0), ("words", True), ("words", "2")):
            with pytest.raises((UndeclaredStreamError, InvalidConfigError)) as caught:
                ctx.open(key, capacity=capacity)  # type: ignore[arg-type]
            seen.append(caught.type)
        await ctx.open("words").put(1)
        with pytest.raises(StreamReopenedError, match="1 items"):
            ctx.open("words")
        return StageOutput.ok()

    async def plain(ctx: StageContext) -> StageOutput:
        with pytest.raises(UndeclaredStreamError):
            ctx.open("words")
        return StageOutput.ok()

    assert run(say(wrong)).status is RunStatus.COMPLETED
    assert run(StageSpec("plain", plain)).status is RunStatus.COMPLETED
    assert seen == [UndeclaredStreamError, *[InvalidConfigError] * 3]


def test_a_reader_that_is_cancelled_while_it_waits_misses_nothing() -> None:
    """A limit of time around one `anext` costs no item, and leaves nobody waiting behind."""
    heard: list[str | None] = []

    async def impatient(ctx: StageContext) -> StageOutput:
        reader = ctx["words"]
        while len(heard) < 6:
            try:
                heard.append(await asyncio.wait_for(anext(reader), 0.75))
            except TimeoutError:
                heard.append(None)
                assert not reader._stream._unread
        return StageOutput.ok(heard=heard)

    run(say(), hear(impatient))
    assert heard == ["one", None, "two", None, "three", None]


def test_streams_readers_and_writers_say_what_they_are() -> None:
    """What a debugger shows names the key, and how far each has come."""
    stream = Stream.of(WORDS, key="words", producer="say")
    reader, writer = aiter(stream), StreamWriter(stream)
    assert repr(stream) == "Stream('words' by 'say', 3 items, completed)"
    assert repr(Stream("tones", StreamRoute("say"))) == "Stream('tones' by 'say', 0 items, open)"
    assert repr(reader) == "StreamReader('words', 0 read)"
    assert repr(writer) == "StreamWriter('words', 3 put)"
    assert not writer.wanted


# ── what is kept ────────────────────────────────────────────────────────────────────────────


def test_without_a_reader_everything_is_kept_as_the_result() -> None:
    """Whoever has the result reads it, as often as wanted, in any loop."""
    stream = run(say()).outputs["words"]
    assert isinstance(stream, Stream)
    assert stream.items() == WORDS

    async def read() -> list[str]:
        return [word async for word in stream]

    assert asyncio.run(read()) == asyncio.run(read()) == list(WORDS)


def test_what_live_readers_have_read_is_dropped_and_an_error_says_so() -> None:
    """Afterwards the items are gone; a late reader would have kept them."""
    stream = run(say(), hear()).outputs["words"]
    with pytest.raises(StreamNotKeptError, match="dropped"):
        stream.items()
    with pytest.raises(StreamNotKeptError, match="'words'"):
        asyncio.run(anext(aiter(stream)))
    late = hear(name="late", dependencies=("say", "hear"), outputs=())

    async def count(ctx: StageContext) -> StageOutput:
        assert [word async for word in ctx["words"]] == list(WORDS)
        return StageOutput.ok()

    kept = run(say(), hear(), StageSpec("late", count, late.dependencies, late.inputs))
    assert kept.status is RunStatus.COMPLETED
    assert kept.outputs["words"].items() == WORDS


def test_a_caller_can_read_while_the_run_goes_on() -> None:
    """`PipelineContext.bag` holds the stream from its opening on."""
    context = PipelineContext()
    heard: list[tuple[str, float]] = []
    opened = asyncio.Event()

    async def main() -> None:
        running = asyncio.ensure_future(Pipeline("test", [say(announced)]).run(context))
        await opened.wait()
        now = asyncio.get_running_loop().time
        heard.extend([(word, now()) async for word in context.bag["words"]])
        await running

    async def announced(ctx: StageContext) -> StageOutput:
        ctx.open("words")
        opened.set()
        return await _say(ctx)

    run_virtual(main)
    assert heard == [("one", 0.0), ("two", 1.0), ("three", 2.0)]


def test_a_ready_stream_is_an_input_like_any_other() -> None:
    """`Stream.of` lets a reading stage run alone; each run reads it from the beginning."""
    pipeline, words = Pipeline("test", [say(), hear()]), Stream.of(WORDS)
    for _ in range(2):
        ctx = PipelineContext({"words": words})
        output = run_virtual(lambda ctx=ctx: pipeline.stage("hear").execute(ctx))  # type: ignore[misc]
        assert output.outputs == {"heard": list(WORDS)}


def test_a_child_run_reads_with_the_reader_of_its_stage() -> None:
    """So it holds the producer back and takes part in reading as that stage does."""
    child = Pipeline(
        "child", [StageSpec("inner", _hear, (), ("words",), ("heard",))], inputs=["words"]
    )
    result = run(
        say(), subpipeline("hear", child, dependencies=["say"], inputs=["words"], outputs=["heard"])
    )
    assert result.outputs["heard"] == list(WORDS)
    assert at(result, "stage.hear.started") == 0.0


# ── failures, retries, cancellation ─────────────────────────────────────────────────────────


def test_a_failed_producer_fails_its_readers_by_its_own_error() -> None:
    """They read what had been put, then meet the error, with category and message of its cause."""
    heard: list[str] = []

    async def stumble(ctx: StageContext) -> StageOutput:
        await ctx.open("words").put("one")
        await asyncio.sleep(1.0)
        return StageOutput.fail("hoarse", retryable=True)

    async def listen(ctx: StageContext) -> StageOutput:
        async for word in ctx["words"]:
            heard[:] = [*heard, word]
        return StageOutput.ok(heard=heard)

    result = run(say(stumble, required=False), hear(listen))
    assert heard == ["one"]
    failure = result.failure
    assert isinstance(failure, StreamFailedError)
    assert isinstance(failure.cause, StageFailedError)
    assert failure.__cause__ is failure.cause
    assert failure.retryable
    assert failure.category == failure.cause.category
    assert (failure.producer, failure.stage) == ("say", "hear")


def test_a_run_that_stops_cancels_streams_and_holds_nobody_in_its_clean_up() -> None:
    """A put in a clean-up is refused, as readers that have not begun never will read."""
    refused: list[bool] = []

    async def polite(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        await words.put("hello")
        try:
            await asyncio.sleep(9.0)
        finally:
            refused.append(not await words.put("goodbye"))
        return StageOutput.ok()

    async def fail(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1.0)
        raise ValueError("on purpose")

    slow = StageSpec("slow", _say_nothing)
    result = run(say(polite), StageSpec("fail", fail), slow, hear(dependencies=("say", "slow")))
    assert refused == [True]
    assert result.stages["say"].status is StageStatus.CANCELLED
    (closed,) = [event for event in result.events if event.what == "stream_closed"]
    assert closed.data == {"stream": "words", "items": 1, "outcome": "cancelled"}


async def _say_nothing(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(5.0)
    return StageOutput.ok()


def test_who_reads_a_cancelled_stream_learns_that_it_was() -> None:
    """Outside of the run that was stopped: what had been put, and then an error."""
    heard: list[str] = []

    async def fail(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1.5)
        raise ValueError("on purpose")

    stream = run(say(), StageSpec("fail", fail)).outputs["words"]

    async def read() -> None:
        async for word in stream:
            heard[:] = [*heard, word]

    with pytest.raises(StreamCancelledError, match="'say'"):
        asyncio.run(read())
    assert heard == ["one", "two"]
    with pytest.raises(StreamNotKeptError, match="was cancelled"):
        stream.items()


def _flaky(puts: int, tries: list[int]) -> StageFunction:
    async def flaky(ctx: StageContext) -> StageOutput:
        tries.append(len(tries))
        words = ctx.open("words", capacity=1 + len(tries))
        for _ in range(puts if len(tries) == 1 else 2):
            await words.put(len(tries))
        if len(tries) == 1:
            raise ConnectionError("lost")
        return StageOutput.ok()

    return flaky


def test_an_attempt_that_has_put_nothing_is_repeated_with_the_same_stream() -> None:
    """The reader that had started meanwhile reads what the second attempt puts."""
    tries: list[int] = []
    retry = RetryInterceptor(RetryPolicy(base_delay_s=1.0))
    result = run(say(_flaky(0, tries)), hear(), interceptors=[retry])
    assert result.outputs["heard"] == [2, 2]
    assert [e.what for e in result.events if "stream" in e.what] == [
        "stream_opened",
        "stream_first_item",
        "stream_closed",
    ]


def test_an_attempt_that_has_put_something_is_not_repeated() -> None:
    """What was said cannot be unsaid: the error stands at once."""
    tries: list[int] = []
    result = run(say(_flaky(1, tries)), interceptors=[RetryInterceptor()])
    assert tries == [0]
    assert result.failure is not None
    assert result.failure.code == "connection_failed"


@pytest.mark.parametrize(("late", "tries"), [(True, 2), (False, 1)])
def test_a_reader_is_repeated_only_if_it_can_read_all_again(late: bool, tries: int) -> None:
    """One that has read items which are gone would miss them; a late one begins anew."""
    heard: list[list[str]] = []

    async def forgetful(ctx: StageContext) -> StageOutput:
        heard.append([word async for word in ctx["words"]])
        if len(heard) == 1:
            raise ConnectionError("lost")
        return StageOutput.ok(heard=heard)

    inputs = ("words", "text") if late else ("words",)

    async def text(ctx: StageContext) -> StageOutput:
        await _say(ctx)
        return StageOutput.ok(text="")

    result = run(
        say(text, outputs=("text",)),
        hear(forgetful, inputs=inputs),
        interceptors=[RetryInterceptor(RetryPolicy(base_delay_s=0.0))],
    )
    assert heard == [list(WORDS)] * tries
    assert (result.status is RunStatus.COMPLETED) == late


# ── events ──────────────────────────────────────────────────────────────────────────────────


def test_events_tell_the_life_of_a_stream() -> None:
    """Opened, first item with its time since the stage began, closed before the stage's end."""

    async def late_start(ctx: StageContext) -> StageOutput:
        words = ctx.open("words")
        await asyncio.sleep(0.25)
        await words.put("one")
        await words.put("two")
        return StageOutput.ok()

    before = StageSpec("before", _say_nothing)
    events = run(before, say(late_start, dependencies=("before",))).events
    told = [(e.what, dict(e.data)) for e in events if e.stage == "say"]
    assert told[1:4] == [
        ("stream_opened", {"stream": "words"}),
        ("stream_first_item", {"stream": "words", "elapsed_ms": 250.0}),
        ("stream_closed", {"stream": "words", "items": 2, "outcome": "completed"}),
    ]
    assert [what for what, _ in told] == [
        "started",
        "stream_opened",
        "stream_first_item",
        "stream_closed",
        "completed",
    ]


@pytest.mark.parametrize("word", ["stream_opened", "stream_first_item", "stream_closed"])
def test_a_stage_cannot_emit_the_words_of_streams(word: str) -> None:
    """They are the engine's own."""

    async def forge(ctx: StageContext) -> StageOutput:
        with pytest.raises(InvalidContextError, match=word):
            ctx.emit(word)
        return StageOutput.ok()

    assert run(StageSpec("forge", forge)).status is RunStatus.COMPLETED


# ── dead letters ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kept", [True, False])
def test_a_replay_reads_what_was_kept_and_runs_again_what_was_not(
    kept: bool, tmp_path: Any
) -> None:
    """A kept stream is stored item by item; one that is gone is written anew, by its stage."""
    runs: list[str] = []
    seen: list[Any] = []

    async def text(ctx: StageContext) -> StageOutput:
        runs.append("say")
        await _say(ctx)
        return StageOutput.ok(text="")

    async def after(ctx: StageContext) -> StageOutput:
        runs.append("after")
        return StageOutput.ok()

    async def failing(ctx: StageContext) -> StageOutput:
        words = [word async for word in ctx["words"]]
        await asyncio.sleep(1.0)
        seen.append(words)
        if len(seen) == 1:
            raise ValueError("on purpose")
        return StageOutput.ok(heard=words)

    inputs = ("words", "text") if kept else ("words",)
    bound = PipelineOrchestrator(
        Pipeline(
            "test",
            [
                say(text, outputs=("text",)),
                StageSpec("after", after, ("say",)),
                hear(failing, inputs=inputs),
            ],
        ).build()
    )
    store = SQLiteDeadLetterStore(tmp_path / "letters.db")

    async def main() -> RunResult:
        context = PipelineContext(dead_letters=store)
        await bound.run(context)
        assert context.dlq_entry is not None
        assert set(context.dlq_entry.finished) == ({"say", "after"} if kept else set())
        result = await replay(context.dlq_entry, bound, store)
        await store.close()
        return result

    result = run_virtual(main)
    assert result.status is RunStatus.COMPLETED
    assert seen == [list(WORDS)] * 2
    assert runs == (["say", "after"] if kept else ["say", "after"] * 2)


def test_a_letter_describes_a_stream_that_is_not_whole() -> None:
    """A codec stores the items of a whole one, and says of another why it could not."""
    codec = LetterCodec()
    restored = codec.from_plain(codec.to_plain(Stream.of(WORDS, key="words", producer="say")))
    assert restored.items() == WORDS
    assert (restored.key, restored.producer) == ("words", "say")
    open_one = Stream("words", StreamRoute("say"))
    placeholder = codec.from_plain(codec.to_plain(open_one))
    assert isinstance(placeholder, Unstorable)
    assert "has not ended" in placeholder.description


def test_an_item_that_cannot_be_stored_is_named() -> None:
    """A letter that lacks an item of a stream is not replayed, and says which."""
    store = InMemoryDeadLetterStore()
    context = PipelineContext(dead_letters=store)

    async def odd(ctx: StageContext) -> StageOutput:
        await ctx.open("words").put(Unstorable("a.B", "odd"))
        return StageOutput.ok()

    async def fail(ctx: StageContext) -> StageOutput:
        raise ValueError("on purpose")

    run(say(odd), StageSpec("fail", fail, ("say",)), context=context)
    assert context.dlq_entry is not None
    assert list(context.dlq_entry.unstorable()) == ["words[0]"]
