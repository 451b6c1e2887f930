"""Write and read streams: back pressure, what is kept, and the events of a stream."""

from __future__ import annotations

import asyncio

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    Stream,
    subpipeline,
)
from stageflow.engine import StreamWriter
from stageflow.engine.stream import StreamRoute
from stageflow.errors import InvalidConfigError, InvalidContextError, StreamError
from tests.utils.errors import code_of, raises_code
from tests.utils.streams import WORDS, at, hear, hear_words, run, say, say_words, wait_five_s
from tests.utils.virtual_time import run_virtual


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


def test_a_stage_that_only_puts_gives_control_to_the_loop() -> None:
    """So a deadline stops it, and its caller can leave it."""

    async def endless(ctx: StageContext) -> StageOutput:
        words = ctx.open("words")
        for number in range(500_000):
            await words.put(number)
        return StageOutput.ok()

    pipeline = Pipeline("p", [say(endless)])

    async def main() -> int:
        await pipeline.run(context := PipelineContext(deadline_s=0.001))
        async with pipeline.stream() as run:
            assert await anext(aiter(run["words"])) == 0
        return int(max(context.bag["words"].count, run["words"].count))

    assert asyncio.run(main()) < 500_000


def test_a_put_that_was_let_in_is_not_overtaken_before_it_comes() -> None:
    """There is room for one put, and one has been granted it: a new put queues behind it."""

    async def crowded(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        await words.put(0)
        first = asyncio.create_task(words.put(1))
        await asyncio.sleep(1.0)
        reader_goes_on.set()
        await asyncio.sleep(0)
        assert not first.done()
        assert words._stream._putting[0].done(), "it has been granted room, and has not run yet"
        await words.put(2)
        await first
        return StageOutput.ok()

    async def patient(ctx: StageContext) -> StageOutput:
        await reader_goes_on.wait()
        return StageOutput.ok(heard=[number async for number in ctx["words"]])

    reader_goes_on = asyncio.Event()
    assert run(say(crowded), hear(patient)).outputs["heard"] == [0, 1, 2]


def test_when_the_last_back_pressured_reader_leaves_all_writers_continue() -> None:
    """The buffered reader has not started, and writers do not wait for it."""

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
    """Also one that was just granted room: the next put in the queue gets it."""

    async def impatient(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        await words.put(0)
        first, second = (asyncio.create_task(words.put(number)) for number in (1, 2))
        await asyncio.sleep(1.0)
        reader_goes_on.set()
        await asyncio.sleep(0)
        assert not first.done()
        assert words._stream._putting[0].done(), "it has been granted room, and has not run yet"
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
    told: list[tuple[float, str | None]] = []

    async def careless(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        left.extend(asyncio.create_task(words.put(number)) for number in range(2))
        contexts.append(ctx)
        left[1].add_done_callback(lambda put: told.append((ctx.now(), code_of(put.exception()))))
        await asyncio.sleep(1.0)
        return StageOutput.ok()

    async def slow(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(5.0)
        return StageOutput.ok(heard=[word async for word in ctx["words"]])

    result = run(say(careless), hear(slow))
    assert result.outputs["heard"] == [0]
    assert left[0].result()
    assert told == [(1.0, "stream_closed")]
    with raises_code("stream_closed"):
        contexts[0].open("words")


@pytest.mark.parametrize("how", ["cancelled", "awaited", "gathered", "dropped", "not begun"])
def test_a_put_that_nobody_awaited_fails_the_stage(how: str) -> None:
    """Also one in a task that has not begun; a put that was cancelled was meant to be lost."""

    async def odd(ctx: StageContext) -> StageOutput:
        words = ctx.open("words")
        calls = [words.put(number) for number in range(3)]
        if how == "not begun":
            tasks.extend(map(asyncio.Task, calls))  # whatever the task factory of the loop
        elif how == "dropped":
            await calls.pop()
            calls.pop().close()
        elif how == "cancelled":
            cancelled = [asyncio.create_task(call) for call in calls]
            for task in cancelled:
                task.cancel()
            await asyncio.wait(cancelled)
        elif how == "awaited":
            for call in calls:
                await call
        else:
            await asyncio.gather(*calls)
        return StageOutput.ok()

    tasks: list[asyncio.Task[bool]] = []

    async def main() -> str | None:
        result = await Pipeline("test", [say(odd)]).run()
        await asyncio.gather(*tasks, return_exceptions=True)
        return code_of(result.failure)

    lost = how in ("dropped", "not begun")
    assert run_virtual(main) == ("unawaited_output" if lost else None)


def test_opening_is_checked() -> None:
    """An undeclared key, a capacity that is none, and a second opening after a put are refused."""
    seen: list[str] = []

    async def wrong(ctx: StageContext) -> StageOutput:
        for key, capacity in (("wrods", 1), ("words", 0), ("words", True), ("words", "2")):
            with pytest.raises((StreamError, InvalidConfigError)) as caught:
                ctx.open(key, capacity=capacity)  # type: ignore[arg-type]
            seen.append(caught.value.code)
        await ctx.open("words").put(1)
        with raises_code("stream_reopened", match="1 items"):
            ctx.open("words")
        return StageOutput.ok()

    async def plain(ctx: StageContext) -> StageOutput:
        with raises_code("undeclared_stream"):
            ctx.open("words")
        return StageOutput.ok()

    assert run(say(wrong)).status is RunStatus.COMPLETED
    assert run(StageSpec("plain", plain)).status is RunStatus.COMPLETED
    assert seen == ["undeclared_stream", *["invalid_config"] * 3]


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
    """A debugger shows the key, and how far each has come."""
    stream = Stream.of(WORDS, key="words", producer="say")
    reader, writer = aiter(stream), StreamWriter(stream)
    assert repr(stream) == "Stream('words' by 'say', 3 items, completed)"
    assert repr(Stream("tones", StreamRoute("say"))) == "Stream('tones' by 'say', 0 items, open)"
    assert repr(reader) == "StreamReader('words', 0 read)"
    assert repr(writer) == "StreamWriter('words', 3 put)"
    assert not writer.wanted


def test_without_a_reader_everything_is_kept_as_the_result() -> None:
    """Everybody with the result can read it, as often as wanted, in any loop."""
    stream = run(say()).outputs["words"]
    assert isinstance(stream, Stream)
    assert stream.items() == WORDS

    async def read() -> list[str]:
        return [word async for word in stream]

    assert asyncio.run(read()) == asyncio.run(read()) == list(WORDS)


def test_items_that_back_pressured_readers_have_read_are_dropped_and_an_error_says_so() -> None:
    """The items are gone at the end; with a buffered reader they are kept."""
    stream = run(say(), hear()).outputs["words"]
    with raises_code("stream_not_kept", match="dropped"):
        stream.items()
    with raises_code("stream_not_kept", match="'words'"):
        asyncio.run(anext(aiter(stream)))
    buffered = hear(name="buffered", dependencies=("say", "hear"), outputs=())

    async def count(ctx: StageContext) -> StageOutput:
        assert [word async for word in ctx["words"]] == list(WORDS)
        return StageOutput.ok()

    kept = run(say(), hear(), StageSpec("buffered", count, buffered.dependencies, buffered.inputs))
    assert kept.status is RunStatus.COMPLETED
    assert kept.outputs["words"].items() == WORDS


@pytest.mark.simulate(order="asyncio")
async def test_a_caller_can_read_while_the_run_goes_on() -> None:
    """`PipelineContext.bag` holds the stream from its opening on."""
    context = PipelineContext()
    heard: list[tuple[str, float]] = []
    opened = asyncio.Event()

    async def announced(ctx: StageContext) -> StageOutput:
        ctx.open("words")
        opened.set()
        return await say_words(ctx)

    running = asyncio.ensure_future(Pipeline("test", [say(announced)]).run(context))
    await opened.wait()
    now = asyncio.get_running_loop().time
    heard.extend([(word, now()) async for word in context.bag["words"]])
    await running
    assert heard == [("one", 0.0), ("two", 1.0), ("three", 2.0)]


@pytest.mark.simulate(order="asyncio")
async def test_a_loop_beside_a_reader_of_the_run_gets_every_item() -> None:
    """If it begins before an item is dropped; a loop that is left holds no items back."""
    streams: list[Stream] = []
    heard: list[list[str]] = []

    async def announced(ctx: StageContext) -> StageOutput:
        words = ctx.open("words", capacity=1)
        streams.append(ctx.run.bag["words"])
        left, reading = aiter(streams[0]), asyncio.create_task(read())
        for word in WORDS:
            await words.put(word)
            await asyncio.sleep(1.0)
        assert list(streams[0]._items) == list(WORDS)
        del left
        await words.put("four")
        assert not reading.done()
        return StageOutput.ok()

    async def read() -> None:
        heard.append([word async for word in streams[0]])

    result = await Pipeline("test", [say(announced), hear()]).run()
    assert result.outputs["heard"] == heard[0] == [*WORDS, "four"]
    assert not streams[0]._items
    with raises_code("stream_not_kept", match="dropped"):
        await anext(aiter(streams[0]))


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
        "child", [StageSpec("inner", hear_words, (), ("words",), ("heard",))], inputs=["words"]
    )
    result = run(
        say(), subpipeline("hear", child, dependencies=["say"], inputs=["words"], outputs=["heard"])
    )
    assert result.outputs["heard"] == list(WORDS)
    assert at(result, "stage.hear.started") == 0.0


def test_events_tell_the_life_of_a_stream() -> None:
    """Opened, first item with its time since the stage began, closed before the stage's end."""

    async def late_start(ctx: StageContext) -> StageOutput:
        words = ctx.open("words")
        await asyncio.sleep(0.25)
        await words.put("one")
        await words.put("two")
        return StageOutput.ok()

    before = StageSpec("before", wait_five_s)
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
