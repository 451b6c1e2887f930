"""`@stage` on less usual functions, and its streams where readers are slow or leave."""

import asyncio
import gc
import typing
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional, TypeAlias

import pytest

import stageflow as sf
from stageflow import (
    BreakerPolicy,
    Pipeline,
    PipelineContext,
    PipelineDefinitionError,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
    stage,
    subpipeline,
)
from stageflow.errors import InvalidContextError, MissingKeyError
from stageflow.testing import Recorder, Simulation, recorded, simulate


def problem(spec: Any) -> str:
    """The text of what is wrong with a stage."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", [spec]).build()
    (found,) = caught.value.problems
    return found.text


async def use(question: str, model: str = "small") -> str:
    return f"{question} {model}"


class Asker:
    """Objects that can be called, and methods."""

    async def __call__(self, question: str) -> str:
        return question

    @staticmethod
    async def ask(question: str) -> str:
        return question


class Teller:
    """An object whose call yields."""

    async def __call__(self, question: str) -> AsyncIterator[str]:
        yield question


class Plain:
    """An object whose call is plain."""

    def __call__(self, question: str) -> str:
        return question


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (stage("it")(partial(use, model="large")), "q large"),
        (stage("it")(Asker()), "q"),
        (stage("it")(staticmethod(use)), "q small"),
        (stage("it", outputs=["it"])(Asker.ask), "q"),
        (stage("unnamed", outputs=["it"])(Asker()), "q"),
    ],
)
async def test_whatever_is_async_when_called_is_a_stage(spec: Any, value: str) -> None:
    """A partial function, an object, a static method."""
    assert (await Pipeline("p", [spec]).run(question="q"))["it"] == value


async def test_an_object_whose_call_yields_writes_a_stream() -> None:
    """As a function does."""
    result = await Pipeline("p", [stage("it")(Teller())]).run(question="q")
    assert result["it"].items() == ("q",)


DECORATE: Any = stage("it")


def words_in_a_thread(question: str) -> Any:
    yield from question.split()


async def misnamed(question: str) -> int:  # type: ignore[misc]
    yield 1


async def left_open(question: str) -> Any:
    return Teller()(question)


async def left_running(question: str) -> Any:
    return asyncio.ensure_future(use(question))


async def fails_in_an_item(question: str) -> AsyncIterator[Any]:
    yield StageOutput.fail("no")


async def forgets(question: str) -> StageOutput:  # type: ignore[empty-body]
    pass


@pytest.mark.parametrize(
    ("function", "fix"),
    [
        (left_open, "write 'async for item in …: yield item'"),
        (left_running, "write 'return await …'"),
        (fails_in_an_item, "which is not an item; raise an error"),
        (forgets, "write 'return StageOutput.ok(key=value)'"),
    ],
)
async def test_what_is_not_an_output_fails_the_stage(function: Any, fix: str) -> None:
    """Work that nobody awaits, an output as an item, or no output at all."""
    result = await Pipeline("p", [stage(function)]).run(question="q")
    assert fix in str(result.error)


async def test_the_error_of_a_spec_names_the_output_to_return() -> None:
    """Its runner has to return a `StageOutput` all the same."""

    async def give(ctx: StageContext) -> Any:
        return 5

    result = await Pipeline("p", [StageSpec("give", give)]).run()
    assert str(result.error).endswith("write 'return StageOutput.ok(key=value)'")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (stage(partial(use, model="x")), "its function has no name; give one: stage('name')(…)"),
        (stage(Asker()), "its function has no name; give one: stage('name')(…)"),
        (DECORATE(Plain()), "is a plain function; write 'async def', or @stage(thread=True)"),
        (DECORATE(Asker), "its function is a class, or a stage already"),
        (stage("it")(stage(use)), "its function is a class, or a stage already"),
        (stage("it", thread=True)(words_in_a_thread), "yields in a thread; return a list"),
        (stage(outputs=["class"])(use), "the key 'class' of use() is not an identifier"),
        (stage("it", streams=["a", "b"])(Teller()), "with one key"),
        (stage(when=lambda *a: True)(use), "its condition takes *a"),
        (DECORATE(misnamed), "yields, and is annotated to return int; write AsyncIterator[…]"),
    ],
)
def test_what_cannot_be_a_stage_is_named_when_the_pipeline_is_built(spec: Any, text: str) -> None:
    """Not by the interpreter while it runs."""
    found = problem(spec)
    assert text in found
    assert "its function its" not in found


DEFAULTS: Any = {"a": 3, "b": "x", "c": (1,), "d": object(), "e": 2}


@stage
async def picky(
    a: bool = DEFAULTS["a"],
    b: int | None = DEFAULTS["b"],
    c: list[int] = DEFAULTS["c"],
    d: str = DEFAULTS["d"],
    e: float = DEFAULTS["e"],
) -> int | None:
    """Have defaults of other classes; the last two may be."""


@stage
async def takes_a_list(words_said: list[int], picky: str, e: int) -> None:
    """Take a stream for a list, and a number for a text."""


def test_defaults_streams_and_unions_that_cannot_fit_are_named() -> None:
    """With the classes of both sides."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", [picky, stage("words_said")(Teller()), takes_a_list]).build()
    assert [problem.text.rpartition(";")[0] for problem in caught.value.problems] == [
        "takes 'a' as bool, and its default is 3",
        "takes 'b' as int or None, and its default is 'x'",
        "takes 'c' as list, and its default is (1,)",
        "takes 'words_said' as list, and stage 'words_said' streams it",
        "takes 'picky' as str, and stage 'picky' returns int or None",
    ]


