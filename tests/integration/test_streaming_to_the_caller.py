"""A caller reads the streams and the events of a run that goes on, also through child runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    StageContext,
    StageOutput,
    run_child,
    stage,
    subpipeline,
)
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.engine import PipelineOrchestrator
from stageflow.errors import InvalidConfigError, StreamError
from stageflow.providers import FakeLLM
from tests.utils.errors import raises_code


@stage
async def tokens(question: str) -> AsyncIterator[str]:
    """Yield a word a second."""
    for word in question.split():
        await asyncio.sleep(1)
        yield word


ANSWER = Pipeline("answer", [tokens])


@pytest.mark.simulate(order="asyncio")
async def test_tokens_arrive_as_they_are_made_also_from_a_child_run() -> None:
    """Each after its second, and the result after the last."""
    outer = Pipeline("outer", [subpipeline("ask", ANSWER, inputs=["question"], streams=["tokens"])])
    loop = asyncio.get_running_loop()
    for pipeline in (ANSWER, outer):
        began = loop.time()
        async with pipeline.stream(question="to be or") as run:
            seen = [(token, loop.time() - began) async for token in run["tokens"]]
            assert (await run.result()).status == "completed"
        assert seen == [("to", 1.0), ("be", 2.0), ("or", 3.0)]


@pytest.mark.simulate(order="asyncio")
async def test_leaving_the_block_cancels_the_child_run_too() -> None:
    """Its clean-up has ended when the block is left."""
    ended: list[str] = []

    @stage
    async def endless(question: str) -> AsyncIterator[str]:
        try:
            while True:
                await asyncio.sleep(1)
                yield question
        finally:
            await asyncio.sleep(1)
            ended.append("endless")

    child = Pipeline("child", [endless])
    outer = Pipeline("outer", [subpipeline("ask", child, inputs=["question"], streams=["endless"])])
    async with outer.stream(question="again") as run:
        async for item in run["endless"]:
            assert item == "again"
            break
    assert ended == ["endless"]
    assert run.context.status == "cancelled"


@pytest.mark.simulate(order="asyncio")
async def test_a_failure_in_a_child_run_comes_after_the_items_before_it() -> None:
    """And fails the stage that runs it, with the child's error."""

    @stage
    async def breaks(question: str) -> AsyncIterator[str]:
        yield question
        raise ConnectionError("down")

    child = Pipeline("child", [breaks])
    outer = Pipeline("outer", [subpipeline("ask", child, inputs=["question"], streams=["breaks"])])
    async with outer.stream(question="once") as run:
        items = aiter(run["breaks"])
        assert await anext(items) == "once"
        with pytest.raises(StreamError, match="down"):
            await anext(items)
        with raises_code("child_run_failed"):
            (await run.result()).unwrap()


async def test_a_stream_that_the_child_lacks_is_named() -> None:
    """It is an error of the stage."""

    @stage(streams=["words"])
    async def ask(ctx: StageContext, question: str) -> StageOutput:
        await run_child(ctx, ANSWER, {"question": question}, streams=["words"])
        return StageOutput.ok()

    result = await Pipeline("outer", [ask]).run(question="q")
    assert "has no stream 'words'" in str(result.error)


async def test_a_refusal_of_a_child_run_is_one_of_its_parent() -> None:
    """The user gets one answer."""

    @stage
    async def guard(question: str) -> StageOutput:
        return StageOutput.refuse("No.")

    child = Pipeline("child", [guard])
    result = await Pipeline("outer", [subpipeline("ask", child, inputs=["question"])]).run(
        question="q"
    )
    assert (result.status, result.refusal) == ("completed", "No.")


@pytest.mark.simulate(order="asyncio")
async def test_events_are_read_while_the_run_goes_on() -> None:
    """All of them, by any number of readers, from the first to the last."""
    loop = asyncio.get_running_loop()

    async def read() -> list[tuple[str, float]]:
        return [(event.type, loop.time() - began) async for event in run.events()]

    began = loop.time()
    async with ANSWER.stream(question="to be") as run:
        early = asyncio.ensure_future(read())
        result = await run.result()
        late = [event async for event in run.events()]
    assert late == list(result.events)
    assert [kind for kind, _ in await early] == [event.type for event in late]
    assert [at for _, at in await early] == [event.offset_ms / 1000 for event in late]


class Kept:
    """A sink that keeps the types of events."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.closed = False

    def write(self, events: Any) -> None:
        """Keep them."""
        self.types += [event.type for event in events]

    def close(self) -> None:
        """Note it."""
        self.closed = True


def test_a_server_binds_what_it_keeps() -> None:
    """Providers, sinks and dead letters serve many runs, and closing flushes the sinks."""

    @stage(provider="llm")
    async def answer(ctx: StageContext, question: str) -> str:
        if question == "fail":
            raise ConnectionError("down")
        return await ctx.llm.complete([])

    pipeline, kept, letters = Pipeline("p", [answer]), Kept(), InMemoryDeadLetterStore()
    providers = ProviderRegistry(llm=FakeLLM("bound"))
    own = ProviderRegistry(llm=FakeLLM("own"))

    async def serve(bound: PipelineOrchestrator) -> list[Any]:
        results = [
            await bound.run(question="q"),
            await bound.run({"question": "q"}),
            await bound.run(PipelineContext({"question": "q"}, providers=own)),
        ]
        await bound.run(question="fail")
        return [result["answer"] for result in results]

    with pipeline.bind(sinks=[kept], dead_letters=letters, providers=providers) as bound:
        assert asyncio.run(serve(bound)) == ["bound", "bound", "own"]
    assert kept.closed
    assert kept.types.count("pipeline.started") == 4
    assert len(asyncio.run(letters.letters())) == 1


@pytest.mark.parametrize(
    "given", [{"sinks": [3]}, {"providers": {}}, {"dead_letters": 3}, {"interceptors": 3}]
)
def test_what_cannot_be_bound_is_named(given: dict[str, Any]) -> None:
    """And nothing is left running."""
    with pytest.raises(InvalidConfigError):
        ANSWER.bind(**given)
