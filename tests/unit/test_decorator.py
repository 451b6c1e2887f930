"""`@stage`: parameters are inputs, the return value is the output."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from stageflow import (
    BreakerPolicy,
    Pipeline,
    PipelineContext,
    PipelineDefinitionError,
    RetryPolicy,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
    StageStatus,
    StageTimeoutError,
    stage,
)
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.errors import InvalidConfigError, InvalidContextError
from stageflow.interceptors import BreakerInterceptor, RetryInterceptor
from stageflow.resilience import BreakerRegistry
from stageflow.testing import do_nothing


def run(*stages: Any, **inputs: Any) -> RunResult:
    """Run stages as a pipeline."""
    return asyncio.run(Pipeline("p", stages).run(**inputs))


def outputs(*stages: Any, **inputs: Any) -> dict[str, Any]:
    """The outputs of a run that completes."""
    return dict(run(*stages, **inputs).unwrap())


def problems(*stages: Any, inputs: list[str] | None = None) -> list[str]:
    """The texts of what is wrong with a pipeline."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", stages, inputs=inputs).build()
    return [problem.text for problem in caught.value.problems]


@stage
async def facts(question: str) -> list[str]:
    """A stage with one input."""
    return [f"{question}!"]


@stage
async def answer(question: str, facts: list[str]) -> str:
    """A stage that reads another one's output."""
    return f"{question} {facts[0]}"


# ── declaration ─────────────────────────────────────────────────────────────────────────────


def test_names_are_said_once() -> None:
    """The function's name is the stage's and its output's; its parameters are its inputs."""
    assert (answer.name, answer.inputs, answer.outputs) == (
        "answer",
        ("question", "facts"),
        ("answer",),
    )
    assert outputs(answer, facts, question="Why?") == {"facts": ["Why?!"], "answer": "Why? Why?!"}


async def test_the_function_can_be_called_by_itself() -> None:
    """As in a unit test without a pipeline."""
    assert await answer("a", facts=["b"]) == "a b"


async def by_name(ctx: Any, question: str) -> Any:
    return (ctx.name, question)


async def by_annotation(question: str, context: StageContext) -> Any:
    return (context.name, question)


async def by_keyword(*, question: str, ctx: StageContext) -> Any:
    return (ctx.name, question)


@pytest.mark.parametrize("function", [by_name, by_annotation, by_keyword])
def test_the_context_is_a_parameter_like_any_other(function: Callable[..., Any]) -> None:
    """It is found by its annotation or its name, in any place."""
    name = function.__name__
    assert outputs(stage(function), question="q") == {name: (name, "q")}


def test_a_bound_method_is_a_stage() -> None:
    """Its instance is not an input."""
    assert outputs(stage(Shop().pay), amount=3) == {"pay": 3}


def test_a_default_makes_an_input_optional() -> None:
    """An input of the run may be left out, and is named as optional."""

    @stage
    async def greet(name: str = "you", *, mark: str = "!") -> str:
        return f"Hello {name}{mark}"

    graph = Pipeline("p", [greet]).build()
    assert (graph.inputs, graph.optional_inputs) == ((), ("name", "mark"))
    assert outputs(greet) == {"greet": "Hello you!"}
    assert outputs(greet, mark="?") == {"greet": "Hello you?"}


class Pair(NamedTuple):
    """Two outputs."""

    a: int
    b: int


@dataclass
class Data:
    """The same as a dataclass."""

    a: int
    b: int


@pytest.mark.parametrize(
    "returned", [{"a": 1, "b": 2}, Pair(1, 2), Data(1, 2), StageOutput.ok(a=1, b=2)]
)
def test_several_outputs_are_returned_by_name(returned: Any) -> None:
    """As a mapping, a NamedTuple, a dataclass or a `StageOutput`."""

    @stage(outputs=["a", "b"])
    async def pair() -> Any:
        return returned

    assert outputs(pair) == {"a": 1, "b": 2}


@pytest.mark.parametrize("returned", [{"one": 1}, Pair(1, 2), Data(1, 2), None, [], "text"])
def test_one_output_is_the_value_whatever_it_is(returned: Any) -> None:
    """A mapping or a tuple is not taken apart."""

    @stage
    async def one(question: str) -> Any:
        return returned

    assert outputs(one, question="q") == {"one": returned}


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ((1, 2), "a mapping, dataclass or NamedTuple with the keys ['a', 'b']"),
        (None, "a mapping, dataclass or NamedTuple with the keys ['a', 'b']"),
        ({"a": 1}, "did not return ['b'], which it declares"),
        ({"a": 1, "b": 2, "c": 3}, "returned ['c'] undeclared"),
        (Pair, "returned <class"),
    ],
)
def test_a_return_that_does_not_fit_is_named(returned: Any, text: str) -> None:
    """With what to write."""

    @stage(outputs=["a", "b"])
    async def pair() -> Any:
        return returned

    assert text in str(run(pair).error)


