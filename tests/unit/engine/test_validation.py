"""Defects of a definition: each is a `Problem` that names pipeline, stage and fix."""

from __future__ import annotations

import functools
import gc
import math
import sys
import tracemalloc
from types import FrameType
from typing import Any

import pytest

from stageflow import Pipeline, PipelineDefinitionError, StageContext, StageOutput, StageSpec
from stageflow import errors as err
from stageflow.testing import do_nothing
from tests.utils.factories import make_pipeline, make_spec


def problems_of(*specs: Any, inputs: tuple[str, ...] = ()) -> list[err.Problem]:
    """Return the problems of building a pipeline named "p" of these specs."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", specs, inputs=inputs).build()
    assert caught.value.pipeline == "p"
    assert all(problem.pipeline == "p" for problem in caught.value.problems)
    return list(caught.value.problems)


def found(*specs: Any, inputs: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the codes of the problems, and the stages where they are."""
    return [(p.code, p.stage) for p in problems_of(*specs, inputs=inputs)]


def sync_runner(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


async def generator_runner(ctx: StageContext) -> Any:
    yield StageOutput.ok()


class SyncStage:
    def execute(self, ctx: StageContext) -> StageOutput:
        return StageOutput.ok()


class AsyncStage:
    async def execute(self, ctx: StageContext, /) -> StageOutput:
        return StageOutput.ok()


class AsyncCallable:
    async def __call__(self, ctx: StageContext) -> StageOutput:
        return StageOutput.ok()


async def configured(option: int, ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "-a", "é", "a\n", "a/b", 5, None, b"a", ["a"]], ids=repr
)
def test_an_invalid_name_is_refused(name: Any) -> None:
    """An event's type is made of it, so it has neither dots nor spaces, and it is a string."""
    assert found(StageSpec(name, do_nothing)) == [("invalid_name", str(name))]


@pytest.mark.parametrize("name", ["a", "A9", "_a", "9", "a-b_c"])
def test_letters_digits_underscores_and_hyphens_make_a_name(name: str) -> None:
    """Each of them is accepted, and leads to the stage."""
    assert make_pipeline(make_spec(name)).build()[name].name == name


@pytest.mark.parametrize(
    "runner",
    [sync_runner, generator_runner, SyncStage(), AsyncStage, 5, None, "llm"],
    ids=lambda runner: type(runner).__name__,
)
def test_a_runner_that_cannot_be_awaited_is_refused(runner: Any) -> None:
    """The error names plain functions, generators, classes, and values that are not functions."""
    (problem,) = problems_of(StageSpec("a", runner))
    assert problem.code == "invalid_runner"
    assert repr(runner) in problem.text


@pytest.mark.parametrize(
    "runner",
    [
        do_nothing,
        AsyncStage(),
        AsyncStage().execute,
        AsyncCallable(),
        functools.partial(configured, 5),
    ],
    ids=lambda runner: type(runner).__name__,
)
def test_whatever_can_be_awaited_is_a_runner(runner: Any) -> None:
    """Functions, methods, partial functions and objects alike."""
    assert len(make_pipeline(StageSpec("a", runner)).build()) == 1


@pytest.mark.parametrize("timeout_s", [-1, 0, 0.0, math.inf, math.nan, "1", True, [1], 10**400])
def test_a_timeout_is_a_positive_finite_number(timeout_s: Any) -> None:
    """Anything else is refused before a run could meet it."""
    (problem,) = problems_of(make_spec("a", timeout_s=timeout_s))
    assert problem.code == "invalid_timeout"
    assert f"timeout_s is {timeout_s!r}" in problem.text


@pytest.mark.parametrize("condition", [5, "yes", configured], ids=["number", "text", "async"])
def test_a_condition_is_a_plain_function(condition: Any) -> None:
    """An async one would return a coroutine, which always counts as true."""
    (problem,) = problems_of(make_spec("a", condition=condition))
    assert problem.code == "invalid_declaration"
    assert (problem.stage, problem.key) == ("a", "condition")
    assert problem.text == f"condition is {condition!r}; give a plain function of the StageContext"


