"""Broken speech to text: the turn ends at its first step, and the user learns what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow import PipelineOrchestrator, RunStatus
from stageflow.dlq import InMemoryDeadLetterStore, SQLiteDeadLetterStore
from stageflow.kernels import NOTHING_HEARD, voice
from stageflow.providers import text_of_speech
from stageflow.testing import FaultType, inject_fault
from tests.fault.turns import context, statuses, taken
from tests.utils.assertions import assert_run_sound, only


def test_pipeline_handles_stt_error() -> None:
    """The run fails at once with what the service said; nothing after it starts."""
    stt = inject_fault("stt", FaultType.ERROR, message="Service unavailable")
    result = taken(stt)
    assert_run_sound(voice(), result)
    assert result.status is RunStatus.FAILED
    assert str(result.status) == "failed"
    assert "Service unavailable" in str(result.error)
    assert statuses(result) == {"stt": "failed"} | dict.fromkeys(
        ("profile", "memory", "llm", "tts", "persist"), "skipped"
    )
    assert result.duration_ms == 0
    assert only(result.events, "stage.stt.failed").data["error_code"] == "service_unavailable"
    assert stt.injected == 1


def test_user_receives_an_appropriate_message() -> None:
    """The user reads that it is not their fault and what to do, and nothing of the inside."""
    result = taken(inject_fault("stt", FaultType.ERROR, message="Service unavailable"))
    assert result.user_message == (
        "A service we need is having trouble. Please try again in a moment."
    )
    assert result.events[-1].data["user_message"] == result.user_message


async def test_dlq_entry_is_created(tmp_path: Path) -> None:
    """When the run returns, its dead letter is in the file: what failed, why, and the inputs."""
    path = tmp_path / "dead-letters.sqlite"

    ctx = context()
    async with SQLiteDeadLetterStore(path) as store:
        orchestrator = PipelineOrchestrator(voice().build(), dead_letters=store)
        with inject_fault("stt", FaultType.ERROR, message="Service unavailable"):
            result = await orchestrator.run(ctx)
    assert ctx.dlq_entry is not None
    async with SQLiteDeadLetterStore(path, create=False) as reopened:
        (letter,) = await reopened.letters()
    assert letter.id == ctx.dlq_entry.id
    assert (letter.pipeline, letter.failed_stage) == ("voice", "stt")
    assert letter.pipeline_run_id == result.pipeline_run_id
    assert (letter.error.code, letter.error.provider) == ("service_unavailable", "stt")
    assert letter.error.user_message == result.user_message
    assert letter.inputs == ctx.inputs


@pytest.mark.simulate(order="asyncio")
async def test_no_dlq_entry_for_a_turn_that_is_answered() -> None:
    """Silence is not a failure, and leaves no dead letter."""
    ctx = context()
    with inject_fault("stt", FaultType.EMPTY):
        store = InMemoryDeadLetterStore()
        await PipelineOrchestrator(voice().build(), dead_letters=store).run(ctx)
    assert ctx.dlq_entry is None
    assert await store.letters() == ()


def test_an_empty_transcript_is_answered() -> None:
    """Where nothing was heard the user is asked, by voice, to say it again."""
    result = taken(inject_fault("stt", FaultType.EMPTY))
    assert result.unwrap()["answer"] == NOTHING_HEARD
    assert text_of_speech(result.outputs["speech"]) == NOTHING_HEARD
    assert statuses(result)["persist"] == "skipped"
