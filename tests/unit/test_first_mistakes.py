"""The mistakes of the first hour: each is made, and what is said names the fix."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stageflow import (
    BreakerPolicy,
    EventDispatcher,
    Interceptor,
    Message,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    StageContext,
    StageOutput,
    StageSpec,
    run_child,
    stage,
    subpipeline,
)
from stageflow.engine import CallNext
from stageflow.providers import FakeLLM, LatencyProfile
from stageflow.testing import StageCase
from tests.contract.base import StageContractTest
from tests.utils.asv_repo import ROOT

PAGE = ROOT / "docs" / "first-mistakes.md"
ASKED = [Message("user", "Hello")]


@stage(outputs=["a"])
async def first(ctx: StageContext) -> StageOutput:
    """A stage that is as it should be."""
    return StageOutput.ok(a=1)


def said_by(make: Callable[[], Any]) -> str:
    """Return the message of a mistake: the text of its exception, or the error of the run."""
    try:
        result = make()
    except Exception as error:
        return str(error)
    assert result.status == "failed"
    return str(result.error)


def run(*stages: Any, inputs: list[str] | None = None, **providers: Any) -> Any:
    """Run a pipeline of some stages."""
    pipeline = Pipeline("p", stages, inputs=inputs or [])
    return asyncio.run(pipeline.run(PipelineContext(providers=ProviderRegistry(**providers))))


def alone(function: Any, **declared: Any) -> Any:
    """Run a function as the only stage, or behind the first if it depends on that."""
    declare: Any = stage(**{"outputs": ["answer"], **declared})
    spec = declare(function)
    before = [first] if declared.get("dependencies") or declared.get("inputs") else []
    return run(*before, spec, llm=FakeLLM("Hello!"))


def held(function: Any) -> StageContractTest:
    """The contract of a function as a stage, with a model that takes its time."""
    contract, slow = StageContractTest(), FakeLLM("Hello!", latency=LatencyProfile.fixed(100))
    pipeline = Pipeline("p", [stage(outputs=["answer"])(function)])
    case = StageCase(pipeline, "answer", providers=ProviderRegistry(llm=slow))
    contract.make_stage = lambda: case  # type: ignore[method-assign]
    return contract


MISTAKES: dict[str, Callable[[], Any]] = {}


def mistake(title: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Note a mistake under its row on the page."""

    def note(make: Callable[[], Any]) -> Callable[[], Any]:
        MISTAKES[title] = make
        return make

    return note


async def nothing(ctx: StageContext) -> StageOutput:
    """A runner that would be fine."""
    return StageOutput.ok()


def _spec(name: str = "s", **declared: Any) -> StageSpec:
    return StageSpec(name, declared.pop("runner", nothing), **declared)


@mistake("read the output of a later stage")
def _() -> Any:
    second = _spec("second", dependencies=("first",), outputs=("b",))
    return run(_spec("first", inputs=("b",)), second)


@mistake("gave `run()` a name that is not an input")
def _() -> Any:
    async def second(question: str) -> str:
        return question

    return asyncio.run(Pipeline("p", [stage(second)]).run(qestion="?"))


@mistake("gave a stage `*args`")
def _() -> Any:
    async def answer(*words: str) -> str:
        return " ".join(words)

    return alone(answer)


@mistake("returned one value for two outputs")
def _() -> Any:
    async def answer(ctx: StageContext) -> str:
        return "yes"

    return alone(answer, outputs=["a", "b"])


@mistake("annotated an input with the wrong class")
def _() -> Any:
    async def number() -> int:
        return 1

    async def text(number: str) -> str:
        return number

    return run(stage(number), stage(text))


@mistake("gave a stage a breaker and no provider")
def _() -> Any:
    return run(stage(breaker=BreakerPolicy())(nothing))


@mistake("read a stage's own output")
def _() -> Any:
    return run(_spec(inputs=("a",), outputs=("a",)))


@mistake("gave a stage's name as an input")
def _() -> Any:
    return run(first, _spec(dependencies=("first",), inputs=("first",)))


@mistake("gave a key as a dependency")
def _() -> Any:
    return run(first, _spec(dependencies=("a",)))


@mistake("misspelt an input in the context")
def _() -> Any:
    pipeline = Pipeline("p", [_spec(inputs=("q",))], inputs=["q"])
    return asyncio.run(pipeline.run(PipelineContext({"qq": 1})))


@mistake("wrote a stage with `yield`")
def _() -> Any:
    async def answer(ctx: StageContext) -> AsyncIterator[int]:
        yield 1

    return alone(answer)


@mistake("gave a class as a stage")
def _() -> Any:
    return run(_spec(runner=StageContractTest))


