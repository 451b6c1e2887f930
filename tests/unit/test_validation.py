"""Whatever can be wrong with a definition: a typed error naming pipeline, stage and mend."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import tracemalloc
from types import FrameType
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineDefinitionError,
    StageContext,
    StageOutput,
    StageSpec,
    validation,
)
from stageflow import errors as err
from stageflow.testing.scripted import do_nothing
from stageflow.validation import _BATCH
from tests.utils.factories import make_pipeline, make_spec


def problems_of(*specs: Any, inputs: tuple[str, ...] = ()) -> list[err.DefinitionError]:
    """What building a pipeline named "p" of these specs reports."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", specs, inputs=inputs).build()
    assert caught.value.pipeline == "p"
    assert all(problem.pipeline == "p" for problem in caught.value.problems)
    return list(caught.value.problems)


def found(*specs: Any, inputs: tuple[str, ...] = ()) -> list[tuple[type, str]]:
    """The types of the problems, and the stages where they are."""
    return [(type(p), p.stage) for p in problems_of(*specs, inputs=inputs)]


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


# ── single stages ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "-a", "é", "a\n", "a/b", 5, None, b"a", ["a"]], ids=repr
)
def test_a_name_that_is_no_name_is_refused(name: Any) -> None:
    """An event's type is made of it, so it has neither dots nor spaces, and it is a string."""
    assert found(StageSpec(name, do_nothing)) == [(err.InvalidNameError, str(name))]


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
    """Plain functions, generators, classes and things that are no functions are named."""
    (problem,) = problems_of(StageSpec("a", runner))
    assert isinstance(problem, err.InvalidRunnerError)
    assert problem.runner is runner


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


@pytest.mark.parametrize("timeout_s", [-1, 0, 0.0, math.inf, math.nan, "1", True, [1]], ids=repr)
def test_a_timeout_is_a_positive_finite_number(timeout_s: Any) -> None:
    """Anything else is refused before a run could meet it."""
    (problem,) = problems_of(make_spec("a", timeout_s=timeout_s))
    assert isinstance(problem, err.InvalidTimeoutError)
    assert problem.timeout_s is timeout_s


@pytest.mark.parametrize("condition", [5, "yes", configured], ids=["number", "text", "async"])
def test_a_condition_is_a_plain_function(condition: Any) -> None:
    """An async one would return a coroutine, which always counts as true."""
    (problem,) = problems_of(make_spec("a", condition=condition))
    assert isinstance(problem, err.InvalidDeclarationError)
    assert (problem.stage, problem.field, problem.found) == ("a", "condition", condition)


@pytest.mark.parametrize("field", ["dependencies", "inputs", "outputs"])
@pytest.mark.parametrize("given", ["abc", {"a"}, 5, {"a": 1}], ids=repr)
def test_names_come_in_a_list_or_a_tuple(field: str, given: Any) -> None:
    """A lone string is not taken for a list of letters; a set has no order."""
    (problem,) = problems_of(StageSpec("a", do_nothing, **{field: given}))
    assert isinstance(problem, err.InvalidDeclarationError)
    assert (problem.stage, problem.field, problem.found) == ("a", field, given)


@pytest.mark.parametrize("field", ["dependencies", "inputs", "outputs"])
def test_each_of_the_names_is_a_string_and_stands_there_once(field: str) -> None:
    """Both mistakes are reported, each with the name concerned."""
    given: dict[str, Any] = {field: ("x", 5, "x", ["y"])}
    problems = problems_of(StageSpec("a", do_nothing, **given))
    declared = [p for p in problems if isinstance(p, err.InvalidDeclarationError)]
    assert [p.found for p in declared] == [5, ["y"], "x"]
    assert {(p.stage, p.field) for p in declared} == {("a", field)}


