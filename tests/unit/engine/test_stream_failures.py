"""Streams of runs that fail: retries, cancellation, dead letters and their replay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    StageStatus,
    Stream,
)
from stageflow.codec import Codec
from stageflow.dlq import InMemoryDeadLetterStore, SQLiteDeadLetterStore, Unstorable, replay
from stageflow.engine import StageFunction
from stageflow.engine.stream import StreamRoute
from stageflow.errors import StageFailedError, StreamFailedError
from stageflow.interceptors import RetryInterceptor, RetryPolicy
from tests.utils.errors import raises_code
from tests.utils.streams import WORDS, hear, run, say, say_words, wait_five_s
from tests.utils.virtual_time import run_virtual


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

    slow = StageSpec("slow", wait_five_s)
    result = run(say(polite), StageSpec("fail", fail), slow, hear(dependencies=("say", "slow")))
    assert refused == [True]
    assert result.stages["say"].status is StageStatus.CANCELLED
    (closed,) = [event for event in result.events if event.what == "stream_closed"]
    assert closed.data == {"stream": "words", "items": 1, "outcome": "cancelled"}


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

    with raises_code("stream_cancelled", match="'say'"):
        asyncio.run(read())
    assert heard == ["one", "two"]
    with raises_code("stream_not_kept", match="was cancelled"):
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
    """The user may have heard an item, so the error is final at once."""
    tries: list[int] = []
    result = run(say(_flaky(1, tries)), interceptors=[RetryInterceptor()])
    assert tries == [0]
    assert result.failure is not None
    assert result.failure.code == "connection_failed"


@pytest.mark.parametrize(("buffered", "tries"), [(True, 2), (False, 1)])
def test_a_reader_is_repeated_only_if_it_can_read_all_again(buffered: bool, tries: int) -> None:
    """A back-pressured reader would miss the dropped items; a buffered one starts again."""
    heard: list[list[str]] = []

    async def forgetful(ctx: StageContext) -> StageOutput:
        heard.append([word async for word in ctx["words"]])
        if len(heard) == 1:
            raise ConnectionError("lost")
        return StageOutput.ok(heard=heard)

    inputs = ("words", "text") if buffered else ("words",)

    async def text(ctx: StageContext) -> StageOutput:
        await say_words(ctx)
        return StageOutput.ok(text="")

    result = run(
        say(text, outputs=("text",)),
        hear(forgetful, inputs=inputs),
        interceptors=[RetryInterceptor(RetryPolicy(base_delay_s=0.0))],
    )
    assert heard == [list(WORDS)] * tries
    assert (result.status is RunStatus.COMPLETED) == buffered


@pytest.mark.parametrize("kept", [True, False])
async def test_a_replay_reads_what_was_kept_and_runs_again_what_was_not(
    kept: bool, tmp_path: Any
) -> None:
    """A kept stream is stored item by item; one that is gone is written anew, by its stage."""
    runs: list[str] = []
    seen: list[Any] = []
    has_run = asyncio.Event()

    async def text(ctx: StageContext) -> StageOutput:
        runs.append("say")
        words = ctx.open("words")
        for word in WORDS:
            await words.put(word)
        return StageOutput.ok(text="")

    async def after(ctx: StageContext) -> StageOutput:
        runs.append("after")
        has_run.set()
        return StageOutput.ok()

    async def failing(ctx: StageContext) -> StageOutput:
        words = [word async for word in ctx["words"]]
        await has_run.wait()
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

    context = PipelineContext(dead_letters=store)
    await bound.run(context)
    assert context.dlq_entry is not None
    assert set(context.dlq_entry.finished) == ({"say", "after"} if kept else set())
    result = await replay(context.dlq_entry, bound, store)
    await store.close()
    assert result.status is RunStatus.COMPLETED
    assert seen == [list(WORDS)] * 2
    assert runs == (["say", "after"] if kept else ["say", "after"] * 2)


@pytest.mark.parametrize("items", [0, 2])
def test_a_stage_that_opened_a_stream_and_skipped_itself_stays_skipped(items: int) -> None:
    """Its letter can be replayed, although the stage has written none of its outputs."""
    runs: list[str] = []

    async def skip(ctx: StageContext) -> StageOutput:
        runs.append("say")
        words = ctx.open("words")
        for word in WORDS[:items]:
            await words.put(word)
        return StageOutput.skip("nothing to say")

    async def fail_once(ctx: StageContext) -> StageOutput:
        runs.append("end")
        if runs.count("end") == 1:
            raise ValueError("on purpose")
        return StageOutput.ok()

    end = StageSpec("end", fail_once, ("say",))
    assert letters_until_it_completes(say(skip, outputs=("text",)), end) == [{"say"}]
    assert runs == ["say", "end", "end"]


def letters_until_it_completes(*specs: StageSpec) -> list[set[str]]:
    """Run, and replay the letter until the run completes.

    Returns:
        Before each replay, the stages that are not run again.
    """
    store, finished = InMemoryDeadLetterStore(), list[set[str]]()
    pipeline = Pipeline("test", specs)

    async def main() -> None:
        context = PipelineContext(dead_letters=store)
        result = await pipeline.run(context)
        assert context.dlq_entry is not None
        while result.failure is not None:
            letter = await store.get(context.dlq_entry.id)
            finished.append(set(letter.finished))
            assert letter.attempts < 4, result.error
            result = await replay(letter.id, pipeline.orchestrator, store)

    run_virtual(main)
    return finished


class Recorded:
    """Stages that keep what each of their attempts has read; some attempts fail."""

    def __init__(self) -> None:
        self.reads: dict[str, list[list[Any]]] = {}

    def writes(self, name: str, *keys: str, fails: int = 0, **fields: Any) -> StageSpec:
        """A stage that writes ten items to each of `keys`, at most one ahead of its readers."""

        async def write(ctx: StageContext) -> StageOutput:
            attempts = self.reads.setdefault(name, [])
            attempts.append([])
            for key in keys:
                stream = ctx.open(key, capacity=1)
                for number in range(10):
                    await stream.put(number)
                    await asyncio.sleep(1)
            if len(attempts) <= fails:
                raise ConnectionError("down")
            return StageOutput.ok()

        return StageSpec(name, write, streams=keys, **fields)

    def reads_of(
        self, name: str, *keys: str, most: int = 10, fails: int = 0, **fields: Any
    ) -> StageSpec:
        """A stage that reads up to `most` items of each of `keys`."""

        async def read(ctx: StageContext) -> StageOutput:
            attempts, items = self.reads.setdefault(name, []), list[Any]()
            attempts.append(items)
            for key in keys:
                for _ in range(most):
                    items.append(await anext(ctx[key], None))
            if len(attempts) <= fails:
                await asyncio.sleep(20)  # all writers have ended by then
                raise ConnectionError("down")
            return StageOutput.ok({f"{name}-out": 1} if fields.get("outputs") else {})

        return StageSpec(name, read, inputs=keys, **fields)


ALL = list(range(10))


def test_a_reader_that_finished_is_not_run_again_when_its_stream_opens_again() -> None:
    """Its writer fails after it, and is run again; the outputs of the reader stay."""
    seen = Recorded()
    finished = letters_until_it_completes(
        seen.writes("write", "words", fails=2),
        seen.reads_of("first", "words", most=1, dependencies=("write",), outputs=("first-out",)),
        seen.reads_of("behind", "first-out", most=0, dependencies=("first",)),
    )
    assert finished == [{"first", "behind"}] * 2
    assert seen.reads == {"write": [[]] * 3, "first": [[0]], "behind": [[]]}


def test_an_optional_reader_that_failed_is_not_run_again() -> None:
    """Its failure is its end, also in a replay."""
    seen = Recorded()
    finished = letters_until_it_completes(
        seen.writes("write", "words", fails=1),
        seen.reads_of("first", "words", most=1, fails=9, dependencies=("write",), required=False),
    )
    assert finished == [{"first"}]
    assert seen.reads["first"] == [[0]]


def test_a_reader_that_finished_is_not_run_again_for_the_sake_of_another() -> None:
    """Another reader of a writer that failed gets every item, and waits for nobody."""
    seen = Recorded()
    finished = letters_until_it_completes(
        seen.writes("write", "words", fails=1),
        seen.reads_of("first", "words", most=1, dependencies=("write",)),
        seen.reads_of("all", "words", fails=1, dependencies=("write",)),
    )
    assert finished == [{"first"}]
    assert seen.reads["first"] == [[0]]
    assert seen.reads["all"][-1] == ALL


def test_a_reader_of_several_streams_that_finished_is_not_run_again() -> None:
    """One of its writers had completed, and the other opens its stream again."""
    seen = Recorded()
    finished = letters_until_it_completes(
        seen.writes("steady", "a"),
        seen.writes("write", "b", "c", fails=1),
        seen.reads_of("both", "a", "b", most=3, dependencies=("steady", "write")),
    )
    assert finished == [{"steady", "both"}]
    assert seen.reads["both"] == [[0, 1, 2] * 2]


def test_a_chain_of_streams_that_are_gone_is_run_again_from_its_start() -> None:
    """A stage that has to write its stream once more needs the one that it had read."""
    seen = Recorded()

    async def relay(ctx: StageContext) -> StageOutput:
        stream = ctx.open("b")
        async for item in ctx["a"]:
            await stream.put(item)
        return StageOutput.ok()

    finished = letters_until_it_completes(
        seen.writes("write", "a"),
        StageSpec("relay", relay, ("write",), inputs=("a",), streams=("b",)),
        seen.reads_of("read", "b", fails=1, dependencies=("relay",)),
    )
    assert finished == [set()]
    assert seen.reads["read"] == [ALL, ALL]


def test_a_stage_that_finished_in_a_replay_is_not_run_in_the_next() -> None:
    """Its readers had finished in the run before, so nobody needs its stream again."""
    seen = Recorded()
    finished = letters_until_it_completes(
        seen.writes("write", "words", fails=1),
        seen.reads_of("first", "words", most=1, dependencies=("write",)),
        seen.reads_of("last", most=0, fails=1, dependencies=("write",)),
    )
    assert finished == [{"first"}, {"first", "write"}]
    assert seen.reads == {"write": [[]] * 2, "first": [[0]], "last": [[]] * 2}


def test_a_reader_stays_finished_although_its_writer_has_to_write_once_more() -> None:
    """A replay's writer completes and a second reader fails: both run again, the first does not."""
    seen = Recorded()
    finished = letters_until_it_completes(
        seen.writes("write", "words", fails=1),
        seen.reads_of("first", "words", most=1, dependencies=("write",)),
        seen.reads_of("all", "words", fails=2, dependencies=("write",)),
    )
    assert finished == [{"first"}] * 2
    assert seen.reads["first"] == [[0]]
    assert seen.reads["all"][-1] == ALL


def test_a_letter_describes_a_stream_that_is_not_whole() -> None:
    """A codec stores the items of a whole one, and says of another why it could not."""
    codec = Codec()
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
    assert list(context.dlq_entry.unstorable()) == ["outputs['words'][0]"]