@pytest.mark.parametrize("field", ["dependencies", "inputs", "outputs"])
@pytest.mark.parametrize("given", ["abc", {"a"}, 5, {"a": 1}, None, 0, "", {}, False], ids=repr)
def test_names_come_in_a_list_or_a_tuple(field: str, given: Any) -> None:
    """A lone string is not taken for a list of letters; a set has no order, and None no names."""
    (problem,) = problems_of(StageSpec("a", do_nothing, **{field: given}))
    assert problem.code == "invalid_declaration"
    assert (problem.stage, problem.key) == ("a", field)
    assert problem.text == f"{field} is {given!r}; give a list of names"


@pytest.mark.parametrize("field", ["dependencies", "inputs", "outputs"])
def test_each_of_the_names_is_a_string_and_stands_there_once(field: str) -> None:
    """Both mistakes are reported, each with the name concerned."""
    given: dict[str, Any] = {field: ("x", 5, "x", ["y"], "z", "z", "z")}
    problems = problems_of(StageSpec("a", do_nothing, **given))
    declared = [p for p in problems if p.code == "invalid_declaration"]
    assert [p.text for p in declared] == [
        f"{field} is 5; names are strings",
        f"{field} is ['y']; names are strings",
        f"{field}: 'x' is listed twice; list it once",
        f"{field}: 'z' is listed 3 times; list it once",
    ]
    assert {(p.stage, p.key) for p in declared} == {("a", field)}


@pytest.mark.parametrize(
    ("field", "given", "fix"),
    [
        ("required", "no", "give True or False"),
        ("required", None, "give True or False"),
        ("required", 0, "give True or False"),
        ("kind", "transform", "StageKind.TRANSFORM, StageKind.ENRICH"),
        ("kind", None, "StageKind.WORK"),
        ("provider", "", "name the provider, such as 'llm'"),
        ("provider", ("llm", "tts"), "name the provider"),
        ("provider", object, "name the provider"),
    ],
)
def test_what_a_stage_is_holds_what_it_may(field: str, given: Any, fix: str) -> None:
    """A string in the place of a flag would count as true, and a kind that is none be drawn."""
    (problem,) = problems_of(make_spec("a", **{field: given}))
    assert problem.code == "invalid_declaration"
    assert (problem.stage, problem.key) == ("a", field)
    assert problem.text.startswith(f"{field} is {given!r}")
    assert fix in problem.text


def test_a_value_that_is_not_a_spec_is_named() -> None:
    """For a function or a stage object in place of a spec, the error names the fix."""
    assert found(do_nothing, AsyncStage()) == [
        ("invalid_spec", "do_nothing"),
        ("invalid_spec", "AsyncStage"),
    ]


def test_a_name_taken_twice_is_reported_once_with_its_count() -> None:
    """Three stages of one name are one problem."""
    (problem,) = problems_of(*[make_spec("a") for _ in range(3)], make_spec("b"))
    assert problem.code == "duplicate_stage"
    assert problem.stage == "a"
    assert problem.text.startswith("3 stages have this name")


def test_a_stage_that_depends_on_itself_is_reported_as_just_that() -> None:
    """And not as a cycle besides."""
    assert found(make_spec("a", "a")) == [("self_dependency", "a")]


def test_a_cycle_is_reported_with_its_path() -> None:
    """The path closes on itself, and each of its steps is a dependency."""
    (problem,) = problems_of(make_spec("a", "c"), make_spec("b", "a"), make_spec("c", "b"))
    assert problem.code == "cycle"
    steps = set(zip(problem.path, problem.path[1:], strict=False))
    assert steps == {("a", "b"), ("b", "c"), ("c", "a")}


@pytest.mark.parametrize(
    ("wrong", "suggestion"), [("memroy", "memory"), ("MEMORY", None), ("zzz", None)]
)
def test_an_unknown_dependency_is_reported_with_the_nearest_name(
    wrong: str, suggestion: str | None
) -> None:
    """A suggestion only where one is likely."""
    (problem,) = problems_of(make_spec("memory"), make_spec("llm", wrong))
    assert problem.code == "unknown_dependency"
    assert (problem.stage, problem.key) == ("llm", wrong)
    assert problem.suggestion == suggestion


def test_a_stage_is_not_suggested_as_a_dependency_of_itself() -> None:
    """The fix must not be the next mistake."""
    (problem,) = problems_of(make_spec("memory", "memory1"))
    assert problem.code == "unknown_dependency"
    assert problem.suggestion is None