async def annotated(context: Annotated[StageContext, "the context"]) -> str:
    return context.name


async def optional(context: Optional[StageContext] = None) -> str:  # noqa: UP045 - as users write it
    return "" if context is None else context.name


async def union(context: "StageContext | None" = None) -> str:
    return "" if context is None else context.name


@pytest.mark.parametrize("function", [annotated, optional, union])
async def test_an_annotation_around_the_context_is_seen_through(function: Any) -> None:
    """It is not an input of the run."""
    name = function.__name__
    assert (await Pipeline("p", [stage(function)]).run())[name] == name


Ctx = StageContext
Out = StageOutput
Noted = Annotated[StageContext | None, "the context"]


async def renamed(context: "Ctx", text: str) -> "Out":
    return StageOutput.ok()


async def through_a_module(context: "sf.StageContext", text: str) -> "sf.StageOutput":
    return StageOutput.ok()


async def around(*, text: str, context: "Noted") -> "None":
    pass


async def not_yet_there(ctx: "Later", text: str) -> "Out | None":  # type: ignore[name-defined]  # noqa: F821
    return None


@pytest.mark.parametrize("function", [renamed, through_a_module, around, not_yet_there])
def test_an_alias_in_a_postponed_annotation_is_seen_through(function: Any) -> None:
    """As with ``from __future__ import annotations``: an annotation is the text that it is."""
    assert (stage(function).inputs, stage(function).outputs) == (("text",), ())


def test_an_alias_where_the_stage_is_declared_is_seen_through() -> None:
    """Also one that is not a global name, and one of a decorated function's own module."""
    Local: TypeAlias = StageContext

    @stage
    async def local(context: "Local", ctx: "str") -> "typing.Any":
        return context.name

    def declare() -> Any:
        @stage
        async def inner(context: "Local", text: "str") -> "None":
            pass

        return inner

    assert (local.inputs, local.outputs) == (("ctx",), ("local",))
    assert declare().inputs == ("text",)
    assert stage("part")(partial(renamed, text="t")).outputs == ()


async def test_a_guard_may_return_nothing_or_a_refusal() -> None:
    """Such an annotation declares no output."""

    @stage
    async def guard(question: str) -> StageOutput | None:
        return StageOutput.refuse("No.") if question == "bad" else None

    pipeline = Pipeline("p", [guard])
    assert (await pipeline.run(question="good")).outputs == {}
    assert (await pipeline.run(question="bad")).refusal == "No."


@pytest.mark.parametrize("annotation", [int | StageOutput, StageOutput | int, "int | StageOutput"])
async def test_a_value_or_a_failure(annotation: Any) -> None:
    """A union with a value declares the output, as text and as a class."""

    async def reserved(amount: int) -> Any:
        return amount if amount < 5 else StageOutput.fail("too many")

    reserved.__annotations__["return"] = annotation
    pipeline = Pipeline("p", [stage(reserved)])
    assert (await pipeline.run(amount=2))["reserved"] == 2
    assert "too many" in str((await pipeline.run(amount=7)).error)


async def test_none_is_not_the_value_of_a_built_in_class() -> None:
    """A forgotten return fails the stage itself, not the one that reads it."""

    @stage
    async def forgot(question: str) -> str:  # type: ignore[empty-body]
        """Return nothing."""

    @stage
    async def found(question: str) -> str | None:
        """Return nothing, and say so."""

    result = await Pipeline("p", [forgot]).run(question="q")
    assert "stage 'forgot': returned None" in str(result.error)
    assert (await Pipeline("p", [found]).run(question="q"))["found"] is None