@mistake("called the function of a stage")
def _() -> Any:
    call: Any = nothing(None)  # type: ignore[arg-type]
    try:
        return run(_spec(runner=call))
    finally:
        call.close()


@mistake("built an output by hand")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput("completed", {"answer": 1})  # type: ignore[arg-type]

    return alone(answer)


@mistake("returned a coroutine")
def _() -> Any:
    async def answer(ctx: StageContext) -> Any:
        return nothing(ctx)

    return alone(answer)


@mistake("failed with an exception as the reason")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.fail(ValueError("busy"))  # type: ignore[arg-type]

    return alone(answer)


@mistake("awaited a call twice")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        call = nothing(ctx)
        await call
        return await call

    return alone(answer)


@mistake("raised an error about coroutines")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        raise TypeError("the coroutine pool is empty")

    result = alone(answer)
    assert result.error.endswith("empty")
    return result


@mistake("took the next item of nothing")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=next(iter(())))

    return alone(answer)


def say(runner: Any) -> StageSpec:
    """A stage that writes a stream."""
    return _spec("say", runner=runner, streams=("words",))


@mistake("put an item without `await`")
def _() -> Any:
    async def forgetful(ctx: StageContext) -> StageOutput:
        words = ctx.open("words")
        await words.put(1)
        words.put(2)  # type: ignore[unused-coroutine]
        await words.put(3)
        return StageOutput.ok()

    return run(say(forgetful))


@mistake("returned a stream as an output")
def _() -> Any:
    async def whole(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(words=["one"])

    return run(say(whole))


@mistake("read a stream by `for`")
def _() -> Any:
    async def speak(ctx: StageContext) -> StageOutput:
        await ctx.open("words").put("one")
        return StageOutput.ok()

    async def hear(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(heard=list(ctx["words"]))

    return run(say(speak), _spec(runner=hear, dependencies=("say",), inputs=("words",)))


@mistake("wrote an async condition")
def _() -> Any:
    async def holds(ctx: StageContext) -> bool:
        return False

    return run(_spec(condition=lambda ctx: holds(ctx)))  # noqa: PLW0108 - hides that it is async


class Mixed(Interceptor):
    """An interceptor with an async hook."""

    async def before(self, ctx: StageContext, /) -> None:  # type: ignore[override]
        """Never run: nobody would await it."""


@mistake("wrote an async hook")
def _() -> Any:
    return asyncio.run(Pipeline("p", [first]).run(interceptors=[Mixed()]))


class Plain(Interceptor):
    """An interceptor that does not await the rest."""

    def around(self, ctx: StageContext, call_next: CallNext, /) -> Any:
        """Return something that cannot be awaited."""
        return "answer"


@mistake("wrote a plain `around`")
def _() -> Any:
    return PipelineOrchestrator(Pipeline("p", [first]).build(), interceptors=[Plain()])


class Async:
    """A sink of everything, whose methods are async or not as the wrong port has them."""

    async def write(self, events: object) -> None:
        """Never run."""

    def close(self) -> None:
        """Do nothing."""

    def put(self, letter: object) -> None:
        """Return nothing to await."""


@mistake("wrote an async sink")
def _() -> Any:
    return EventDispatcher([Async()])  # type: ignore[list-item]


@mistake("gave a path as the sink of dead letters")
def _() -> Any:
    return PipelineContext(dead_letters="letters.db")  # type: ignore[arg-type]


@mistake("wrote a plain sink of dead letters")
def _() -> Any:
    graph = Pipeline("p", [first]).build()
    return PipelineOrchestrator(graph, dead_letters=Async())  # type: ignore[arg-type]


@mistake("wrote an async clock")
def _() -> Any:
    return PipelineContext(wall_clock=nothing)  # type: ignore[arg-type]


@mistake("swapped the arguments of `run_child`")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        await run_child(Pipeline("p", [first]), ctx)  # type: ignore[arg-type]
        return StageOutput.ok(answer=1)

    return alone(answer)


@mistake("ran a pipeline in a stage")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        await Pipeline("p", [first]).run(ctx)  # type: ignore[arg-type]
        return StageOutput.ok(answer=1)

    return alone(answer)


@mistake("gave a list of stages as a sub-pipeline")
def _() -> Any:
    return subpipeline("child", [first])  # type: ignore[arg-type]


@mistake("read a key that is not among `inputs`")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=ctx["a"])

    return alone(answer, dependencies=["first"])


@mistake("misspelt a dependency")
def _() -> Any:
    return run(first, _spec(dependencies=("frist",)))


@mistake("misspelt an input")
def _() -> Any:
    return run(first, _spec(dependencies=("first",), inputs=("aa",)))


@mistake("misspelt an output")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(anwser=1)

    return alone(answer)


@mistake("returned more than is declared")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=1, more=2)

    return alone(answer)


