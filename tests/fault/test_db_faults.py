"""A broken database: the user is answered all the same, without memory and without delay."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow import PipelineOrchestrator, ProviderRegistry, RunResult
from stageflow.kernels import voice
from stageflow.testing import FaultType, inject_fault
from tests.fault.turns import (
    HEALTHY_MS,
    LLM_MS,
    STT_MS,
    TTS_MS,
    context,
    providers,
    statuses,
    taken,
)
from tests.utils.assertions import assert_run_sound

ANSWER_MS = STT_MS + LLM_MS + TTS_MS
READ_LIMIT_MS, WRITE_LIMIT_MS = 1_000.0, 2_000.0  # the kernel's own limits


@pytest.mark.parametrize(
    ("fault_type", "options", "code", "read_ms", "write_ms"),
    [
        (FaultType.DISCONNECT, {}, "connection_failed", 0, 0),
        (FaultType.ERROR, {}, "service_unavailable", 0, 0),
        (FaultType.ERROR, {"sqlstate": "55P03"}, "database_busy", 0, 0),
        (FaultType.ERROR, {"sqlstate": "53100"}, "storage_failed", 0, 0),
        (FaultType.TIMEOUT, {"duration_ms": 300}, "operation_timeout", 300, 300),
        (FaultType.STALL, {}, "stage_timeout", READ_LIMIT_MS, WRITE_LIMIT_MS),
        (FaultType.INVALID, {}, "invalid_reply", 0, 0),
        (FaultType.INVALID, {"reply": {"turns": "none"}}, "invalid_reply", 0, 0),
    ],
)
def test_user_is_answered_without_a_database(
    fault_type: FaultType,
    options: dict[str, Any],
    code: str,
    read_ms: float,
    write_ms: float,
) -> None:
    """Each fault of it costs the turn its memory, and at most the kernel's time limits."""
    result = taken(inject_fault("db", fault_type, **options))
    assert_run_sound(voice(), result)
    assert result.unwrap()["answer"] == "You said: Hello?"
    lost = {name for name, status in statuses(result).items() if status == "failed"}
    assert {"memory", "persist"} <= lost <= {"profile", "memory", "persist"}
    assert {result.stages[name].detail["error_code"] for name in lost} == {code}
    assert result.duration_ms == pytest.approx(ANSWER_MS + read_ms + write_ms)


def test_a_slow_database_costs_only_time() -> None:
    """Two overlapping reads, and a read and a write at the end: three delays in a row."""
    result = taken(inject_fault("db", FaultType.SLOW, duration_ms=400))
    assert set(statuses(result).values()) == {"completed"}
    assert result.duration_ms == pytest.approx(HEALTHY_MS + 3 * 400)


def test_an_empty_database_is_a_new_user() -> None:
    """A missing record is not a failure: there is no profile and no history yet."""
    result = taken(inject_fault("db", FaultType.EMPTY))
    assert statuses(result)["profile"] == "skipped"
    assert result.unwrap()["history"] == []


async def _turn(registry: ProviderRegistry, text: str) -> RunResult:
    return await PipelineOrchestrator(voice().build()).run(context(registry, text))


@pytest.mark.simulate(order="asyncio")
async def test_a_torn_record_is_not_overwritten() -> None:
    """An unreadable record stays as it is: the conversation is complete when the fault is gone."""
    registry = providers()
    await _turn(registry, "one")
    with inject_fault("db", FaultType.INVALID):
        await _turn(registry, "two")
    assert [turn["user"] for turn in (await _turn(registry, "three")).outputs["history"]] == ["one"]
