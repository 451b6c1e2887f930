"""The mistakes of the first hour: each is made, and what is said names the mend."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import (
    Message,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    StageContext,
    StageOutput,
    StageSpec,
    stage,
)
from stageflow.providers.fake import FakeLLM
from tests.utils.asv_repo import ROOT

PAGE = ROOT / "docs" / "first-mistakes.md"
ASKED = [Message("user", "Hello")]


@stage(outputs=["a"])
async def first(ctx: StageContext) -> StageOutput:
    """A stage that is as it should be."""
    return StageOutput.ok(a=1)


def said_by(make: Callable[[], Any]) -> str:
    """What a mistake says: the text of what it raises, or the error of the run."""
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
    spec = stage(**{"outputs": ["answer"], **declared})(function)
    before = [first] if declared.get("dependencies") or declared.get("inputs") else []
    return run(*before, spec, llm=FakeLLM("Hello!"))


# ── the mistakes ────────────────────────────────────────────────────────────────────────────

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


@mistake("read another stage's output without depending on it")
def _() -> Any:
    return run(first, _spec("second", inputs=("a",)))


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


@mistake("handed `run()` a dict")
def _() -> Any:
    return asyncio.run(Pipeline("p", [first]).run({"q": 1}))  # type: ignore[arg-type]


@mistake("wrote a stage as a plain function")
def _() -> Any:
    return alone(lambda ctx: StageOutput.ok(answer=1))


@mistake("gave a stage two parameters")
def _() -> Any:
    async def answer(ctx: StageContext, other: object) -> StageOutput:
        return StageOutput.ok(answer=other)

    return alone(answer)


@mistake("gave a stage no parameter")
def _() -> Any:
    async def answer() -> StageOutput:
        return StageOutput.ok(answer=1)

    return alone(answer)


@mistake("forgot `@stage`")
def _() -> Any:
    return run(nothing)


@mistake("returned a dict")
def _() -> Any:
    async def answer(ctx: StageContext) -> dict[str, int]:
        return {"answer": 1}

    return alone(answer)


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


# ── the page ────────────────────────────────────────────────────────────────────────────────


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
