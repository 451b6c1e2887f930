"""Child runs: a stage that runs another pipeline, and what passes between the two."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stageflow import (
    ChildRunError,
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    run_child,
    subpipeline,
)
from tests.utils.assertions import only
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual


def run(pipeline: Pipeline, ctx: PipelineContext | None = None) -> RunResult:
    return run_virtual(lambda: pipeline.run(ctx))


class IdleTimeout:
    """A stage that keeps the context of its run for the test to look at."""

    def __init__(self, *, pause_s: float = 0.0) -> None:
        self.seen: list[PipelineContext] = []
        self._pause_s = pause_s

    @property
    def ctx(self) -> PipelineContext:
        (ctx,) = self.seen
        return ctx

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        self.seen.append(ctx.run)
        await asyncio.sleep(self._pause_s)
        return StageOutput.ok()


def test_a_child_run_knows_where_it_comes_from() -> None:
    """Ids of its own, the parent's run and stage, and one correlation id for both."""
    watched = IdleTimeout()
    child = make_pipeline(StageSpec("leaf", watched), name="child")
    ctx = PipelineContext(correlation_id="call-5")
    result = run(make_pipeline(subpipeline("branch", child), name="parent"), ctx)
    assert watched.ctx.parent_run_id == result.pipeline_run_id
    assert watched.ctx.parent_stage_id == "branch"
    assert watched.ctx.correlation_id == "call-5"
    assert watched.ctx.pipeline_run_id != result.pipeline_run_id
    assert watched.ctx.get_events()[0].data == {
        "pipeline": "child",
        "correlation_id": "call-5",
        "parent_run_id": result.pipeline_run_id,
        "parent_stage_id": "branch",
    }


def test_a_whole_tree_of_runs_shares_the_id_of_its_root() -> None:
    """When none was given, the first run's own id correlates them all."""
    watched = IdleTimeout()
    grandchild = make_pipeline(StageSpec("leaf", watched), name="grandchild")
    child = make_pipeline(subpipeline("twig", grandchild), name="child")
    result = run(make_pipeline(subpipeline("branch", child), name="parent"))
    assert watched.ctx.correlation_id == result.pipeline_run_id
    assert watched.ctx.parent_run_id != result.pipeline_run_id


def test_a_childs_outputs_reach_the_parent_through_its_stage_alone() -> None:
    """Outputs that the stage does not declare stay in the child's own bag."""
    child = make_pipeline(make_spec("leaf", outputs=("x", "private")))
    result = run(make_pipeline(subpipeline("branch", child, outputs=["x"])))
    assert result.outputs == {"x": "x by leaf"}
    assert result.bag.writer_of("x") == "branch"


def test_parent_and_child_may_use_the_same_key() -> None:
    """Their bags are two."""
    child = make_pipeline(make_spec("leaf", outputs=("x",)))
    result = run(
        make_pipeline(
            make_spec("a", outputs=("x",)), subpipeline("branch", child, dependencies=["a"])
        )
    )
    assert (result.status, result.outputs) == (RunStatus.COMPLETED, {"x": "x by a"})


def test_a_child_sees_the_parents_outputs_and_cannot_change_them() -> None:
    """A view: it shows what is written later too, and takes no assignment."""
    seen: list[Any] = []

    async def look(ctx: StageContext) -> StageOutput:
        view: Any = ctx.run.parent_outputs
        seen.append(dict(view))
        await asyncio.sleep(2)
        seen.append(dict(view))
        with pytest.raises(TypeError):
            view["x"] = "changed"
        return StageOutput.ok()

    parent = make_pipeline(
        make_spec("a", outputs=("x",)),
        make_spec("late", "a", outputs=("y",), pauses_s=(1.0,)),
        subpipeline("branch", make_pipeline(StageSpec("leaf", look)), dependencies=["a"]),
    )
    assert run(parent).status is RunStatus.COMPLETED
    assert seen == [{"x": "x by a"}, {"x": "x by a", "y": "y by late"}]


