"""Pipelines: defined, composed, built, run."""

from __future__ import annotations

import pytest

from stageflow import (
    ComposeConflictError,
    Interceptor,
    Pipeline,
    PipelineContext,
    PipelineDefinitionError,
    RunStatus,
    StageContext,
    StageOutput,
    StageStatus,
)
from stageflow.errors import InvalidConfigError, StageTimeoutError
from stageflow.testing import ScriptedError
from tests.utils.assertions import types_of
from tests.utils.factories import chain, make_pipeline, make_spec, names


def test_a_pipeline_keeps_its_stages_in_the_order_given() -> None:
    """Any iterable of specs will do, and it is read once."""
    specs = [make_spec("b", "a"), make_spec("a")]
    pipeline = Pipeline("p", iter(specs), inputs=["x"])
    assert (pipeline.name, pipeline.stages, pipeline.inputs) == ("p", tuple(specs), ("x",))
    assert repr(pipeline) == "Pipeline('p', [b, a])"


def test_other_stages_under_the_same_name_and_inputs() -> None:
    """A pipeline that declares no inputs takes any, and so does what is made of it."""
    specs = [make_spec("b")]
    for inputs in (["x"], None):
        changed = Pipeline("p", [make_spec("a")], inputs=inputs).with_stages(specs)
        assert changed == Pipeline("p", specs, inputs=inputs)


def test_composing_keeps_the_first_name_and_every_stage_of_both() -> None:
    """The first one's stages come first, then what the other adds."""
    shared = make_spec("shared")
    left = make_pipeline(make_spec("a"), shared, name="left", inputs=["x", "y"])
    right = make_pipeline(shared, make_spec("b"), name="right", inputs=["y", "z"])
    both = left.compose(right)
    assert both.name == "left"
    assert names(both.stages) == ["a", "shared", "b"]
    assert both.inputs == ("x", "y", "z")


def test_composing_a_pipeline_with_itself_changes_nothing() -> None:
    """Idempotence."""
    pipeline = make_pipeline(make_spec("a"), make_spec("b", "a"), inputs=["x"])
    assert pipeline.compose(pipeline) == pipeline


def test_composing_leaves_both_parts_as_they_were() -> None:
    """Pipelines are immutable."""
    left, right = make_pipeline(make_spec("a")), make_pipeline(make_spec("b"))
    left.compose(right)
    assert (names(left.stages), names(right.stages)) == (["a"], ["b"])


def test_open_pipelines_compose_to_a_closed_one() -> None:
    """Each depends on a stage of the other, and together they build."""
    left = make_pipeline(make_spec("a"), make_spec("c", "b"))
    right = make_pipeline(make_spec("b", "a"))
    for part in (left, right):
        with pytest.raises(PipelineDefinitionError):
            part.build()
    assert left.compose(right).build().topological_order() == ("a", "b", "c")


def test_one_name_for_two_different_stages_is_a_conflict_naming_both_pipelines() -> None:
    """All names in conflict are reported at once."""
    left = make_pipeline(make_spec("a"), make_spec("b"), make_spec("c"), name="left")
    right = make_pipeline(
        make_spec("c"), make_spec("a", timeout_s=1), make_spec("b", required=False), name="right"
    )
    with pytest.raises(ComposeConflictError) as caught:
        left.compose(right)
    error = caught.value
    assert (error.left, error.right, error.stages) == ("left", "right", ("a", "b"))


def test_a_cycle_through_both_is_found_when_they_compose() -> None:
    """It would never go away, so it is not left to build."""
    left, right = make_pipeline(make_spec("a", "b")), make_pipeline(make_spec("b", "a"))
    with pytest.raises(PipelineDefinitionError) as caught:
        left.compose(right)
    assert [problem.code for problem in caught.value.problems] == ["cycle"]


def test_two_producers_of_one_output_are_found_when_they_compose() -> None:
    """As is an output of one that is an input of the other."""
    left = make_pipeline(make_spec("a", outputs=("x",)))
    for right in (make_pipeline(make_spec("b", outputs=("x",))), make_pipeline(inputs=["x"])):
        with pytest.raises(PipelineDefinitionError) as caught:
            left.compose(right)
        assert [problem.code for problem in caught.value.problems] == ["duplicate_output"]


def test_pipelines_are_equal_when_all_that_defines_them_is() -> None:
    """Name, stages in their order, and inputs; and equal ones hash alike."""

    def make(name: str = "p", *, reverse: bool = False, inputs: tuple[str, ...] = ()) -> Pipeline:
        specs = [make_spec("a"), make_spec("b")]
        return Pipeline(name, reversed(specs) if reverse else specs, inputs=inputs)

    assert make() == make()
    assert hash(make()) == hash(make())
    different = [make("q"), make(reverse=True), make(inputs=("x",)), chain(2, name="p")]
    assert [other for other in different if other == make()] == []
    assert make() != "p"