def test_two_producers_of_one_output_are_both_named() -> None:
    """The second is where the problem is, the first is who has it."""
    (problem,) = problems_of(make_spec("a", outputs=("x",)), make_spec("b", outputs=("x",)))
    assert problem.code == "duplicate_output"
    assert (problem.stage, problem.key) == ("b", "x")
    assert "stage 'a' already provides" in problem.text


def test_an_output_must_not_be_an_input_of_the_run() -> None:
    """Otherwise a reader could not tell which of the two it gets."""
    (problem,) = problems_of(make_spec("a", outputs=("x",)), inputs=("x",))
    assert problem.code == "duplicate_output"
    assert "the run's input already provides" in problem.text


def test_an_input_without_producer_is_reported_with_the_nearest_key() -> None:
    """The keys that exist are outputs and the inputs of the run."""
    (problem,) = problems_of(make_spec("a", inputs=("txet",)), inputs=("text",))
    assert problem.code == "missing_producer"
    assert problem.key == "txet"
    assert "nothing provides it" in problem.text
    assert "did you mean 'text'?" in problem.text


def test_a_stage_does_not_produce_its_own_input() -> None:
    """Reading what it writes itself is reading what is not there yet."""
    assert found(make_spec("a", inputs=("x",), outputs=("x",))) == [("missing_producer", "a")]


def test_the_producer_of_an_input_is_a_dependency() -> None:
    """An edge need not be named twice; the one that closes a cycle is named with its input."""
    specs = make_spec("a", outputs=("x",)), make_spec("b"), make_spec("c", "b", inputs=("x",))
    assert Pipeline("p", specs).build().predecessors == ((), (), (1, 0))
    (problem,) = problems_of(
        make_spec("a", "b", outputs=("x",)), make_spec("b", inputs=("x",), outputs=("y",))
    )
    assert problem.code == "cycle"
    assert "b → a → b (reads 'x')" in problem.text


def test_a_producer_may_stand_any_distance_before() -> None:
    """An ancestor is enough; it need not be a dependency of the stage itself."""
    specs = [make_spec("s0", outputs=("x",))]
    specs += [make_spec(f"s{n}", f"s{n - 1}") for n in range(1, 50)]
    specs.append(make_spec("last", "s49", inputs=("x", "text")))
    assert len(make_pipeline(*specs, inputs=["text"]).build()) == 51