def test_a_child_is_given_the_inputs_that_it_declares() -> None:
    """From what the caller passes, then the parent's outputs, then the parent's inputs."""
    seen: list[Any] = []

    async def look(ctx: StageContext) -> StageOutput:
        seen.extend(ctx[key] for key in ("passed", "written", "given"))
        return StageOutput.ok()

    keys = ("passed", "written", "given")
    child = make_pipeline(StageSpec("leaf", look, inputs=keys), inputs=keys)

    async def call(ctx: StageContext) -> StageOutput:
        await run_child(ctx, child, {"passed": 1})
        return StageOutput.ok()

    parent = make_pipeline(
        make_spec("a", outputs=("written",)),
        StageSpec("branch", call, ("a",)),
        inputs=["given"],
    )
    assert run(parent, PipelineContext({"given": 3})).error is None
    assert seen == [1, "written by a", 3]


def test_an_input_that_is_absent_in_the_parent_is_left_out() -> None:
    """The child run then fails to begin, and says which input it needs."""
    child = make_pipeline(make_spec("leaf", inputs=("x",)), name="child", inputs=["x"])
    parent = make_pipeline(
        make_spec("a", outputs=("x",), condition=lambda _: False),
        subpipeline("branch", child, dependencies=["a"], inputs=["x"]),
    )
    result = run(parent)
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("missing_run_input", "branch")
    assert "'child'" in str(result.failure)


def test_a_child_calls_the_providers_of_its_parent() -> None:
    """One registry for the whole tree."""
    watched = IdleTimeout()
    providers = ProviderRegistry(other=object())
    parent = make_pipeline(subpipeline("branch", make_pipeline(StageSpec("leaf", watched))))
    run(parent, PipelineContext(providers=providers))
    assert watched.ctx.providers is providers


def test_a_childs_failure_is_its_stages_failure_and_names_the_child_run() -> None:
    """The error leads from the parent's stage to the child's, and to what was raised there."""
    watched = IdleTimeout()
    child = make_pipeline(
        StageSpec("first", watched), make_spec("leaf", "first", ending="raise"), name="child"
    )
    result = run(make_pipeline(subpipeline("branch", child), make_spec("after", "branch")))
    failure = result.failure
    assert isinstance(failure, ChildRunError)
    assert failure.stage == "branch"
    assert failure.child_run_id == watched.ctx.pipeline_run_id
    assert failure.child_run_id in str(failure)
    assert (failure.child_pipeline, failure.cause.stage) == ("child", "leaf")
    assert "leaf raises as its script says" in str(failure)
    assert result.stages["after"].detail["reason"] == "stage 'branch' failed"
    assert watched.ctx.status is RunStatus.FAILED


def test_a_child_that_is_optional_may_fail() -> None:
    """The parent goes on without its outputs."""
    child = make_pipeline(make_spec("leaf", ending="raise"))
    result = run(make_pipeline(subpipeline("branch", child, outputs=["x"], required=False)))
    assert result.status is RunStatus.COMPLETED
    assert only(result.events, "stage.branch.failed").data["error_code"] == "child_run_failed"


def test_an_output_that_the_child_did_not_provide_fails_the_stage() -> None:
    """It makes no difference which stage of the child was to write it."""
    child = make_pipeline(make_spec("leaf", outputs=("x",), ending="skip"))
    result = run(make_pipeline(subpipeline("branch", child, outputs=["x"])))
    assert result.failure is not None
    assert result.failure.code == "output_mismatch"


def test_a_parents_deadline_bounds_the_child_too() -> None:
    """Both end at it, though the child itself has a later one."""
    watched = IdleTimeout(pause_s=9.0)
    child = make_pipeline(StageSpec("leaf", watched))

    async def call(ctx: StageContext) -> StageOutput:
        await run_child(ctx, child, deadline_s=5)
        return StageOutput.ok()

    result = run(make_pipeline(StageSpec("branch", call)), PipelineContext(deadline_s=2))
    assert (result.status, result.duration_ms) == (RunStatus.FAILED, 2000.0)
    last = watched.ctx.get_events()[-1]
    assert last.type in {"pipeline.failed", "pipeline.cancelled"}
    assert last.offset_ms == 2000.0


