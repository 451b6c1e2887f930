"""Runs as a sink sees them, at times that a test chooses; and a process that writes telemetry."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from stageflow.events import EventBatch, EventLog
from stageflow.telemetry import SQLiteSink

#: Noon of a day, in seconds since the epoch: the begin of an hour.
NOON_S = 1_767_268_800.0


def run_log(
    run_id: str,
    stages: Mapping[str, float | str],
    *,
    at_s: float = NOON_S,
    pipeline: str = "p",
    sounds: str | None = None,
) -> EventLog:
    """A run whose stages follow one another.

    Args:
        run_id: Its id.
        stages: For each stage how long it takes, in milliseconds; or the code of the error with
            which it fails at once, and the run with it.
        at_s: When it begins.
        pipeline: Its pipeline.
        sounds: The stage that reports the first audio at its end.
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
        if name == sounds:
            log.append((f"stage.{name}.first_audio", now_s, name, {}))
        log.append((f"stage.{name}.completed", now_s, name, began_s))
    ending: dict[str, Any] = {"duration_ms": now_s * 1000.0}
    if code is not None:
        ending = {**_failure(now_s * 1000.0, code), "failed_stage": name}
    log.append((f"pipeline.{'completed' if code is None else 'failed'}", now_s, None, ending))
    return log


def _failure(duration_ms: float, code: str) -> dict[str, Any]:
    return {"duration_ms": duration_ms, "error_code": code, "error_message": f"it was {code}"}


def voice_log(
    run_id: str,
    first_ms: float,
    *,
    at_s: float = NOON_S,
    pipeline: str = "streaming_voice",
    ends: bool = True,
) -> EventLog:
    """A turn that hears, and then makes sound sentence by sentence.

    Args:
        run_id: Its id.
        first_ms: When there is its first sound, in milliseconds; the stage ``stt`` takes a quarter
            of that, and ``tts`` the rest.
        at_s: When it begins.
        pipeline: Its pipeline.
        ends: Whether the stage, and the run with it, is there to its end, at eight times that;
            else both have failed at twice that.
    """
    log, first_s, code = EventLog(run_id, 0.0, at_s), first_ms / 1000.0, "provider_timeout"
    heard_s, end_s = first_s / 4, first_s * (8 if ends else 2)
    log.append(("pipeline.started", 0.0, None, {"pipeline": pipeline, "correlation_id": None}))
    log.append(("stage.stt.started", 0.0, "stt", None))
    log.append(("stage.stt.completed", heard_s, "stt", 0.0))
    log.append(("stage.tts.started", heard_s, "tts", None))
    log.append(("stage.tts.stream_opened", heard_s, "tts", {"stream": "sound"}))
    first = {"stream": "sound", "elapsed_ms": first_ms * 3 / 4}
    log.append(("stage.tts.first_audio", first_s, "tts", {}))
    log.append(("stage.tts.stream_first_item", first_s, "tts", first))
    closed = {"stream": "sound", "items": 3, "outcome": "completed" if ends else "failed"}
    log.append(("stage.tts.stream_closed", end_s, "tts", closed))
    # Sinks count the first one of a run alone.
    log.append(("stage.tts.first_audio", end_s, "tts", {}))
    if ends:
        log.append(("stage.tts.completed", end_s, "tts", heard_s))
        log.append(("pipeline.completed", end_s, None, {"duration_ms": end_s * 1000.0}))
    else:
        failed = _failure((end_s - heard_s) * 1000.0, code)
        log.append(("stage.tts.failed", end_s, "tts", failed))
        ending = {**_failure(end_s * 1000.0, code), "failed_stage": "tts"}
        log.append(("pipeline.failed", end_s, None, ending))
    return log


def change(at_s: float, provider: str, before: str, after: str) -> EventLog:
    """A run that is under way, in which a breaker has changed its state."""
    log = EventLog(f"{provider}{at_s}", 0.0, NOON_S + at_s)
    log.append(("pipeline.started", 0.0, None, {"pipeline": "p"}))
    data = {"provider": provider, "before": before, "after": after, "reason": "so"}
    log.append((f"stage.a.breaker_{after}", 0.0, "a", data))
    return log


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