def test_far_producers_on_a_long_chain_cost_in_proportion() -> None:
    """Each stage reads the first one's output; four times the stages cost no more than that."""

    def lines_and_bytes(length: int) -> tuple[int, int]:
        specs = [make_spec("s0", outputs=("x",))]
        specs += [make_spec(f"s{n}", f"s{n - 1}", inputs=("x",)) for n in range(1, length)]
        pipeline = make_pipeline(*specs)
        lines = 0

        def count(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal lines
            lines += event == "line"
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            pipeline.build()
        finally:
            sys.settrace(before)
        gc.collect()  # empties Python's free lists: what is taken from them is not traced
        tracemalloc.start()
        try:
            make_pipeline(*specs).build()
            return lines, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = lines_and_bytes(1_000), lines_and_bytes(4_000)
    assert many[0] < 4.5 * few[0]
    assert many[1] < 5 * few[1]


def test_all_that_is_wrong_with_single_stages_is_reported_together() -> None:
    """One look at the report is enough to fix every stage."""
    assert found(
        StageSpec("a b", do_nothing),
        StageSpec("sync", sync_runner),  # type: ignore[arg-type]
        make_spec("slow", timeout_s=-1),
        make_spec("self", "self"),
        make_spec("twin"),
        make_spec("twin"),
    ) == [
        ("invalid_name", "a b"),
        ("invalid_runner", "sync"),
        ("invalid_timeout", "slow"),
        ("self_dependency", "self"),
        ("duplicate_stage", "twin"),
    ]


def test_all_that_no_composition_can_fix_is_reported_together() -> None:
    """Each component, and each output with two producers."""
    assert found(
        make_spec("a", "b"),
        make_spec("b", "a"),
        make_spec("c", "d"),
        make_spec("d", "c"),
        make_spec("e", outputs=("x",)),
        make_spec("f", outputs=("x",)),
    ) in [[("cycle", ab), ("cycle", cd), ("duplicate_output", "f")] for ab in "ab" for cd in "cd"]


def test_all_that_is_missing_is_reported_together() -> None:
    """Each dependency and each producer that no stage brings."""
    assert found(
        make_spec("a", "ghost", "phantom"),
        make_spec("b", "spectre", inputs=("x",)),
        make_spec("c", inputs=("y",)),
    ) == [
        ("unknown_dependency", "a"),
        ("unknown_dependency", "a"),
        ("unknown_dependency", "b"),
        ("missing_producer", "b"),
        ("missing_producer", "c"),
    ]


def test_a_definition_error_names_all_problems_in_its_text() -> None:
    """The exception as printed holds each stage, and each fix."""
    with pytest.raises(PipelineDefinitionError) as caught:
        make_pipeline(make_spec("a", timeout_s=-1), make_spec("b", "b"))
    text = str(caught.value)
    assert [
        f for f in ("'test'", "2 problems", "'a'", "positive", "'b'", "remove") if f not in text
    ] == []


@pytest.mark.parametrize(
    ("name", "specs", "inputs", "text"),
    [
        ("", [], [], "Pipeline: name is ''; give a text"),
        (5, [], [], "Pipeline: name is 5; give a text"),
        ("p", None, [], "pipeline 'p': specs is None; give a list of StageSpecs"),
        ("p", 5, [], "pipeline 'p': specs is 5; give a list of StageSpecs"),
        ("p", "ab", [], "pipeline 'p': specs is 'ab'; give a list of StageSpecs"),
        ("p", [], "ab", "pipeline 'p': inputs is 'ab'; give a list of names"),
        ("p", [], ["a", 5], "pipeline 'p': inputs is ['a', 5]; give a list of names"),
        ("p", [], ["a", "a"], "pipeline 'p': inputs is ['a', 'a']; name each input once"),
    ],
)
def test_what_makes_no_pipeline_at_all_is_refused(
    name: Any, specs: Any, inputs: Any, text: str
) -> None:
    """With the part that is wrong, what was given, and what to give."""
    with pytest.raises(err.InvalidConfigError) as caught:
        Pipeline(name, specs, inputs=inputs)
    assert str(caught.value) == text


def test_the_error_of_a_spec_in_place_of_its_name_says_the_name() -> None:
    """Naming the stage itself is the likeliest mistake, so the fix can be copied."""
    other = make_spec("other")
    problem = problems_of(other, StageSpec("a", do_nothing, (other,)))[0]  # type: ignore[arg-type]
    assert problem.code == "invalid_declaration"
    assert problem.key == "dependencies"
    assert problem.text.endswith("; write 'other'")


def test_the_first_twenty_unknown_dependencies_come_with_a_suggestion() -> None:
    """Looking for the nearest name takes long, and nobody reads that many."""
    specs = [make_spec("memory"), *(make_spec(f"s{n}", "memroy") for n in range(22))]
    problems = problems_of(*specs)
    suggestions = [problem.suggestion for problem in problems]
    assert suggestions == 20 * ["memory"] + 2 * [None]


def test_the_error_of_a_runner_that_yields_shows_how_to_write_a_stream() -> None:
    """A runner of a spec opens its streams itself."""
    (problem,) = problems_of(make_spec("a", runner=generator_runner))
    assert "yields; put each item into a stream" in problem.text


def test_a_stage_of_many_inputs_waits_once_for_each_producer() -> None:
    """Whether it reads one output of a stage or several."""
    makers = [make_spec(f"m{n}", outputs=(f"a{n}", f"b{n}")) for n in range(10)]
    keys = tuple(key for maker in makers for key in maker.outputs)
    graph = make_pipeline(*makers, make_spec("reader", inputs=keys)).build()
    assert graph.predecessors[-1] == tuple(range(10))


async def two_parameters(ctx: StageContext, other: object) -> StageOutput:
    return StageOutput.ok()


async def no_parameter() -> StageOutput:
    return StageOutput.ok()


@pytest.mark.parametrize("runner", [two_parameters, no_parameter])
def test_the_runner_of_a_spec_takes_the_context_alone(runner: Any) -> None:
    """Only `@stage` makes inputs of parameters."""
    (problem,) = problems_of(make_spec("a", runner=runner))
    assert "is called with the StageContext alone; write 'async def …(ctx)'" in problem.text
