"""Run a steady load of turns for a minute or more, and check that the process does not grow.

Turns start at fixed times, whether earlier ones have ended or not, as independent callers do. A
turn's latency counts from when it should have started, so a process that falls behind cannot hide
it. Memory, tasks and open files are read once a second; at the end they must be back where they
began.

exit codes: 0, the load was carried and nothing grew; 1, it was not; 2, bad arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import itertools
import json
import math
import statistics
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import stageflow as sf
from benchmarks._lib.support import run
from benchmarks._lib.turns import chat_inputs, instant_providers, kernel, voice_inputs
from stageflow.pulse.history import add_line, circumstances

RATE_HZ = 500.0
SECONDS = 60.0
#: The share of the asked turns that must have ended by the end, and the growth of memory allowed.
CARRIED = 0.99
GROWTH = 0.05
#: The first part of the time is left out of what memory is compared with: caches fill.
WARM_UP = 0.2
_DESCRIPTORS = Path("/proc/self/fd")
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Reading:
    """The process at one moment: resident memory in bytes, tasks, open files, turns under way."""

    memory_bytes: int
    tasks: int
    files: int
    under_way: int


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a load test.

    Attributes:
        asked: Turns that were started.
        ended: Turns that ended well.
        failed: Turns that failed.
        seconds: From the first start to the last end.
        latency_ms: P50, P95, P99 and the longest, in milliseconds from the time of the start.
        cpu_share: CPU time of this process, as a share of one core.
        memory_growth: Of the median in the last fifth beyond that after the warm-up, as a share.
        most_under_way: Turns under way at once.
        tasks, files: How many more there are at the end than at the beginning.
    """

    asked: int
    ended: int
    failed: int
    seconds: float
    latency_ms: dict[str, float]
    cpu_share: float
    memory_growth: float
    most_under_way: int
    tasks: int
    files: int

    def faults(self, rate_hz: float) -> list[str]:
        """Return what went wrong; empty if nothing did."""
        reached_hz = self.ended / self.seconds
        return [
            text
            for text, wrong in (
                (f"{self.failed} turns failed", self.failed > 0),
                (
                    f"{reached_hz:.0f} turns a second of {rate_hz:g} were carried",
                    reached_hz < CARRIED * rate_hz,
                ),
                (
                    f"memory grew by {self.memory_growth:.1%}, at most {GROWTH:.0%} is allowed",
                    self.memory_growth > GROWTH,
                ),
                (f"{self.tasks} tasks were left behind", self.tasks != 0),
                (f"{self.files} files were left open", self.files != 0),
            )
            if wrong
        ]


async def carry(
    turns: Sequence[Callable[[], Awaitable[sf.RunResult]]],
    rate_hz: float,
    seconds: float,
    tell: Callable[[str], None],
) -> Report:
    """Start the turns in rotation, `rate_hz` times a second, and watch the process."""
    loop = asyncio.get_running_loop()
    # All of it at once: what grows with the turns would pass for a leak of theirs.
    latencies_ms = array("d", bytes(8 * (math.ceil(rate_hz * seconds) + 1)))
    done = failed = 0
    under_way: set[asyncio.Task[None]] = set()

    async def one(turn: Callable[[], Awaitable[sf.RunResult]], due_s: float) -> None:
        nonlocal done, failed
        result = await turn()
        latencies_ms[done] = (loop.time() - due_s) * 1_000.0
        done += 1
        failed += result.error is not None

    gc.collect()
    before, readings = _reading(0), []
    cpu_before, began_s = time.process_time(), loop.time()
    next_look_s = began_s + 1.0
    for number, turn in zip(itertools.count(), itertools.cycle(turns), strict=False):
        due_s = began_s + number / rate_hz
        if due_s - began_s >= seconds:
            break
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        task = asyncio.ensure_future(one(turn, due_s))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        if loop.time() >= next_look_s:
            readings.append(_reading(len(under_way)))
            tell(f"{loop.time() - began_s:.0f} s: {done} turns, {readings[-1]}")
            next_look_s += 1.0
    asked = number
    await asyncio.gather(*under_way)
    took_s, cpu_s = loop.time() - began_s, time.process_time() - cpu_before
    gc.collect()
    after = _reading(0)
    return Report(
        asked=asked,
        ended=done - failed,
        failed=failed,
        seconds=took_s,
        latency_ms=_percentiles(latencies_ms[:done]),
        cpu_share=cpu_s / took_s,
        memory_growth=_growth([reading.memory_bytes for reading in readings]),
        most_under_way=max((reading.under_way for reading in readings), default=0),
        tasks=after.tasks - before.tasks,
        files=after.files - before.files,
    )


def _reading(under_way: int) -> Reading:
    memory = int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    files = sum(1 for _ in _DESCRIPTORS.iterdir())
    return Reading(memory, len(asyncio.all_tasks()), files, under_way)


def _percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(latencies_ms)}


def _growth(memory_bytes: Sequence[int]) -> float:
    """How far the last fifth lies above the one after the warm-up; 0 of less than ten readings."""
    part = len(memory_bytes) // 5
    if part < 2:
        return 0.0
    warm = int(len(memory_bytes) * WARM_UP)
    first, last = memory_bytes[warm : warm + part], memory_bytes[-part:]
    return statistics.median(last) / statistics.median(first) - 1.0


def turns_in_rotation() -> list[Callable[[], Awaitable[sf.RunResult]]]:
    """A voice turn and a chat turn, whose providers answer at once."""

    def turn(name: str, inputs: dict[str, object]) -> Callable[[], Awaitable[sf.RunResult]]:
        pipeline = kernel(name)
        return lambda: pipeline.run(sf.PipelineContext(inputs, providers=instant_providers()))

    return [turn("voice", voice_inputs()), turn("chat", chat_inputs())]


def main(argv: Sequence[str] | None = None) -> int:
    """Carry a load and report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rate", type=float, default=RATE_HZ, metavar="HZ", help="turns a second")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="how long")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    parser.add_argument("--record", type=Path, metavar="FILE", help="add it there as a line, too")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.rate <= 1e6 or not 0 < arguments.seconds <= 1e6:
        parser.error("--rate and --seconds are positive numbers")
    if not _STATM.exists():
        parser.error(f"memory and files are read from {_STATM.parent}, which Linux has")
    turns = turns_in_rotation()
    found = run(carry(turns, arguments.rate, arguments.seconds, _tell))
    faults = found.faults(arguments.rate)
    content = {**dataclasses.asdict(found), "rate_hz": arguments.rate, "faults": faults}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if arguments.record is not None:
        about = circumstances(Path(__file__).parent)
        add_line(arguments.record, {"version": 1, **about, **content})
    for name, value in dataclasses.asdict(found).items():
        sys.stdout.write(f"{name:15} {value}\n")
    sys.stdout.write("; ".join(faults) + "\n" if faults else "carried, and nothing grew\n")
    return 1 if faults else 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
