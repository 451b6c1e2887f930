"""The cost of writing telemetry to SQLite, and of reading it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.interleaved import interleaved
from benchmarks._lib.support import CpuTimed, charted, from_older_commits, requires, run, timed
from benchmarks._lib.workloads import pipeline

setup = requires("EventDispatcher", "telemetry.sqlite", "telemetry.store")

# An older commit may lack it; everything here is then skipped.
with contextlib.suppress(ImportError):
    from_older_commits("telemetry", SQLiteSink="sqlite", TelemetryStore="store", Window="store")
    from stageflow.events import EventBatch, EventLog
    from stageflow.telemetry import SQLiteSink, TelemetryStore, Window

#: 20 stages: 42 events.
GRAPH = "dense 4x5"
#: Twelve runs each 50 ms are 10,080 events a second.
RUNS, PERIOD_S = 12, 0.05
#: For so long, in periods: one second.
PERIODS = 20
ROUNDS = 3
#: How often a sink is given what has come: as usual, and when nobody watches live.
INTERVALS_S = (0.05, 0.25)

#: What is written at once: 2,520 events of 60 runs, as come together in a quarter of a second.
BATCH_RUNS = 60
#: What is read from: a run each eight minutes, for ten days.
READ_RUNS, APART_S = 1_800, 480.0


@functools.cache
def folder() -> Path:
    """Where the files are; removed at the end of the process."""
    made = Path(tempfile.mkdtemp(prefix="stageflow-bench-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def log_of(number: int, at_s: float) -> Any:
    """The events of a run of 20 stages that each take from 10 to 50 ms."""
    log, now_s = EventLog(f"{number:032x}", 0.0, at_s), 0.0
    log.append(("pipeline.started", 0.0, None, {"pipeline": "p", "correlation_id": "c"}))
    for stage in range(20):
        began_s, now_s = now_s, now_s + 0.01 + (number * 7 + stage * 13) % 41 / 1000.0
        log.append((f"stage.s{stage}.started", began_s, f"s{stage}", None))
        log.append((f"stage.s{stage}.completed", now_s, f"s{stage}", began_s))
    log.append(("pipeline.completed", now_s, None, {"duration_ms": now_s * 1000.0}))
    return log


def batch_of(first: int, runs: int, at_s: float, apart_s: float) -> Any:
    """The events of several runs, `apart_s` seconds apart."""
    logs = [log_of(first + n, at_s + n * apart_s) for n in range(runs)]
    return EventBatch([(log, position) for log in logs for position in range(len(log))])


@functools.cache
def sink(name: str) -> Any:
    """A sink into a file of that name; closed at the end of the process."""
    made = SQLiteSink(folder() / name)
    atexit.register(made.close)
    return made


@functools.cache
def batch() -> Any:
    """Return the events to write again and again, as runs with the same ids."""
    return batch_of(0, BATCH_RUNS, 1e9, 0.004)


@functools.cache
def store() -> Any:
    """A reader of 75,600 events."""
    writer = SQLiteSink(folder() / "read.db")
    for first in range(0, READ_RUNS, BATCH_RUNS):
        writer.write(batch_of(first, BATCH_RUNS, 1e9 + first * APART_S, APART_S))
    writer.close()
    opened = TelemetryStore(folder() / "read.db")
    atexit.register(opened.close)
    return opened


@functools.cache
def bound(interval_s: float | None) -> sf.PipelineOrchestrator:
    """Return an orchestrator; with an interval, a sink gets a batch each `interval_s`."""
    graph = pipeline(GRAPH).build()
    if interval_s is None:
        return sf.PipelineOrchestrator(graph)
    made = SQLiteSink(folder() / f"load-{interval_s}.db")
    dispatcher = sf.EventDispatcher([made], interval_s=interval_s)
    atexit.register(dispatcher.close)
    return sf.PipelineOrchestrator(graph, dispatcher=dispatcher)


async def load(orchestrator: sf.PipelineOrchestrator) -> None:
    """Runs that emit 10,080 events a second, and time for a sink to take the last of them."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for period in range(PERIODS):
        for _ in range(RUNS):
            (await orchestrator.run(sf.PipelineContext())).unwrap()
        await asyncio.sleep(began_s + (period + 1) * PERIOD_S - loop.time())
    await asyncio.sleep(2 * max(INTERVALS_S))


class Load:
    """The cost of telemetry in SQLite at 10,000 events a second, all threads included."""

    version = "1"
    timeout = 120.0
    params = INTERVALS_S
    param_names = ("interval_s",)
    unit = "percent of a core"

    def track_added_cpu(self, interval_s: float) -> dict[str, object]:
        """CPU time of the process, with a sink less without, by the time that the load lasts."""
        lasts_s = PERIODS * PERIOD_S
        works = [lambda at=at: run(load(bound(at))) for at in (interval_s, None)]
        pairs = interleaved(works, ROUNDS)
        return charted([(with_ - without) / lasts_s * 100.0 for with_, without in pairs])


class Writing(CpuTimed):
    """The cost of a batch for the sink's thread."""

    version = "1"
    timer = time.thread_time

    @timed
    def track_batch(self) -> None:
        """A batch of 2,520 events, the transaction included."""
        sink("write.db").write(batch())


class Reading(CpuTimed):
    """The queries of a dashboard over 75,600 events of ten days."""

    version = "2"

    @timed
    def track_latencies_of_ten_days(self) -> None:
        """Percentiles of 20 stages, from sums by the hour."""
        assert len(store().latencies(Window(1e9, 1e9 + 864_000))) == 21

    @timed
    def track_latencies_by_minute(self) -> None:
        """An hour of them in steps of five minutes, from sums by the minute."""
        assert store().latencies(Window(1e9, 1e9 + 3_600, 300))

    @timed
    def track_errors_by_hour(self) -> None:
        """Outcomes of 20 stages over ten days, in steps of an hour."""
        assert store().errors(Window(1e9, 1e9 + 864_000, 3_600))

    @timed
    def track_slowest_run(self) -> None:
        """One run of the highest bucket of ten days, with its events."""
        assert len(store().run_at(Window(1e9, 1e9 + 864_000), "p", 1.0).events) == 42


if __name__ == "__main__":
    without_asv.main()
