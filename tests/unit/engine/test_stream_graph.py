"""How streams are declared, which edges they add to the graph, and what many of them cost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineDefinitionError,
    StageContext,
    StageOutput,
    StageSpec,
    StageStatus,
    stage,
)
from stageflow.engine.stream import StreamRoute
from stageflow.errors import StageDefectError
from stageflow.testing import do_nothing
from tests.utils.errors import code_of
from tests.utils.streams import WORDS, at, hear, hear_words, run, say, say_words
from tests.utils.virtual_time import run_virtual


def test_a_decorated_stage_declares_streams() -> None:
    """`@stage(streams=[…])` is the same as the spec's field, lists being tuples."""

    @stage(streams=["words"])
    async def says(ctx: StageContext) -> StageOutput:
        return StageOutput.ok()

    assert says.streams == ("words",)
    assert StageSpec("s", say_words, streams=["words"]).streams == ("words",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("specs", "defect"),
    [
        ([say(outputs=("words",))], "output_is_stream"),
        ([say(), say(name="other")], "duplicate_output"),
        ([say(), StageSpec("other", say_words, outputs=("words",))], "duplicate_output"),
        ([say(streams=("words", "words"))], "invalid_declaration"),
        ([say(streams="words")], "invalid_declaration"),
        ([say(streams=(1,))], "invalid_declaration"),
    ],
)
def test_a_wrong_declaration_is_one_typed_problem(specs: list[StageSpec], defect: str) -> None:
    """A key is an output or a stream of one stage, and streams are a list of distinct names."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("test", specs)
    assert defect in [problem.code for problem in caught.value.problems]


def test_reading_a_stream_is_an_edge_from_its_producer() -> None:
    """A reader depends on the producer, as it would for an output."""
    graph = Pipeline("test", [say(), hear(dependencies=())]).build()
    assert graph.stream_edges == {(0, 1): {"words"}}


def test_the_graph_has_stream_edges_and_back_pressured_readers() -> None:
    """A reader is buffered if it may wait for the producer in another way than by the stream."""
    graph = Pipeline(
        "test",
        [
            say(outputs=("text",), streams=("words", "tones")),
            hear(name="pressed"),
            hear(name="reads_text", inputs=("words", "text"), outputs=()),
            hear(name="reads_both", inputs=("words", "tones"), outputs=()),
            hear(name="behind", dependencies=("say", "pressed"), outputs=()),
            hear(name="far", dependencies=("pressed",), outputs=()),
        ],
    ).build()
    buffered = ("reads_text", "reads_both", "behind", "far")
    assert graph.streams["words"] == StreamRoute("say", ("pressed",), buffered)
    assert graph.streams["tones"] == StreamRoute("say", (), ("reads_both",))
    names = [spec.name for spec in graph.specs]
    edges = {(names[a], names[b]): keys for (a, b), keys in graph.stream_edges.items()}
    assert edges == {
        ("say", "pressed"): {"words"},
        ("say", "reads_both"): {"words", "tones"},
        ("say", "behind"): {"words"},
        ("say", "far"): {"words"},
    }


def test_a_reader_in_a_circle_of_streams_is_late() -> None:
    """Of a diamond of streams one side holds back, the others could wait for each other."""
    relay = StageSpec("relay", say_words, ("say",), ("words",), streams=("echo",))
    both = StageSpec("both", hear_words, ("say", "relay"), ("words", "echo"))
    graph = Pipeline("test", [say(), relay, both]).build()
    assert graph.streams["words"] == StreamRoute("say", ("relay",), ("both",))
    assert graph.streams["echo"] == StreamRoute("relay", (), ("both",))


def test_a_reader_starts_at_the_opening_and_everybody_else_at_the_end() -> None:
    """Only who reads nothing but streams of a stage overtakes its end."""
    waiter = StageSpec("waiter", hear_words, ("say",), ("words", "text"), ("heard2",))

    async def wait(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(heard2=[word async for word in ctx["words"]])

    async def text(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(0.5)
        await say_words(ctx)
        return StageOutput.ok(text="")

    result = run(
        say(text, outputs=("text",)),
        hear(),
        StageSpec("waiter", wait, waiter.dependencies, waiter.inputs, waiter.outputs),
        StageSpec("plain", do_nothing, ("say",)),
    )
    assert result.outputs["heard"] == result.outputs["heard2"] == list(WORDS)
    assert at(result, "stage.say.stream_opened") == at(result, "stage.hear.started") == 500.0
    assert at(result, "stage.say.completed") == at(result, "stage.waiter.started") == 3500.0
    assert at(result, "stage.plain.started") == 3500.0


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
            group.create_task(say_words(ctx))
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


def test_who_completes_without_having_opened_fails_and_writesdo_nothing() -> None:
    """A declared stream that was not opened is a missing output."""

    async def forget(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(text="x")

    result = run(say(forget, outputs=("text",)))
    assert isinstance(result.failure, StageDefectError)
    assert result.failure.code == "output_mismatch"
    assert result.failure.keys == ("words",)
    assert "ctx.open('words')" in str(result.failure)
    assert result.outputs == {}


def test_interceptors_see_a_stream_that_was_not_opened() -> None:
    """As of an output that is missing: to them, too, the stage has failed."""
    told: list[str] = []

    class Told(Interceptor):
        def failed(self, ctx: StageContext, error: BaseException, /) -> None:
            told.append(str(code_of(error)))

    result = run(say(do_nothing), interceptors=[Told()])
    assert told == ["output_mismatch"]
    assert result.stages["say"].status is StageStatus.FAILED


def test_the_critical_path_runs_beside_a_producer() -> None:
    """A stream's reader begins with its producer: the heavier of both counts, not their sum."""
    first = StageSpec("first", do_nothing)
    graph = Pipeline("test", [first, say(dependencies=("first",)), hear()]).build()
    weights = {"first": 1.0, "say": 5.0, "hear": 6.0}
    assert graph.critical_path(weights) == (("first", "hear"), 7.0)
    assert graph.critical_path({**weights, "hear": 2.0}) == (("first", "say"), 6.0)


