"""A broken language model: the turn ends, in time, on record, and with words for the user."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stageflow import PipelineContext, PipelineOrchestrator, RunResult, RunStatus
from stageflow.interceptors import BreakerInterceptor
from stageflow.kernels import chat, voice
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from stageflow.telemetry import LoggingSink
from stageflow.testing import FaultType, inject_fault
from tests.fault.turns import (
    READ_MS,
    STT_MS,
    is_fit_for_users,
    providers,
    statuses,
    taken,
)
from tests.utils.assertions import assert_run_sound, only

BEFORE_MS = STT_MS + READ_MS


@pytest.fixture
def timed_out() -> RunResult:
    """A turn whose model gave no answer within 5 s."""
    return taken(inject_fault("llm", FaultType.TIMEOUT, duration_ms=5000))


def test_pipeline_handles_llm_timeout(timed_out: RunResult) -> None:
    """Earlier outputs stay readable, stages after the model are skipped, in time."""
    assert_run_sound(voice(), timed_out)
    assert statuses(timed_out) == {
        "stt": "completed",
        "profile": "completed",
        "memory": "completed",
        "llm": "failed",
        "tts": "skipped",
        "persist": "skipped",
    }
    assert timed_out.outputs["transcript"] == "Hello?"
    assert timed_out.duration_ms == pytest.approx(BEFORE_MS + 5000)


def test_pipeline_status_is_failed(timed_out: RunResult) -> None:
    """The run has failed, and its error says by what and where."""
    assert timed_out.status is RunStatus.FAILED
    assert str(timed_out.status) == "failed"
    assert timed_out.error is not None
    assert "timeout" in timed_out.error.lower()
    assert "stage 'llm'" in timed_out.error
    assert is_fit_for_users(timed_out.user_message)


def test_error_event_is_emitted(timed_out: RunResult) -> None:
    """The stage's event carries code, text, category and whether to retry; the run's repeats it."""
    failed = only(timed_out.events, "stage.llm.failed").data
    assert failed["error_code"] == "operation_timeout"
    assert "no answer from 'llm' within 5000 ms" in failed["error_message"]
    assert failed["error_category"] == "transient"
    assert failed["retryable"] is True
    ended = timed_out.events[-1]
    assert ended.type == "pipeline.failed"
    assert (ended.data["failed_stage"], ended.data["error_code"]) == ("llm", "operation_timeout")


def test_timeout_is_logged_with_context(caplog: pytest.LogCaptureFixture) -> None:
    """One record at ERROR has the stage, the pipeline, the run and the error's code and message."""
    result = taken(inject_fault("llm", FaultType.TIMEOUT, duration_ms=5000))
    with caplog.at_level(logging.ERROR):
        LoggingSink().write(result.events)
    (record,) = caplog.records
    known: dict[str, Any] = vars(record)
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("stage llm failed: ")
    assert "no answer from 'llm' within 5000 ms" in record.getMessage()
    assert (known["stage"], known["pipeline"]) == ("llm", "voice")
    assert known["pipeline_run_id"] == known["correlation_id"] == result.pipeline_run_id
    assert known["duration_ms"] == pytest.approx(5000)
    assert known["error_code"] == "operation_timeout"


def test_an_invalid_reply_differs_from_a_bug() -> None:
    """The error shows what the model sent, cut to a length that a log can bear."""
    result = taken(inject_fault("llm", FaultType.INVALID, reply=["x" * 10_000]))
    assert "the language model answered with no text: ['xxx" in str(result.error)
    assert len(str(result.error)) < 200


@pytest.mark.parametrize(
    ("fault_type", "code"),
    [
        (FaultType.EMPTY, "invalid_reply"),
        (FaultType.INVALID, "invalid_reply"),
        (FaultType.ERROR, "service_unavailable"),
    ],
)
@pytest.mark.simulate(order="asyncio")
async def test_a_chat_fails_as_kindly(fault_type: FaultType, code: str) -> None:
    """The chat kernel, too, takes nothing for an answer that is none, and names its model."""
    breaker = BreakerInterceptor(BreakerRegistry(BreakerPolicy(failures=2)))
    orchestrator = PipelineOrchestrator(chat().build(), interceptors=[breaker])
    codes = []
    with inject_fault("llm", fault_type):
        for _ in range(3):
            ctx = PipelineContext({"text": "hi", "user_id": "ada"}, providers=providers())
            result = await orchestrator.run(ctx)
            assert is_fit_for_users(result.user_message)
            codes.append(result.failure.code if result.failure else None)
    assert codes == [code, code, "circuit_open"]


def test_the_turn_after_the_fault_is_well() -> None:
    """With the fault gone, the next turn is answered."""
    assert taken(inject_fault("llm", FaultType.ERROR)).failure is not None
    assert taken().unwrap()["answer"] == "You said: Hello?"