def test_a_stage_without_outputs_returns_nothing() -> None:
    """An annotation of None or of a `StageOutput` declares no output; a value is refused."""

    @stage
    async def silent(question: str) -> None:
        """Return nothing."""

    @stage
    async def old(question: str) -> StageOutput:
        return StageOutput.ok()

    @stage(outputs=[])
    async def talkative(question: str) -> str:
        return question

    assert outputs(silent, old, question="q") == {}
    assert "returned 'q'" in str(run(talkative, question="q").error)


def test_a_forgotten_return_is_found_where_nothing_says_that_none_is_meant() -> None:
    """A function of the context alone, without an annotation, returns something."""

    @stage(outputs=["a"])
    async def forgot(ctx):  # type: ignore[no-untyped-def]
        """Return nothing."""

    assert "returned None" in str(run(forgot).error)


def test_a_function_that_yields_writes_a_stream() -> None:
    """The stream has the stage's name, or the one that is given."""

    @stage
    async def words(question: str) -> AsyncIterator[str]:
        for word in question.split():
            yield word

    @stage(streams=["tones"])
    async def sing(words: Any) -> AsyncIterator[str]:
        async for word in words:
            yield f"♪{word}"

    @stage
    async def count(tones: Any) -> int:
        return len([tone async for tone in tones])

    assert words.streams == ("words",)
    result = run(words, sing, count, question="to be or")
    assert result["count"] == 3
    assert result["words"].outcome == "completed"


def test_a_generator_is_closed_when_its_stage_is_cancelled() -> None:
    """Its clean-up runs before the run returns."""
    closed: list[str] = []

    @stage(timeout_s=0.01)
    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    assert isinstance(run(endless).failure, StageTimeoutError)
    assert closed == ["closed"]


def test_a_plain_function_runs_in_a_thread() -> None:
    """The loop goes on meanwhile, and a cancelled stage waits for the function's end."""
    ended: list[str] = []

    @stage(thread=True)
    def slow(question: str) -> str:
        ended.append(question)
        return threading.current_thread().name

    name = run(slow, question="q")["slow"]
    assert name != threading.current_thread().name

    begun = threading.Event()

    @stage(thread=True, timeout_s=0.05)
    def stubborn(go_on: threading.Event) -> None:
        begun.set()
        go_on.wait(30.0)
        ended.append("stubborn")

    async def cancelled() -> RunResult:
        go_on = threading.Event()
        running = asyncio.ensure_future(Pipeline("p", [stubborn]).run(go_on=go_on))
        await asyncio.to_thread(begun.wait)
        running.cancel()
        await asyncio.sleep(0)
        go_on.set()
        return await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert ended == ["q", "stubborn"]


def test_a_condition_takes_inputs_too() -> None:
    """Its input is an edge; its stage is skipped if it returns false."""

    @stage(when=lambda facts, limit=3: len(facts) > limit)
    async def many(question: str) -> str:
        return question

    graph = Pipeline("p", [facts, many]).build()
    assert graph.predecessors == ((), (0,))
    assert graph.optional_inputs == ("limit",)
    assert run(facts, many, question="q").stages["many"].status is StageStatus.SKIPPED
    assert outputs(facts, many, question="q", limit=0)["many"] == "q"


def test_retry_and_breaker_are_the_stages_own() -> None:
    """The retry is around the breaker, and both inside the interceptors of all stages."""
    calls: list[int] = []

    @stage(
        provider="llm",
        retry=RetryPolicy(attempts=3, base_delay_s=0.0),
        breaker=BreakerPolicy(),
    )
    async def flaky() -> int:
        calls.append(1)
        raise ConnectionError("down")

    retry, breaker = flaky.interceptors
    assert isinstance(retry, RetryInterceptor)
    assert isinstance(breaker, BreakerInterceptor)
    result = run(flaky, facts, question="q")
    assert result.stages["flaky"].status is StageStatus.FAILED
    assert len(calls) == 3


def test_a_stage_that_has_put_items_is_not_retried_and_says_so() -> None:
    """Its readers have them already."""

    @stage(retry=RetryPolicy(attempts=3, base_delay_s=0.0))
    async def words(question: str) -> AsyncIterator[str]:
        yield question
        raise ConnectionError("down")

    result = run(words, question="q")
    assert "words" in str(result.error)
    assert "not retried: the stage has put items" in str(result.error)