def test_building_gives_a_graph_of_the_same_name_and_inputs() -> None:
    """The graph knows what it was built from."""
    graph = make_pipeline(make_spec("a", inputs=("x",)), name="p", inputs=["x"]).build()
    assert (graph.name, graph.inputs, names(graph.specs)) == ("p", ("x",), ["a"])


@pytest.mark.simulate(order="asyncio")
async def test_a_pipeline_runs_without_a_context() -> None:
    """An empty one is made."""
    result = await make_pipeline(make_spec("a", outputs=("x",))).run()
    assert (result.status, result.outputs) == (RunStatus.COMPLETED, {"x": "x by a"})


@pytest.mark.simulate(order="asyncio")
async def test_an_empty_pipeline_completes() -> None:
    """Nothing to do is done at once."""
    result = await make_pipeline().run()
    assert types_of(result.events) == ["pipeline.started", "pipeline.completed"]


@pytest.mark.simulate(order="asyncio")
async def test_an_open_pipeline_does_not_run() -> None:
    """It fails as its build does, before anything happens."""
    ctx = PipelineContext()
    with pytest.raises(PipelineDefinitionError):
        await make_pipeline(make_spec("a", "ghost")).run(ctx)
    assert ctx.status is RunStatus.CREATED


class Noting(Interceptor):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def before(self, ctx: StageContext, /) -> None:
        self.seen.append(ctx.name)


@pytest.mark.simulate(order="asyncio")
async def test_interceptors_can_be_given_for_one_run() -> None:
    """They stand around each stage of that run, and of no other."""
    pipeline, noting = chain(3), Noting()
    await pipeline.run(interceptors=[noting])
    await pipeline.run()
    assert noting.seen == ["s0", "s1", "s2"]


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_runs_on_its_own_with_the_engine_around_it() -> None:
    """Without its dependencies, with its events, interceptors and inputs."""
    noting = Noting()

    async def echo(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(y=ctx["x"])

    pipeline = make_pipeline(
        make_spec("a", outputs=("x",)),
        make_spec("b", "a", inputs=("x",), outputs=("y",), runner=echo),
    )
    bound = pipeline.stage("b", interceptors=[noting])
    ctx = PipelineContext({"x": 5})
    output = await bound.execute(ctx)
    assert (bound.name, output, noting.seen) == ("b", StageOutput.ok(y=5), ["b"])
    assert types_of(ctx.get_events()) == [
        "pipeline.started",
        "stage.b.started",
        "stage.b.completed",
        "pipeline.completed",
    ]


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_without_outputs_returns_a_completed_one() -> None:
    """Nothing written is an empty output."""
    output = await chain(2).stage("s1").execute(PipelineContext())
    assert output == StageOutput.ok()


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (make_spec("a", ending="raise"), ScriptedError),
        (make_spec("a", pauses_s=(9.0,), timeout_s=1), StageTimeoutError),
    ],
)
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_fails_on_its_own_raises(spec: object, error: type[Exception]) -> None:
    """The stage's own exception is the error or its cause."""
    bound = make_pipeline(spec).stage("a")  # type: ignore[arg-type]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is asserted below
        await bound.execute(PipelineContext())
    assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize(
    ("spec", "status", "reason"),
    [
        (make_spec("a", ending="skip"), StageStatus.SKIPPED, "as its script says"),
        (make_spec("a", condition=lambda _: False), StageStatus.SKIPPED, "condition"),
        (make_spec("a", ending="fail", required=False), StageStatus.FAILED, "as its script says"),
    ],
)
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_was_skipped_or_may_fail_says_so(
    spec: object, status: StageStatus, reason: str
) -> None:
    """Its output has the status and the reason."""
    bound = make_pipeline(spec).stage("a")  # type: ignore[arg-type]
    output = await bound.execute(PipelineContext())
    assert output.status is status
    assert output.reason is not None
    assert reason in output.reason


def test_a_stage_that_does_not_exist_cannot_be_bound() -> None:
    """The name is in the error."""
    with pytest.raises(KeyError, match="ghost"):
        chain(1).stage("ghost")


def test_a_cycle_is_reported_beside_a_bad_timeout() -> None:
    """Problems of single stages do not hide those of the graph."""
    specs = [
        make_spec("a", "b", timeout_s=-1.0),
        make_spec("b", "a"),
        make_spec("c", "c"),
    ]
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("p", specs)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["invalid_timeout", "self_dependency", "cycle"]


def test_another_value_cannot_be_composed_and_equals_no_pipeline() -> None:
    """The refusal names what was given; a comparison is answered with False."""
    pipeline, other = Pipeline("p", []), Pipeline("q", [])
    with pytest.raises(InvalidConfigError) as caught:
        pipeline.compose(5)  # type: ignore[arg-type]
    assert str(caught.value) == "Pipeline.compose: other is 5; give a Pipeline"
    assert (pipeline == 5) is False
    assert hash(pipeline) == hash(Pipeline("p", [])) != hash(other)