@pytest.mark.parametrize(
    ("field", "given", "mend"),
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
def test_what_a_stage_is_holds_what_it_may(field: str, given: Any, mend: str) -> None:
    """A string in the place of a flag would count as true, and a kind that is none be drawn."""
    (problem,) = problems_of(make_spec("a", **{field: given}))
    assert isinstance(problem, err.InvalidDeclarationError)
    assert (problem.stage, problem.field, problem.found) == ("a", field, given)
    assert mend in problem.problem


def test_what_is_no_spec_is_named() -> None:
    """A function or a stage object put in the place of a spec is told how to become one."""
    assert found(do_nothing, AsyncStage()) == [
        (err.InvalidSpecError, "do_nothing"),
        (err.InvalidSpecError, "AsyncStage"),
    ]


# ── stages together ─────────────────────────────────────────────────────────────────────────


def test_a_name_taken_twice_is_reported_once_with_its_count() -> None:
    """Three stages of one name are one problem."""
    (problem,) = problems_of(*[make_spec("a") for _ in range(3)], make_spec("b"))
    assert isinstance(problem, err.DuplicateStageError)
    assert (problem.stage, problem.count) == ("a", 3)


def test_a_stage_that_depends_on_itself_is_reported_as_just_that() -> None:
    """And not as a cycle besides."""
    assert found(make_spec("a", "a")) == [(err.SelfDependencyError, "a")]


def test_a_cycle_is_reported_with_its_path() -> None:
    """The path closes on itself, and each of its steps is a dependency."""
    (problem,) = problems_of(make_spec("a", "c"), make_spec("b", "a"), make_spec("c", "b"))
    assert isinstance(problem, err.CycleError)
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
    assert isinstance(problem, err.UnknownDependencyError)
    assert (problem.stage, problem.dependency) == ("llm", wrong)
    assert problem.suggestion == suggestion


def test_a_stage_is_not_suggested_as_a_dependency_of_itself() -> None:
    """The mend must not be the next mistake."""
    (problem,) = problems_of(make_spec("memory", "memory1"))
    assert isinstance(problem, err.UnknownDependencyError)
    assert problem.suggestion is None


def test_two_producers_of_one_output_are_both_named() -> None:
    """The second is where the problem is, the first is who has it."""
    (problem,) = problems_of(make_spec("a", outputs=("x",)), make_spec("b", outputs=("x",)))
    assert isinstance(problem, err.DuplicateOutputError)
    assert (problem.stage, problem.key, problem.other) == ("b", "x", "stage 'a'")


def test_an_output_must_not_be_an_input_of_the_run() -> None:
    """Otherwise a reader could not tell which of the two it gets."""
    (problem,) = problems_of(make_spec("a", outputs=("x",)), inputs=("x",))
    assert isinstance(problem, err.DuplicateOutputError)
    assert problem.other == "the run's input"


def test_an_input_without_producer_is_reported_with_the_nearest_key() -> None:
    """The keys that exist are outputs and the inputs of the run."""
    (problem,) = problems_of(make_spec("a", inputs=("txet",)), inputs=("text",))
    assert isinstance(problem, err.MissingProducerError)
    assert (problem.key, problem.producer) == ("txet", None)
    assert "'text'" in str(problem)


def test_a_stage_does_not_produce_its_own_input() -> None:
    """Reading what it writes itself is reading what is not there yet."""
    assert found(make_spec("a", inputs=("x",), outputs=("x",))) == [(err.MissingProducerError, "a")]


def test_a_producer_that_may_run_later_is_named_with_the_dependency_to_add() -> None:
    """Beside or behind is not before."""
    (problem,) = problems_of(make_spec("a", outputs=("x",)), make_spec("b", inputs=("x",)))
    assert isinstance(problem, err.MissingProducerError)
    assert (problem.stage, problem.key, problem.producer) == ("b", "x", "a")
    behind = found(make_spec("a", "b", outputs=("x",)), make_spec("b", inputs=("x",)))
    assert behind == [(err.MissingProducerError, "b")]


def test_whoever_stands_before_is_not_taken_for_the_producer() -> None:
    """That a stage has predecessors says nothing of the one that it reads from."""
    specs = make_spec("a", outputs=("x",)), make_spec("b"), make_spec("c", "b", inputs=("x",))
    assert found(*specs) == [(err.MissingProducerError, "c")]


def test_producers_are_looked_up_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever batch a producer falls into, it is found where it is, and missed once if not."""
    monkeypatch.setattr(validation, "_BATCH", 2)
    keys = [f"k{n}" for n in range(5)]
    producers = [
        make_spec(f"p{n}", *((f"p{n - 1}",) if n else ()), outputs=(keys[n],)) for n in range(5)
    ]
    readers = [make_spec(f"r{n}", f"p{n}", inputs=tuple(keys)) for n in range(5)]
    missed = [(p.stage, getattr(p, "key", "")) for p in problems_of(*producers, *readers)]
    assert missed == [(f"r{n}", key) for n in range(5) for key in keys[n + 1 :]]


def test_a_producer_may_stand_any_distance_before() -> None:
    """An ancestor is enough; it need not be a dependency of the stage itself."""
    specs = [make_spec("s0", outputs=("x",))]
    specs += [make_spec(f"s{n}", f"s{n - 1}") for n in range(1, 50)]
    specs.append(make_spec("last", "s49", inputs=("x", "text")))
    assert len(make_pipeline(*specs, inputs=["text"]).build()) == 51


def test_far_producers_are_judged_rightly_beyond_one_batch() -> None:
    """With more producers than one pass looks at, the good stay good and the bad are found."""
    count = _BATCH + 10
    producers = [
        make_spec(f"p{n}", *((f"p{n - 1}",) if n else ()), outputs=(f"k{n}",)) for n in range(count)
    ]
    far = tuple(f"k{n}" for n in range(count - 2))
    good = make_spec("good", f"p{count - 1}", inputs=far)
    late = ("k5", f"k{_BATCH - 1}", f"k{_BATCH}", f"k{count - 1}")
    early = make_spec("early", "p4", inputs=("k1", *late))
    assert len(make_pipeline(*producers, good).build()) == count + 1
    problems = problems_of(*producers, good, early)
    found_keys = [(p.stage, getattr(p, "key", None)) for p in problems]
    assert found_keys == [("early", key) for key in late]


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
        tracemalloc.start()
        try:
            make_pipeline(*specs).build()
            return lines, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = lines_and_bytes(1_000), lines_and_bytes(4_000)
    assert many[0] < 4.5 * few[0]
    assert many[1] < 5 * few[1]


# ── several at once ─────────────────────────────────────────────────────────────────────────


def test_all_that_is_wrong_with_single_stages_is_reported_together() -> None:
    """One look at the report is enough to mend every stage."""
    assert found(
        StageSpec("a b", do_nothing),
        StageSpec("sync", sync_runner),  # type: ignore[arg-type]
        make_spec("slow", timeout_s=-1),
        make_spec("self", "self"),
        make_spec("twin"),
        make_spec("twin"),
    ) == [
        (err.InvalidNameError, "a b"),
        (err.InvalidRunnerError, "sync"),
        (err.InvalidTimeoutError, "slow"),
        (err.SelfDependencyError, "self"),
        (err.DuplicateStageError, "twin"),
    ]


def test_all_that_no_composition_can_mend_is_reported_together() -> None:
    """Each knot, and each output with two producers."""
    assert found(
        make_spec("a", "b"),
        make_spec("b", "a"),
        make_spec("c", "d"),
        make_spec("d", "c"),
        make_spec("e", outputs=("x",)),
        make_spec("f", outputs=("x",)),
    ) in [
        [(err.CycleError, ab), (err.CycleError, cd), (err.DuplicateOutputError, "f")]
        for ab in "ab"
        for cd in "cd"
    ]


def test_all_that_is_missing_is_reported_together() -> None:
    """Each dependency and each producer that no stage brings."""
    assert found(
        make_spec("a", "ghost", "phantom"),
        make_spec("b", "spectre", inputs=("x",)),
        make_spec("c", inputs=("y",)),
    ) == [
        (err.UnknownDependencyError, "a"),
        (err.UnknownDependencyError, "a"),
        (err.UnknownDependencyError, "b"),
        (err.MissingProducerError, "b"),
        (err.MissingProducerError, "c"),
    ]


def test_a_definition_error_names_all_problems_in_its_text() -> None:
    """The exception as printed holds each stage, and each mend."""
    with pytest.raises(PipelineDefinitionError) as caught:
        make_pipeline(make_spec("a", timeout_s=-1), make_spec("b", "b"))
    text = str(caught.value)
    assert [
        f for f in ("'test'", "2 problems", "'a'", "positive", "'b'", "remove") if f not in text
    ] == []


@pytest.mark.parametrize("field", ["dependencies", "inputs", "outputs"])
@pytest.mark.parametrize("nothing", [None, 0, "", {}, False], ids=repr)
def test_what_is_empty_and_no_list_is_refused(field: str, nothing: object) -> None:
    """Only an empty tuple or list says that there is none."""
    spec = dataclasses.replace(StageSpec("a", do_nothing), **{field: nothing})  # type: ignore[arg-type]
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", [spec])
    assert [type(problem) for problem in caught.value.problems] == [err.InvalidDeclarationError]


def test_a_time_that_no_clock_can_hold_is_refused() -> None:
    """An integer beyond all floats is no number of seconds."""
    with pytest.raises(PipelineDefinitionError):
        Pipeline("p", [StageSpec("a", do_nothing, timeout_s=10**400)])


# ── word for word ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "specs", "inputs", "text"),
    [
        ("", [], [], "Pipeline: name is ''; give a text"),
        (5, [], [], "Pipeline: name is 5; give a text"),
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


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"condition": 5}, "condition holds 5; give a plain function of the StageContext"),
        ({"inputs": 5}, "inputs holds 5; give a list of names"),
        ({"outputs": (5,)}, "outputs holds 5; names are strings"),
        ({"inputs": ("x", "x", "x")}, "inputs holds 'x'; it stands there 3 times; once is enough"),
        ({"outputs": ("x", "x")}, "outputs holds 'x'; it stands there 2 times; once is enough"),
    ],
)
def test_a_wrong_declaration_is_told_how_to_be_mended(fields: dict[str, Any], text: str) -> None:
    """With the field, what it holds, and what to write."""
    problem = problems_of(StageSpec("a", do_nothing, **fields))[0]
    assert problem.problem == text


def test_a_spec_in_the_place_of_its_name_is_told_the_name() -> None:
    """Naming the stage itself is the likeliest mistake, so the mend can be copied."""
    other = make_spec("other")
    problem = problems_of(other, StageSpec("a", do_nothing, (other,)))[0]  # type: ignore[arg-type]
    assert isinstance(problem, err.InvalidDeclarationError)
    assert (problem.field, problem.found) == ("dependencies", other)
    assert problem.problem.endswith("; write 'other'")


def test_the_first_twenty_unknown_dependencies_come_with_a_suggestion() -> None:
    """Looking for the nearest name takes long, and nobody reads that many."""
    specs = [make_spec("memory"), *(make_spec(f"s{n}", "memroy") for n in range(22))]
    problems = problems_of(*specs)
    suggestions = [getattr(problem, "suggestion", "") for problem in problems]
    assert suggestions == 20 * ["memory"] + 2 * [None]