async def test_an_absent_output_of_a_refused_run_names_the_refusal() -> None:
    """Not only that the key is missing."""

    @stage
    async def guard(question: str) -> StageOutput:
        return StageOutput.refuse("Ask me something else.")

    @stage(after=["guard"])
    async def answer(question: str) -> str:
        return question

    result = await Pipeline("p", [guard, answer]).run(question="q")
    with pytest.raises(MissingKeyError, match=r"the run was refused: Ask me something else\."):
        result["answer"]


async def test_stop_iteration_in_a_thread_fails_the_stage() -> None:
    """A future cannot hold it, so the run would wait for the thread forever."""

    @stage(thread=True)
    def first(rows: list[int]) -> int:
        return next(iter(rows))

    async with asyncio.timeout(10.0):
        result = await Pipeline("p", [first]).run(rows=[])
    assert "the function in the thread raised StopIteration" in str(result.error)


# ── streams whose readers are slow or leave ─────────────────────────────────────────────────


@stage
async def numbers(put: list[int]) -> AsyncIterator[int]:
    """A stream without an end."""
    try:
        while True:
            yield len(put)
            put.append(len(put))
            await asyncio.sleep(0)
    finally:
        put.append(-1)


@stage
async def one(numbers: AsyncIterator[int]) -> int:
    """A reader that leaves."""
    async for number in numbers:
        return number
    return -1


@stage
async def slow(numbers: AsyncIterator[int]) -> int:
    """A reader that lets the loop run between two items."""
    async for number in numbers:
        for _ in range(20):
            await asyncio.sleep(0)
        if number == 50:
            return number
    return -1


WITHIN = subpipeline("within", Pipeline("child", [numbers]), inputs=["put"], streams=["numbers"])


@pytest.mark.parametrize("producer", [numbers, WITHIN])
async def test_a_generator_ends_when_its_last_reader_has_left(producer: Any) -> None:
    """Also one in a child run: nobody wants what it yields."""
    put: list[int] = []
    async with asyncio.timeout(10.0):
        result = await Pipeline("p", [producer, one]).run(put=put)
    assert result["one"] == 0
    assert put[-1] == -1


@pytest.mark.parametrize(("producer", "ahead"), [(numbers, 20), (WITHIN, 40)])
async def test_a_slow_reader_slows_the_producer(producer: Any, ahead: int) -> None:
    """Also one in a child run, which is one more stream ahead."""
    put: list[int] = []
    async with asyncio.timeout(10.0):
        result = await Pipeline("p", [producer, slow]).run(put=put)
    assert result["slow"] == 50
    assert len(put) < 50 + ahead


async def bounded(how: str, left: list[str]) -> AsyncIterator[int]:
    """An endless stream inside of a block that cancels what is around it."""

    async def watch() -> None:
        await asyncio.sleep(5.0)
        raise ConnectionError("the line is down")

    try:
        if how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(watch())
                for number in range(10**9):
                    yield number
        async with asyncio.timeout(5.0):
            for number in range(10**9):
                yield number
    finally:
        left.append(how)


async def leave(ctx: StageContext) -> StageOutput:
    async with aclosing(ctx["bounded"]) as items:
        return StageOutput.ok(read=await anext(aiter(items)))


async def stay(ctx: StageContext) -> StageOutput:
    async for _ in ctx["bounded"]:
        await asyncio.sleep(100.0)
    return StageOutput.ok(read=0)


async def read_by(runner: Any, how: str, left: list[str]) -> RunResult:
    reader = StageSpec("read", runner, inputs=("bounded",), outputs=("read",))
    pipeline = Pipeline("p", [stage(bounded), reader])
    return await pipeline.run({"how": how, "left": left})


@pytest.mark.parametrize("how", ["group", "timeout"])
@pytest.mark.simulate(order="asyncio")
async def test_a_reader_may_leave_a_generator_that_yields_in_a_block(how: str) -> None:
    """A task group wraps the GeneratorExit; that is not a failure."""
    left: list[str] = []
    assert (await read_by(leave, how, left))["read"] == 0
    assert left == [how]