def test_a_registry_of_breakers_is_shared() -> None:
    """Stages that are given one registry see each other's failures."""
    registry = BreakerRegistry()
    one = stage("one", provider="llm", breaker=registry)(do_nothing)
    two = stage("two", provider="llm", breaker=registry)(do_nothing)
    breakers = [spec.interceptors[0] for spec in (one, two)]
    assert all(isinstance(b, BreakerInterceptor) and b.breakers is registry for b in breakers)


# ── mistakes ────────────────────────────────────────────────────────────────────────────────


async def stars(*words: str) -> str:
    return "".join(words)


async def options(**options: str) -> str:
    return str(options)


async def by_position(question: str, /) -> str:
    return question


def plain(question: str) -> str:
    return question


async def generated(question: str) -> AsyncIterator[int]:
    yield 1


async def awaited(question: str) -> bool:
    return True


class Shop:
    """A class with a stage."""

    async def pay(self, amount: int) -> int:
        return amount


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (stage(Shop.pay), "is a method; give stage(instance.pay)"),
        (stage(stars), "takes *words; name each input as a parameter of stars()"),
        (stage(options), "takes **options; name each input as a parameter of options()"),
        (stage(by_position), "takes 'question' by position alone; remove the '/'"),
        (stage()(plain), "write 'async def', or @stage(thread=True)"),  # type: ignore[type-var]
        (stage(thread=True)(awaited), "is async and needs no thread; remove thread=True"),
        (stage(thread=True)(do_nothing), "take the inputs as parameters"),
        (stage(outputs=["a"])(generated), "write streams=[…] instead of outputs=[…]"),
        (stage("look-up")(awaited), "'look-up' of awaited() is not an identifier"),
        (stage(outputs=["a b"])(awaited), "'a b' of awaited() is not an identifier"),
        (stage(when=stars)(awaited), "its condition takes *words"),  # type: ignore[arg-type]
        (stage(when=awaited)(awaited), "its condition is async"),  # type: ignore[arg-type]
        (stage(breaker=BreakerPolicy())(awaited), "name it: provider='llm'"),
    ],
)
def test_a_wrong_declaration_is_named_with_the_fix(spec: Any, text: str) -> None:
    """When the pipeline is created, with all others."""
    assert any(text in problem for problem in problems(spec)), problems(spec)


def test_arguments_of_the_decorator_are_checked() -> None:
    """A policy of another kind is refused at once."""
    wrong: Any = 3
    with pytest.raises(InvalidConfigError, match="give a text, or decorate a function"):
        stage(wrong)
    with pytest.raises(InvalidConfigError, match="give RetryPolicy"):
        stage(retry=wrong)
    with pytest.raises(InvalidConfigError, match="give BreakerPolicy"):
        stage(breaker=wrong)


def test_annotations_that_cannot_fit_are_named() -> None:
    """Only where both are plain classes, and no value could be of both."""

    @stage
    async def number(question: str) -> int:
        return 1

    @stage
    async def text(number: str) -> str:
        return number

    @stage
    async def ratio(number: float) -> float:
        return number

    @stage
    async def anything(number: Any, facts: object) -> None:
        """Take whatever comes."""

    @stage
    async def limited(question: str, limit: int = "ten", mark: str | None = None) -> None:  # type: ignore[assignment]
        """Have a default of another class."""

    (problem,) = problems(limited)
    assert problem.startswith("takes 'limit' as int, and its default is 'ten'")
    (problem,) = problems(number, text)
    assert problem.startswith("takes 'number' as str, and stage 'number' returns int")
    assert Pipeline("p", [number, ratio, facts, anything]).build()


# ── edges, skips, inputs ────────────────────────────────────────────────────────────────────


def test_a_skip_spreads_along_required_parameters() -> None:
    """The reason names the chain; a stage with a default runs."""

    @stage(when=lambda question: False)
    async def first(question: str) -> str:
        return question

    @stage
    async def second(first: str) -> str:
        return first

    @stage
    async def third(second: str) -> str:
        return second

    @stage
    async def join(third: str = "nothing") -> str:
        return third

    result = run(first, second, third, join, question="q")
    assert result["join"] == "nothing"
    assert result.stages["third"].status is StageStatus.SKIPPED
    assert result.stages["third"].detail["reason"] == (
        "its input 'second' is absent along first → second → third: stage 'first' was skipped"
        " (its condition does not hold)"
    )


