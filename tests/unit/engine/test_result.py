"""The result of a run, for each way in which it can end."""

from __future__ import annotations

import dataclasses

import pytest

from stageflow import PipelineContext, RunStatus, StageError, StageStatus
from tests.utils.factories import make_pipeline, make_spec

pytestmark = pytest.mark.simulate(order="asyncio")

MIXED = make_pipeline(
    make_spec("fine", outputs=("x",), pauses_s=(1.0,)),
    make_spec("optional", ending="raise", required=False, pauses_s=(2.0,)),
    make_spec("idle", condition=lambda _: False),
    make_spec("broken", "fine", ending="raise", pauses_s=(2.0,)),
    make_spec("never", "broken"),
)


async def test_a_completed_run_gives_its_outputs() -> None:
    """Nothing failed, so there is nothing to tell."""
    ctx = PipelineContext()
    result = await make_pipeline(make_spec("a", outputs=("x",))).run(ctx)
    assert (result.pipeline, result.pipeline_run_id) == ("test", ctx.pipeline_run_id)
    assert result.status is RunStatus.COMPLETED
    assert result.unwrap() == result.outputs == {"x": "x by a"}
    assert (result.error, result.user_message, result.failure) == (None, None, None)


async def test_outputs_are_a_copy() -> None:
    """Changing them does not change the run."""
    result = await make_pipeline(make_spec("a", outputs=("x",))).run()
    result.outputs.clear()
    assert result.outputs == {"x": "x by a"}


async def test_a_failed_run_says_where_and_why_and_keeps_what_was_done() -> None:
    """In words for an engineer and in words for a person; partial outputs stay readable."""
    result = await MIXED.run()
    assert result.status is RunStatus.FAILED
    assert result.outputs == {"x": "x by fine"}
    assert result.error == "stage 'broken': ScriptedError: broken raises as its script says"
    assert result.user_message is not None
    assert "Scripted" not in result.user_message
    with pytest.raises(StageError) as caught:
        result.unwrap()
    assert caught.value is result.failure
    assert caught.value.pipeline_run_id == result.pipeline_run_id


async def test_each_stage_has_its_end_its_duration_and_its_detail() -> None:
    """In the order in which they ended."""
    stages = (await MIXED.run()).stages
    assert {name: (s.status, s.duration_ms) for name, s in stages.items()} == {
        "idle": (StageStatus.SKIPPED, 0.0),
        "fine": (StageStatus.COMPLETED, 1000.0),
        "optional": (StageStatus.FAILED, 2000.0),
        "broken": (StageStatus.FAILED, 2000.0),
        "never": (StageStatus.SKIPPED, 0.0),
    }
    assert list(stages) == ["idle", "fine", "optional", "broken", "never"]
    assert stages["broken"].detail["error_code"] == "stage_raised"
    assert stages["never"].detail["reason"] == "stage 'broken' failed"


async def test_a_run_that_passed_its_deadline_has_no_stage_to_blame() -> None:
    """Its error speaks of the run."""
    slow = make_pipeline(make_spec("a", pauses_s=(9.0,)))
    result = await slow.run(PipelineContext(deadline_s=1))
    assert result.error == "timeout: the run passed its deadline of 1 s"


async def test_how_a_stage_ended_cannot_be_changed() -> None:
    """It is on record, and so is where the run stands by its words."""
    result = await make_pipeline(make_spec("a")).run()
    assert (str(result.status), str(result.stages["a"].status)) == ("completed", "completed")
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.stages["a"].duration_ms = 5.0  # type: ignore[misc]