@pytest.mark.simulate(order="asyncio")
async def test_an_error_of_a_block_that_a_reader_has_left_is_not_lost() -> None:
    """An error of the group's task when the group ends fails the stage."""

    async def watch() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            raise ConnectionError("not closed")

    @stage(name="bounded")
    async def watched() -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            while True:
                yield 0
                await asyncio.sleep(0)

    reader = StageSpec("read", leave, inputs=("bounded",), outputs=("read",))
    result = await Pipeline("p", [watched, reader]).run()
    assert result.error == "stage 'bounded': ConnectionError: not closed"


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("group", "stage 'bounded': ConnectionError: the line is down"),
        ("timeout", "stage 'bounded': timeout inside the stage (TimeoutError)"),
    ],
)
@pytest.mark.simulate(order="asyncio")
async def test_a_block_around_a_yield_gets_the_cancellation_of_the_put(
    how: str, error: str
) -> None:
    """It cancels its stage while an item waits for a reader, and makes its own error of that."""
    left: list[str] = []
    assert (await read_by(stay, how, left)).error == error
    assert left == [how]


@pytest.mark.parametrize("how", ["group", "timeout"])
@pytest.mark.simulate(order="asyncio")
async def test_a_caller_may_cancel_a_generator_that_yields_in_a_block(how: str) -> None:
    """The run is cancelled, and does not fail."""
    left: list[str] = []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read_by(stay, how, left), 2.0)
    assert left == [how]


@pytest.mark.simulate(order="asyncio")
async def test_a_generator_that_outlasts_the_grace_period_is_left_without_noise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line says which stage it was; neither the loop nor the interpreter adds another."""

    @stage
    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(100.0)
        except asyncio.CancelledError:
            await asyncio.sleep(100.0)

    @stage
    async def total(stubborn: AsyncIterator[int]) -> int:
        return sum([number async for number in stubborn])

    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    result = await Pipeline("p", [stubborn, total]).run(PipelineContext(deadline_s=1, grace_s=1))
    gc.collect()
    await asyncio.sleep(1.0)
    assert "stage 'stubborn' of pipeline 'p' did not end within the grace" in str(result.error)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "ended without a stage: stage 'stubborn'" in line
    assert noise == []


# ── inputs that are given wrongly ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("start", ["run", "stream"])
async def test_an_input_that_is_given_twice_is_named(start: str) -> None:
    """In a mapping and by name, even with one value; two halves are one whole."""
    pipeline = Pipeline("p", [stage(use)])
    for orchestrator in (pipeline, pipeline.bind()):
        with pytest.raises(InvalidContextError, match=r"the input 'question' in a mapping and by"):
            await getattr(orchestrator, start)({"question": "q"}, question="q")
    assert (await pipeline.run({"question": "q"}, model="big"))["use"] == "q big"


async def test_a_parameter_named_like_a_stage_names_the_outputs_of_that_stage() -> None:
    """Also of a pipeline that takes every input."""

    @stage(outputs=["found"])
    async def search(question: str) -> list[str]:
        return [question]

    @stage
    async def answer(search: list[str]) -> str:
        return search[0]

    pipeline = Pipeline("p", [search, answer])
    with pytest.raises(InvalidContextError, match=r"stage 'search' writes \['found'\]: read one"):
        await pipeline.run(question="q")
    assert (await pipeline.run(question="q", search=["s"]))["answer"] == "s"


# ── breakers in simulations ─────────────────────────────────────────────────────────────────


@stage(provider="llm", breaker=BreakerPolicy())
async def ask(question: str) -> str:
    """A stage with a breaker of its own, which is as old as the module."""
    if question == "bad":
        raise ConnectionError("down")
    return question


def test_a_simulation_begins_with_new_breakers() -> None:
    """Its clock is another one, and it has to go the same way when it is repeated."""

    async def asked(sim: Simulation, question: str, times: int) -> str | None:
        for _ in range(times):
            result = await Pipeline("p", [ask]).run(sim.context({"question": question}))
        return result.error

    assert "circuit breaker open" in str(simulate(asked, "bad", 20).value)
    assert simulate(asked, "good", 1).value is None
    assert "circuit breaker open" not in str(simulate(asked, "bad", 1).value)


# ── recordings ──────────────────────────────────────────────────────────────────────────────


@stage
async def words(question: str) -> AsyncIterator[str]:
    for word in question.split():
        yield word


@stage
async def text(words: AsyncIterator[str]) -> str:
    return " ".join([word async for word in words])


def test_a_run_that_its_caller_has_read_is_replayed_without_one(tmp_path: Path) -> None:
    """The recording holds the items, which a run without a caller drops."""
    pipeline = Pipeline("p", [words, text])

    async def record(sim: Simulation) -> None:
        ctx = sim.context({"question": "to be"})
        with Recorder(ctx.providers) as recorder:
            async with pipeline.stream(ctx) as run:
                result = await run.result()
        recorder.save(tmp_path / "turn.json", ctx, result)

    simulate(record)
    assert recorded(tmp_path / "turn.json").replay(pipeline)["text"] == "to be"
