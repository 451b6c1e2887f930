"""Read the streams of a run from outside, while the run goes on."""

from __future__ import annotations

import asyncio

import pytest

from stageflow import Pipeline, PipelineContext, RunStatus, StageContext, StageOutput, StageSpec
from stageflow.engine import RunHandle
from stageflow.errors import InvalidContextError, StreamError, StreamFailedError
from tests.utils.errors import raises_code
from tests.utils.streams import WORDS, hear, say, wait_five_s

pytestmark = pytest.mark.simulate(order="asyncio")


async def _leave_at_once(ctx: StageContext) -> StageOutput:
    await anext(ctx["words"])
    return StageOutput.ok(heard=None)


async def _timed(run: RunHandle) -> list[tuple[str, float]]:
    now = asyncio.get_running_loop().time
    return [(word, now()) async for word in run["words"]]


@pytest.mark.parametrize("readers", [[], [hear()], [hear(_leave_at_once)]])
async def test_every_item_arrives_as_it_is_put_beside_any_reader(readers: list[StageSpec]) -> None:
    """Also if the readers within the run are faster, or leave: two loops, and one that is late."""
    async with Pipeline("p", [say(), *readers]).stream() as run:
        both = await asyncio.gather(_timed(run), _timed(run))
        assert list(both) == [[("one", 0.0), ("two", 1.0), ("three", 2.0)]] * 2
        await asyncio.sleep(0.5)
        assert [word for word, _ in await _timed(run)] == list(WORDS)
        result = await run.result()
    assert run["words"].items() == WORDS
    assert await run.result() is result


async def test_leaving_the_block_cancels_the_run_and_waits_for_its_clean_up() -> None:
    """Whether the block ends, raises or is cancelled; without a result, `result` says why."""
    cleaned: list[float] = []

    async def forever(ctx: StageContext) -> StageOutput:
        words = ctx.open("words")
        await words.put("one")
        try:
            await asyncio.sleep(100.0)
        finally:
            await asyncio.sleep(1.0)
            cleaned.append(ctx.now())
        return StageOutput.ok()

    async def read(how: str, context: PipelineContext) -> None:
        async with Pipeline("p", [say(forever)]).stream(context) as run:
            runs.append(run)
            async for word in run["words"]:
                assert word == "one"
                if how == "raises":
                    raise LookupError(how)
                if how == "is cancelled":
                    await asyncio.sleep(50.0)
                break

    runs: list[RunHandle] = []
    for how in ("ends", "raises", "is cancelled"):
        context, began = PipelineContext(), asyncio.get_running_loop().time()
        reading = asyncio.create_task(read(how, context))
        if how == "is cancelled":
            await asyncio.sleep(0.5)
            reading.cancel()
            await asyncio.sleep(0.5)
            reading.cancel()
        (raised,) = await asyncio.gather(reading, return_exceptions=True)
        kinds = {"ends": type(None), "raises": LookupError, "is cancelled": asyncio.CancelledError}
        assert type(raised) is kinds[how]
        assert cleaned.pop() == asyncio.get_running_loop().time() >= began + 1.0
        assert context.status is RunStatus.CANCELLED
        with raises_code("stream_cancelled", match="leaving the block cancels"):
            await runs[-1].result()
        with raises_code("stream_cancelled", match="'say'.*cancelled"):
            assert [word async for word in runs[-1]["words"]] == []


async def test_a_block_that_is_left_at_once_runs_nothing() -> None:
    """The context is free for the next run, and readers learn that nothing comes."""
    context = PipelineContext()
    pipeline = Pipeline("p", [say(), hear()])
    async with pipeline.stream(context) as run:
        reading = aiter(run["words"])
    # Eager tasks begin a run within the block; others after it, so that it never begins.
    eager = asyncio.get_running_loop().get_task_factory() is not None
    assert context.status is (RunStatus.CANCELLED if eager else RunStatus.CREATED)
    with raises_code("stream_cancelled"):
        async for word in reading:
            assert eager, word
    assert (await pipeline.run(context)).status is RunStatus.COMPLETED


async def _skip(ctx: StageContext) -> StageOutput:
    return StageOutput.skip("nothing to say")


async def _fail(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0.5)
    raise ValueError("no voice")


@pytest.mark.parametrize(
    ("specs", "heard", "error", "text"),
    [
        ([say(_skip)], [], None, ""),
        ([say(condition=lambda _: False)], [], None, ""),
        ([say(_fail)], [], StreamFailedError, "'say'.*failed: ValueError: no voice"),
        ([say(_fail, required=False)], [], StreamFailedError, "no voice"),
        ([say(), StageSpec("other", _fail)], ["one"], StreamError, "'other': ValueError: no voice"),
        ([StageSpec("first", _fail), say(dependencies=("first",))], [], StreamError, "no voice"),
    ],
    ids=["skipped", "condition", "failed", "optional", "another failed", "never began"],
)  # fmt: skip
async def test_a_stream_that_never_opens_ends_and_an_error_is_visible(
    specs: list[StageSpec], heard: list[str], error: type[Exception] | None, text: str
) -> None:
    """A skipped stage has no items. A failure follows the items, and is that of the result."""
    found: list[str] = []

    async def read(run: RunHandle) -> None:
        async for word in run["words"]:
            found.append(word)  # noqa: PERF401 - the loop raises in its middle

    pipeline = Pipeline("p", [*specs, StageSpec("slow", wait_five_s)])
    async with pipeline.stream() as run:
        if error is None:
            await read(run)
            assert asyncio.get_running_loop().time() == 0.0
        else:
            with pytest.raises(error, match=text) as raised:
                await read(run)
            assert raised.type is error
        result = await run.result()
        if raised_by := error and raised.value.__cause__:
            failed = [s.detail.get("error_message") for s in result.stages.values()]
            assert str(raised_by) in failed
    assert found == heard


async def _read_one(run: RunHandle, error: type[StreamError]) -> None:
    async with run:
        with pytest.raises(error):
            await anext(aiter(run["words"]))


async def test_wrong_use_of_a_run_is_refused() -> None:
    """A stream that does not exist, a run that has not begun, a context without an input."""
    pipeline = Pipeline("p", [say(), hear()])
    run = pipeline.stream()
    for use in (lambda: run["words"], lambda: run.result().send(None)):
        with raises_code("stream_closed", match="write 'async with pipeline.stream"):
            use()
    async with run:
        with raises_code("undeclared_stream", match="'p' has no stream 'wrods'.*mean 'words'"):
            run["wrods"]
        with raises_code("undeclared_stream", match="outputs are in"):
            run["heard"]
        with pytest.raises(InvalidContextError, match="still carries"):
            await _read_one(pipeline.stream(run.context), StreamError)
    with raises_code("missing_run_input"):
        Pipeline("p", [say()], inputs=["q"]).stream(PipelineContext({}))


async def test_an_error_that_is_not_a_result_leaves_the_block() -> None:
    """A crash is raised at the end of the block at the latest."""

    class Crash(BaseException):
        pass

    async def crash(ctx: StageContext) -> StageOutput:
        ctx.open("words")
        raise Crash

    with pytest.raises(Crash):
        await _read_one(Pipeline("p", [say(crash)]).stream(), StreamFailedError)
