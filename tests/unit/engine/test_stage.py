"""Stages: declared in a few lines, and what they return."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineDefinitionError,
    StageContext,
    StageKind,
    StageOutput,
    StageSpec,
    StageStatus,
    stage,
)
from stageflow.errors import InvalidConfigError
from stageflow.testing import do_nothing


def test_a_bare_decorator_call_takes_the_functions_name() -> None:
    """The shortest declaration is one line, and has the defaults of a spec."""

    @stage()
    async def greet(ctx: StageContext) -> StageOutput:
        return StageOutput.ok()

    assert (greet.name, greet.outputs, greet.inputs) == ("greet", (), ())
    assert greet.runner is greet.function
    assert greet.required
    assert greet.kind is StageKind.TRANSFORM


def test_the_decorator_hands_on_everything_it_is_given() -> None:
    """Each argument of the declaration is in the spec."""
    condition = bool
    declared = stage(
        "say-hello",
        dependencies=["a"],
        inputs=["b"],
        outputs=["c"],
        kind=StageKind.AGENT,
        required=False,
        timeout_s=1.5,
        when=condition,
        after=["z"],
    )(do_nothing)
    expected = StageSpec(
        name="say-hello",
        runner=do_nothing,
        dependencies=("a", "z"),
        inputs=("b",),
        outputs=("c",),
        kind=StageKind.AGENT,
        required=False,
        timeout_s=1.5,
        condition=condition,
    )
    for field in dataclasses.fields(StageSpec):
        assert getattr(declared, field.name) == getattr(expected, field.name)


def test_lists_become_tuples_so_that_a_spec_can_be_compared_and_hashed() -> None:
    """Two specs of the same content are one, whichever sequence was given."""
    listed = StageSpec("a", do_nothing, ["b"], ["c"], ["d"])  # type: ignore[arg-type]
    assert listed == StageSpec("a", do_nothing, ("b",), ("c",), ("d",))
    assert len({listed, StageSpec("a", do_nothing, ("b",), ("c",), ("d",))}) == 1


def test_a_spec_cannot_be_changed() -> None:
    """Pipelines share specs, so nobody may alter one."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        StageSpec("a", do_nothing).name = "b"  # type: ignore[misc]


class Greeter:
    """A stage with state."""

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        return StageOutput.ok()


def test_a_runner_is_a_function_or_an_object_with_execute() -> None:
    """Either way there is one async function to call."""
    greeter = Greeter()
    assert StageSpec("a", do_nothing).execute is do_nothing
    assert StageSpec("a", greeter).execute == greeter.execute


@pytest.mark.parametrize(
    ("output", "outputs"),
    [
        (StageOutput.ok(), {}),
        (StageOutput.ok({"a": 1}), {"a": 1}),
        (StageOutput.ok(a=1), {"a": 1}),
        (StageOutput.ok({"a": 1}, b=2), {"a": 1, "b": 2}),
        (StageOutput.ok({"a": 1}, a=2), {"a": 2}),
        (StageOutput.ok({}, a=1), {"a": 1}),
    ],
)
def test_a_completed_output_is_given_as_a_mapping_by_name_or_both(
    output: StageOutput, outputs: dict[str, int]
) -> None:
    """All forms lead to one mapping, and a name wins over the mapping."""
    assert output == StageOutput(StageStatus.COMPLETED, outputs)
    assert isinstance(output, StageOutput)
    assert (output.reason, output.retryable) == (None, False)


def test_an_output_does_not_share_the_mapping_with_names_that_it_was_given() -> None:
    """Adding names to a mapping does not write into the caller's own."""
    given = {"a": 1}
    StageOutput.ok(given, b=2)
    assert given == {"a": 1}


def test_skipping_and_failing_say_why() -> None:
    """Both have no outputs, and a reason."""
    assert StageOutput.skip("nothing to do") == (
        StageStatus.SKIPPED,
        {},
        "nothing to do",
        False,
        None,
    )
    assert StageOutput.fail("no luck") == (StageStatus.FAILED, {}, "no luck", False, None)
    assert StageOutput.fail("busy", retryable=True).retryable


@pytest.mark.parametrize(
    "output",
    [
        StageOutput.ok(a=1, b=["c"]),
        StageOutput.skip("why"),
        StageOutput.fail("why", retryable=True),
    ],
)
def test_an_output_can_be_written_as_json(output: StageOutput) -> None:
    """Plain values come back as they went."""
    plain = json.loads(json.dumps(output.to_dict()))
    back = StageOutput(StageStatus(plain.pop("status")), **plain)
    assert back == output


def test_a_bare_decorator_declares_too() -> None:
    """`@stage` without parentheses takes the function's name and declares nothing else."""

    @stage
    async def bare(ctx: StageContext) -> StageOutput:
        return StageOutput.ok()

    assert (bare.name, bare.runner) == ("bare", bare.function)
    assert (bare.inputs, bare.outputs, bare.dependencies) == ((), (), ())


def test_a_text_in_place_of_a_list_of_names_is_not_taken_letter_by_letter() -> None:
    """`inputs="question"` is refused as what it is."""

    @stage(inputs="question")
    async def asking(ctx: StageContext) -> StageOutput:
        return StageOutput.ok()

    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", [asking])
    assert [problem.code for problem in caught.value.problems] == ["invalid_declaration"]
    assert "inputs is 'question'; give a list of names" in str(caught.value)


def test_outputs_that_are_not_a_mapping_are_refused_where_they_are_given() -> None:
    """`StageOutput.ok("text")` says how to name an output."""
    text: Any = "text"
    with pytest.raises(InvalidConfigError, match=r"StageOutput\.ok\(key=value\)"):
        StageOutput.ok(text)