@mistake("declared no inputs of the pipeline")
def _() -> Any:
    return run(_spec(inputs=("q",)))


@mistake("started a run without an input")
def _() -> Any:
    return run(_spec(inputs=("q",)), inputs=["q"])


@mistake("wrote a stage as a plain function")
def _() -> Any:
    return alone(lambda ctx: StageOutput.ok(answer=1))


@mistake("forgot `@stage`")
def _() -> Any:
    return run(nothing)


@mistake("forgot `return`")
def _() -> Any:
    async def answer(ctx: StageContext) -> None:
        StageOutput.ok(answer=1)

    return alone(answer)


@mistake("gave `ok()` a bare value")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok("Hello!")  # type: ignore[arg-type]

    return alone(answer)


@mistake("assigned to the context")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        ctx["b"] = 1
        return StageOutput.ok()

    return alone(answer)


@mistake("read an input as an attribute")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=ctx.weather)  # type: ignore[attr-defined]

    return alone(answer)


@mistake("returned a call without `await`")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=ctx.llm.complete(ASKED))

    return alone(answer).outputs


@mistake("used a call without `await`")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        call = ctx.llm.complete(ASKED)
        try:
            return StageOutput.ok(answer="Bot: " + call)  # type: ignore[operator]
        finally:
            call.close()  # this test is of the error alone

    return alone(answer)


@mistake("dropped a call without `await` (in a contract test)")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        ctx.llm.complete(ASKED)  # type: ignore[unused-coroutine]
        return StageOutput.ok(answer="Hello!")

    return held(answer).test_emits_a_completed_event_when_it_succeeds()


@mistake("awaited a stream")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=await ctx.llm.stream(ASKED))  # type: ignore[misc]

    return alone(answer)


@mistake("awaited what is not async")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=await len("Hello"))  # type: ignore[misc]

    return alone(answer)


@mistake("called `asyncio.run` in a stage")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        call = nothing(ctx)
        try:
            return asyncio.run(call)
        finally:
            call.close()

    return alone(answer)


@mistake("swallowed `CancelledError` (in a contract test)")
def _() -> Any:
    async def answer(ctx: StageContext) -> StageOutput:
        try:
            return StageOutput.ok(answer=await ctx.llm.complete(ASKED))
        except BaseException:
            return StageOutput.fail("could not answer")

    return held(answer).test_can_be_cancelled_wherever_it_waits()


async def _reply(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(answer=await ctx.llm.complete(ASKED))


REPLY = StageSpec("reply", _reply, outputs=("answer",))


@mistake("registered no provider")
def _() -> Any:
    return run(REPLY)


@mistake("misspelt a provider")
def _() -> Any:
    return run(REPLY, lmm=FakeLLM("Hello!"))


@mistake("registered a class")
def _() -> Any:
    return run(REPLY, llm=FakeLLM)


@mistake("registered something else")
def _() -> Any:
    return run(REPLY, llm="gpt")


@mistake("gave providers as a dict")
def _() -> Any:
    return PipelineContext(providers={"llm": FakeLLM("Hello!")})  # type: ignore[arg-type]


@mistake("gave dependencies as a text")
def _() -> Any:
    return run(first, _spec(dependencies="first"))


@mistake("gave the stage as a dependency")
def _() -> Any:
    return run(first, _spec(dependencies=(first,)))


@mistake("gave a timeout as a text")
def _() -> Any:
    return run(_spec(timeout_s="2"))


@mistake("let two stages write one output")
def _() -> Any:
    return run(first, _spec(outputs=("a",)))


@mistake("drew a circle")
def _() -> Any:
    return run(_spec("x", dependencies=("y",)), _spec("y", dependencies=("x",)))


@mistake("gave the orchestrator a pipeline")
def _() -> Any:
    return PipelineOrchestrator(Pipeline("p", [first]))  # type: ignore[arg-type]


@mistake("read an output of a run that failed")
def _() -> Any:
    return run(REPLY).outputs["answer"]


def rows() -> dict[str, str]:
    """The page's first table: what was done, and what is said."""
    table = PAGE.read_text(encoding="utf-8").split("## ")[0]
    found = dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))
    return {done: says for done, says in found.items() if done != "you did"}


@pytest.mark.parametrize("title", MISTAKES)
def test_it_says_what_to_write_instead(title: str) -> None:
    """The words on the page are in what is printed."""
    assert rows()[title] in said_by(MISTAKES[title])


def test_every_row_is_made_to_happen() -> None:
    """The page and the mistakes above are the same."""
    assert set(rows()) == set(MISTAKES)
