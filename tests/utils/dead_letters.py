"""Dead letters, and the stores that the tests of dead letters share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stageflow import Event, StageStatus
from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.dlq import (
    DeadLetter,
    DeadLetterStore,
    FailureRecord,
    InMemoryDeadLetterStore,
    SQLiteDeadLetterStore,
    StageRecord,
)

STORES = ("memory", "sqlite")

NOON = 1_000_000.0


class Clock:
    """A wall clock that a test moves on by hand."""

    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s


def make_letter(number: int = 1, **fields: Any) -> DeadLetter:
    """A letter of a pipeline ``shop`` whose stage ``pay`` failed after ``pick`` had finished."""
    at = datetime(2026, 1, 2, 3, 4, 5, number, tzinfo=UTC)
    given: dict[str, Any] = {
        "id": f"{number:032x}",
        "created_at": at,
        "pipeline": "shop",
        "pipeline_run_id": f"run-{number}",
        "correlation_id": "c-1",
        "failed_stage": "pay",
        "error": FailureRecord("refused", "permanent", "no money", "Sorry.", False, "bank"),
        "inputs": {"items": ["tea"]},
        "stages": {
            "pick": StageRecord(StageStatus.COMPLETED, True, None, {"picked": ("tea", b"\0")}),
            "pay": StageRecord(StageStatus.FAILED, False, "no money"),
        },
        "events": (Event(1, "pipeline.started", at, f"run-{number}", 0.0, None, {"a": {1, 2}}),),
        "seed": 7,
        "deadline_s": 2.5,
    }
    return DeadLetter(**{**given, **fields})


@asynccontextmanager
async def opened(
    kind: str, folder: Path, clock: Clock | None = None, codec: Codec = DEFAULT_CODEC
) -> AsyncIterator[DeadLetterStore]:
    """A new store of that kind, or the one that is in `folder`."""
    clock = clock if clock is not None else Clock()
    if kind == "memory":
        yield InMemoryDeadLetterStore(wall_clock=clock, codec=codec)
        return
    async with SQLiteDeadLetterStore(folder / "letters.db", wall_clock=clock, codec=codec) as store:
        yield store