def test_a_drawing_tells_streams_from_other_edges() -> None:
    """A stream edge is thick and names its keys."""
    drawn = Pipeline("test", [say(), hear(), StageSpec("plain", do_nothing, ("say",))]).draw()
    assert "    s0 ==>|words| s1\n" in drawn
    assert "    s0 --> s2\n" in drawn


def lines_of(count: int) -> int:
    """Return how many lines of `RunStreams` run for so many stages, each streaming to the next.

    A loop within a line counts once for each pass.
    """

    def stage(number: int) -> StageSpec:
        async def passing(ctx: StageContext) -> StageOutput:
            await ctx.open(f"k{number}").put(number)
            return StageOutput.ok()

        before = number - 1
        return StageSpec(
            f"s{number}",
            passing,
            dependencies=(f"s{before}",) if number else (),
            inputs=(f"k{before}",) if number else (),
            streams=(f"k{number}",),
        )

    lines = 0

    def watched(frame: FrameType, what: str, _: object) -> Callable[..., Any] | None:
        nonlocal lines
        if not frame.f_code.co_filename.endswith("run_streams.py"):
            return None
        lines += what == "line"
        return watched

    pipeline = Pipeline("chain", [stage(number) for number in range(count)])
    pipeline.build()
    before = sys.gettrace()
    sys.settrace(watched)
    try:
        result = run_virtual(pipeline.run)
    finally:
        sys.settrace(before)
    assert result.status == "completed"
    return lines


def test_twice_as_many_streams_cost_twice_as_much() -> None:
    """A stage's work on its streams does not depend on how many others there are."""
    assert 1.8 < lines_of(160) / lines_of(80) < 2.2
