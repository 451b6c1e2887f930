"""A broken provider of a voice turn: the turn ends, in time, and with words for the user."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow import Audio
from stageflow.kernels import voice
from stageflow.testing import FaultType, inject_fault
from tests.fault.turns import HEALTHY_MS, LLM_MS, READ_MS, STT_MS, is_fit_for_users, statuses, taken
from tests.utils.assertions import assert_run_sound

#: What a turn takes before it calls the port.
BEFORE_MS = {"stt": 0.0, "llm": STT_MS + READ_MS, "tts": STT_MS + READ_MS + LLM_MS}
#: The kernel's own limits; a fault that lasts longer is cut by them.
LIMIT_MS = {"stt": 5_000.0, "llm": 15_000.0, "tts": 5_000.0}
LONG = {"duration_ms": 20_000}

#: Ports, a fault of them, the code of its error, and the time that it takes; None for the limit.
FAULTS: list[tuple[str, FaultType, dict[str, Any], str, float | None]] = [
    ("stt llm tts", FaultType.TIMEOUT, {"duration_ms": 2000}, "operation_timeout", 2000),
    ("stt llm tts", FaultType.TIMEOUT, LONG, "stage_timeout", None),
    ("stt llm tts", FaultType.SLOW, LONG, "stage_timeout", None),
    ("stt llm tts", FaultType.STALL, {}, "stage_timeout", None),
    ("stt llm tts", FaultType.ERROR, {}, "service_unavailable", 0),
    ("stt llm tts", FaultType.ERROR, {"status_code": 401}, "credentials_rejected", 0),
    ("stt llm tts", FaultType.ERROR, {"status_code": 400}, "request_rejected", 0),
    ("stt llm tts", FaultType.RATE_LIMITED, {}, "rate_limited", 0),
    ("stt llm tts", FaultType.DISCONNECT, {}, "connection_failed", 0),
    ("stt llm tts", FaultType.INVALID, {}, "invalid_reply", 0),
    ("stt llm tts", FaultType.INTERMITTENT, {"script": "fail"}, "service_unavailable", 0),
    ("llm tts", FaultType.EMPTY, {}, "invalid_reply", 0),
    ("llm", FaultType.EMPTY, {"reply": " \n"}, "invalid_reply", 0),
    ("llm", FaultType.CUT, {}, "connection_failed", LLM_MS),
    ("stt", FaultType.INVALID, {"reply": None}, "invalid_reply", 0),
    ("llm", FaultType.INVALID, {"reply": {"text": "hi"}}, "invalid_reply", 0),
    ("tts", FaultType.INVALID, {"reply": b"RIFF"}, "invalid_reply", 0),
    ("tts", FaultType.INVALID, {"reply": Audio("text")}, "invalid_reply", 0),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("port", "fault_type", "options", "code", "after_ms"),
    [(port, *fault) for ports, *fault in FAULTS for port in ports.split()],
)
def test_each_fault_has_its_code_its_time_and_words_for_the_user(
    port: str, fault_type: FaultType, options: dict[str, Any], code: str, after_ms: float | None
) -> None:
    """The run fails where the port is called, and what was answered by then can still be shown."""
    fault = inject_fault(port, fault_type, **options)
    result = taken(fault)
    assert_run_sound(voice(), result)
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == (code, port)
    lasted_ms = LIMIT_MS[port] if after_ms is None else after_ms
    assert result.duration_ms == pytest.approx(BEFORE_MS[port] + lasted_ms)
    assert result.outputs.get("answer") == ("You said: Hello?" if port == "tts" else None)
    assert statuses(result)["persist"] == "skipped"
    assert is_fit_for_users(result.user_message)
    assert fault.injected == 1


@pytest.mark.parametrize("port", ["stt", "llm", "tts"])
def test_a_slow_provider_costs_only_time(port: str) -> None:
    """One that is slow within its limit makes the turn late by as much, and no more."""
    result = taken(inject_fault(port, FaultType.SLOW, duration_ms=900))
    assert result.unwrap()["answer"] == "You said: Hello?"
    assert result.unwrap()["speech"].duration_s > 0
    assert result.duration_ms == pytest.approx(HEALTHY_MS + 900)


def test_corrupt_sound_never_reaches_the_user() -> None:
    """Sound that ends within a sample is not an output, and the error counts its bytes."""
    result = taken(inject_fault("tts", FaultType.INVALID))
    assert "speech" not in result.outputs
    assert "3 bytes of PCM" in str(result.error)