def test_the_failure_of_an_optional_stage_spreads_too() -> None:
    """A stage that needs its output is skipped, not failed."""

    @stage(required=False)
    async def lookup(question: str) -> str:
        raise ConnectionError("down")

    @stage
    async def use(lookup: str) -> str:
        return lookup

    result = run(lookup, use, question="q")
    assert result.status == "completed"
    assert "stage 'lookup' failed" in result.stages["use"].detail["reason"]


def test_a_long_chain_of_skips_keeps_a_short_reason() -> None:
    """It names the first stages and the last ones."""

    def link(number: int) -> StageSpec:
        read = f"k{number - 1}"

        async def function(**inputs: Any) -> Any:
            return inputs[read]

        taken = inspect.Parameter(read, inspect.Parameter.KEYWORD_ONLY)
        function.__signature__ = inspect.Signature([taken])  # type: ignore[attr-defined]
        return stage(f"s{number}", outputs=[f"k{number}"])(function)

    async def skip(ctx: StageContext) -> StageOutput:
        return StageOutput.skip("why not")

    specs = [StageSpec("s0", skip, outputs=("k0",)), *(link(n) for n in range(1, 300))]
    reason = run(*specs).stages["s299"].detail["reason"]
    assert "along s0 → s1 → … → s295 → s296 → s297 → s298 → s299: stage 's0' was skipped" in reason


@pytest.mark.parametrize("given", [{"question": "q"}, PipelineContext({"question": "q"})])
def test_a_run_takes_a_context_or_a_mapping_or_names(given: Any) -> None:
    """All three are the same."""
    pipeline = Pipeline("p", [facts])
    assert asyncio.run(pipeline.run(given))["facts"] == ["q!"]
    assert asyncio.run(pipeline.run(question="q"))["facts"] == ["q!"]


def test_inputs_that_are_missing_unknown_or_given_twice_are_named() -> None:
    """Before anything runs."""
    pipeline = Pipeline("p", [facts])
    with pytest.raises(InvalidContextError, match=r"needs the input 'question'; write run\(quest"):
        asyncio.run(pipeline.run())
    with pytest.raises(InvalidContextError, match="did you mean 'question'"):
        asyncio.run(pipeline.run(qestion="q"))
    with pytest.raises(InvalidConfigError, match="give the inputs in the context, or by name"):
        asyncio.run(pipeline.run(PipelineContext({}), question="q"))


def test_declared_inputs_are_strict() -> None:
    """An input that nothing provides is a problem only then."""
    assert Pipeline("p", [facts]).build().inputs == ("question",)
    (problem,) = problems(facts, inputs=["qestion"])
    assert "nothing provides it" in problem
    assert "did you mean 'qestion'" in problem


# ── answers that are not failures ───────────────────────────────────────────────────────────


def test_a_refusal_completes_the_run_with_an_answer_for_the_user() -> None:
    """Stages that have not started are skipped, running ones cancelled, and no letter is left."""

    @stage
    async def guard(question: str) -> StageOutput:
        await asyncio.sleep(0)
        return StageOutput.refuse("I cannot help with that.")

    @stage(after=["guard"])
    async def reply(question: str) -> str:
        return question

    @stage
    async def beside(question: str) -> str:
        await asyncio.sleep(3600.0)
        return question

    letters = InMemoryDeadLetterStore()
    context = PipelineContext({"question": "q"}, dead_letters=letters)
    result = asyncio.run(Pipeline("p", [guard, reply, beside]).run(context))
    assert (result.status, result.failure) == ("completed", None)
    assert result.refusal == result.user_message == "I cannot help with that."
    assert {name: str(ended.status) for name, ended in result.stages.items()} == {
        "guard": "completed",
        "reply": "skipped",
        "beside": "cancelled",
    }
    assert result.events[-1].data["refused_by"] == "guard"
    assert context.dlq_entry is None


def test_a_stage_that_declares_outputs_may_refuse() -> None:
    """It need not write them, nor open its streams."""

    @stage(outputs=["a"], streams=["b"])
    async def guard(question: str) -> StageOutput:
        return StageOutput.refuse("No.")

    assert run(guard, question="q").refusal == "No."
    with pytest.raises(InvalidConfigError, match="give the text that the user gets"):
        StageOutput.refuse("")


def test_a_failure_may_bring_a_message_for_the_user() -> None:
    """Besides the reason for the engineer."""

    @stage
    async def pay(amount: int) -> StageOutput:
        return StageOutput.fail("card 42 declined", user_message="Please try another card.")

    result = run(pay, amount=3)
    assert result.user_message == "Please try another card."
    assert "card 42 declined" in str(result.error)
