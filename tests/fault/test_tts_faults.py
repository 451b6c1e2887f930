"""Broken text to speech: the answer exists, cannot be said, and is kept on the result."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow import Audio
from stageflow.kernels import voice
from stageflow.testing import FaultType, inject_fault
from tests.fault.turns import HEALTHY_MS, LLM_MS, READ_MS, STT_MS, is_fit_for_users, statuses, taken
from tests.utils.assertions import assert_run_sound, only

BEFORE_MS = STT_MS + READ_MS + LLM_MS
LIMIT_MS = 5_000.0  # the kernel's own limit for speech


@pytest.mark.parametrize(
    ("fault_type", "options", "code", "after_ms"),
    [
        (FaultType.TIMEOUT, {"duration_ms": 2000}, "operation_timeout", 2000),
        (FaultType.TIMEOUT, {"duration_ms": 9000}, "stage_timeout", LIMIT_MS),
        (FaultType.STALL, {}, "stage_timeout", LIMIT_MS),
        (FaultType.ERROR, {}, "service_unavailable", 0),
        (FaultType.RATE_LIMITED, {}, "rate_limited", 0),
        (FaultType.DISCONNECT, {}, "connection_failed", 0),
        (FaultType.EMPTY, {}, "invalid_reply", 0),
        (FaultType.INVALID, {}, "invalid_reply", 0),
        (FaultType.INVALID, {"reply": b"RIFF"}, "invalid_reply", 0),
        (FaultType.INVALID, {"reply": Audio("text")}, "invalid_reply", 0),  # type: ignore[arg-type]
    ],
)
def test_each_fault_has_its_code_its_time_and_words_for_the_user(
    fault_type: FaultType, options: dict[str, Any], code: str, after_ms: float
) -> None:
    """The run fails at the last required step, and what was answered can still be shown."""
    result = taken(inject_fault("tts", fault_type, **options))
    assert_run_sound(voice(), result)
    assert only(result.events, "stage.tts.failed").data["error_code"] == code
    assert result.duration_ms == pytest.approx(BEFORE_MS + after_ms)
    assert result.outputs["answer"] == "You said: Hello?"
    assert statuses(result)["persist"] == "skipped"
    assert is_fit_for_users(result.user_message)


def test_corrupt_sound_never_reaches_the_user() -> None:
    """Sound that ends within a sample is not an output, and the error counts its bytes."""
    result = taken(inject_fault("tts", FaultType.INVALID))
    assert "speech" not in result.outputs
    assert "3 bytes of PCM" in str(result.error)


def test_slow_speech_costs_only_time() -> None:
    """Speech that is slow within its limit makes the turn late by as much."""
    result = taken(inject_fault("tts", FaultType.SLOW, duration_ms=700))
    assert result.duration_ms == pytest.approx(HEALTHY_MS + 700)
    assert result.unwrap()["speech"].duration_s > 0
