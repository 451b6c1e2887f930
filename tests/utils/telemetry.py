"""Runs as a sink sees them, at times that a test chooses; and a process that writes telemetry."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from stageflow.events import EventBatch, EventLog
from stageflow.telemetry.sqlite import SQLiteSink

#: Noon of a day, in seconds since the epoch: the begin of an hour.
NOON_S = 1_767_268_800.0


def run_log(
    run_id: str,
    stages: Mapping[str, float | str],
    *,
    at_s: float = NOON_S,
    pipeline: str = "p",
) -> EventLog:
    """A run whose stages follow one another.

    Args:
        run_id: Its id.
        stages: For each stage how long it takes, in milliseconds; or the code of the error with
            which it fails at once, and the run with it.
        at_s: When it begins.
        pipeline: Its pipeline.
    """
    log, now_s, code = EventLog(run_id, 0.0, at_s), 0.0, None
    log.append(("pipeline.started", 0.0, None, {"pipeline": pipeline, "correlation_id": None}))
    for name, takes in stages.items():
        log.append((f"stage.{name}.started", now_s, name, None))
        if isinstance(takes, str):
            code = takes
            log.append((f"stage.{name}.failed", now_s, name, _failure(0.0, code)))
            break
        began_s, now_s = now_s, now_s + takes / 1000.0
        log.append((f"stage.{name}.completed", now_s, name, began_s))
    ending: dict[str, Any] = {"duration_ms": now_s * 1000.0}
    if code is not None:
        ending = {**_failure(now_s * 1000.0, code), "failed_stage": name}
    log.append((f"pipeline.{'completed' if code is None else 'failed'}", now_s, None, ending))
    return log


def _failure(duration_ms: float, code: str) -> dict[str, Any]:
    return {"duration_ms": duration_ms, "error_code": code, "error_message": f"it was {code}"}


def batch(*logs: EventLog) -> EventBatch:
    """All events of some runs, one run after another."""
    return EventBatch([(log, position) for log in logs for position in range(len(log))])


def write(path: str, source: str, batches: int | None, each: int) -> None:
    """Write batches of runs, saying after each that it is in the file.

    Args:
        path: The file.
        source: Name of this process, part of the ids of its runs.
        batches: How many; None: until somebody ends the process.
        each: How many runs a batch has.
    """
    sink, number = SQLiteSink(path, source=source, busy_timeout_s=60.0), 0
    while batches is None or number < batches:
        runs = (run_log(f"{source}/{number}/{n}", {"a": 10.0, "b": 20.0 + n}) for n in range(each))
        sink.write(batch(*runs))
        number += 1
        os.write(1, f"{json.dumps(number)}\n".encode())
    sink.close()


def sink_of(path: Any, logs: Iterable[EventLog] = (), source: str = "here") -> SQLiteSink:
    """A sink that has written some runs, one batch a run."""
    sink = SQLiteSink(path, source=source)
    for log in logs:
        sink.write(batch(log))
    return sink


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