def test_a_child_may_have_an_earlier_deadline_of_its_own() -> None:
    """Its stage fails then, naming the deadline."""
    child = make_pipeline(make_spec("leaf", pauses_s=(9.0,)))

    async def call(ctx: StageContext) -> StageOutput:
        await run_child(ctx, child, deadline_s=1)
        return StageOutput.ok()

    result = run(make_pipeline(StageSpec("branch", call)), PipelineContext(deadline_s=5))
    assert result.duration_ms == 1000.0
    assert isinstance(result.failure, ChildRunError)
    assert result.failure.cause.code == "deadline_exceeded"


def test_the_limit_of_its_stage_bounds_a_child_run() -> None:
    """The child is cancelled, and the stage has timed out."""
    watched = IdleTimeout(pause_s=9.0)
    child = make_pipeline(StageSpec("leaf", watched))
    result = run(make_pipeline(subpipeline("branch", child, timeout_s=1)))
    assert result.failure is not None
    assert (result.failure.code, result.duration_ms) == ("stage_timeout", 1000.0)
    assert watched.ctx.status is RunStatus.CANCELLED


@pytest.mark.parametrize("sibling_fails", [False, True], ids=["caller cancels", "sibling fails"])
@pytest.mark.simulate(order="asyncio")
async def test_children_are_cancelled_deepest_first(sibling_fails: bool) -> None:
    """Each run has ended, clean-up included, before the stage that started it does."""
    ended: list[str] = []

    def leaving(name: str, inside: Pipeline | None) -> Pipeline:
        async def execute(ctx: StageContext) -> StageOutput:
            try:
                if inside is None:
                    await asyncio.sleep(9)
                else:
                    await run_child(ctx, inside)
            finally:
                await asyncio.sleep(1)
                ended.append(name)
            return StageOutput.ok()

        return make_pipeline(StageSpec("stage", execute), name=name)

    tree = leaving("root", leaving("child", leaving("grandchild", None)))
    if sibling_fails:
        sibling = make_spec("sibling", pauses_s=(2.0,), ending="raise")
        tree = tree.compose(make_pipeline(sibling))
    ctx = PipelineContext()

    task = asyncio.create_task(tree.run(ctx))
    if not sibling_fails:
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert (await task).status is RunStatus.FAILED
    assert asyncio.get_running_loop().time() == 5.0
    assert ended == ["grandchild", "child", "root"]
    only(ctx.get_events(), "stage.stage.cancelled")


def test_one_stage_may_run_a_child_several_times() -> None:
    """One after another and at the same time, each with an id of its own."""
    watched = IdleTimeout(pause_s=1.0)
    child = make_pipeline(StageSpec("leaf", watched))

    async def call(ctx: StageContext) -> StageOutput:
        await run_child(ctx, child)
        await asyncio.gather(run_child(ctx, child), run_child(ctx, child))
        return StageOutput.ok()

    result = run(make_pipeline(StageSpec("branch", call)))
    assert (result.status, result.duration_ms) == (RunStatus.COMPLETED, 2000.0)
    assert len({ctx.pipeline_run_id for ctx in watched.seen}) == 3


def test_the_ids_of_a_tree_of_runs_repeat_with_the_seed() -> None:
    """Parent and child alike."""

    def ids(seed: int) -> tuple[str | None, ...]:
        watched = IdleTimeout()
        parent = make_pipeline(subpipeline("branch", make_pipeline(StageSpec("leaf", watched))))
        ctx = PipelineContext(seed=seed)
        run(parent, ctx)
        return ctx.pipeline_run_id, watched.ctx.pipeline_run_id

    assert ids(7) == ids(7)
    assert len({*ids(7), *ids(8)}) == 4


async def test_the_inputs_of_a_child_are_a_mapping() -> None:
    """The error names the other value, and the fix."""

    async def ask(ctx: StageContext) -> StageOutput:
        await run_child(ctx, make_pipeline(), ["text"])  # type: ignore[arg-type]
        return StageOutput.ok()

    result = await make_pipeline(make_spec("a", runner=ask)).run()
    assert "inputs is ['text']; give a mapping of keys to values" in str(result.error)
