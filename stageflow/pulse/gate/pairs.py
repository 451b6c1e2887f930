"""Time two commits in turn, so that what disturbs the machine disturbs both.

Workers are restarted several times, since processes differ by the layout of their memory.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stageflow._utils.files import atomic_write
from stageflow.pulse.errors import TooFewSamplesError, WorkerFailedError
from stageflow.pulse.gate.judge import Side, Timing
from stageflow.pulse.gate.worker import Block, Worker
from stageflow.pulse.history import UNREADABLE, Interval, median_interval, timed

VERSION = 1
PROCESSES = 4
PAIRS = 3
BLOCK_S = 0.03
#: How many samples of one block are kept at most.
KEPT_A_BLOCK = 250
#: A loop of fewer turns is too short to say how fast one is.
_TURNS = 100


@dataclass
class TimedSide:
    """One side of a run: a block for each pair, or its error, or what the commit lacks for it."""

    blocks: list[Block] = field(default_factory=list)
    error: str | None = None
    missing: tuple[str, ...] = ()


#: Base and head.
Both = tuple[TimedSide, TimedSide]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The paired timings of two commits by operation, their confirmations, and their file.

    Timings of another `digest` of the benchmarks are not used.
    """

    path: Path
    digest: str
    first: dict[str, Both] = field(default_factory=dict)
    second: dict[str, Both] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, digest: str | None) -> Pairs:
        """Read the file; return no timings if it is unreadable or of another digest than given."""
        with suppress(*UNREADABLE):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] == VERSION and digest in (None, content["digest"]):
                first, second = (
                    {name: (side_of(base), side_of(head)) for name, (base, head) in kept.items()}
                    for kept in (content["first"], content["second"])
                )
                return cls(path, content["digest"], first, second)
        return cls(path, digest or "")

    def save(self, base: str, head: str, machine: str) -> None:
        """Write the file atomically."""
        content: dict[str, Any] = {"version": VERSION, "digest": self.digest, "machine": machine}
        content |= {"base": base, "head": head}
        content["at"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        for key, found in (("first", self.first), ("second", self.second)):
            content[key] = {name: [asdict(run) for run in both] for name, both in found.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            json.dump(content, file)

    def timings(self) -> dict[str, Timing]:
        """Return what the judge reads, by series."""
        return {
            timed(operation): timing_of(both, self.second.get(operation))
            for operation, both in self.first.items()
        }


def time_pairs(
    benchmarks: Path,
    trees: tuple[Path, Path],
    operations: Sequence[str],
    emit: Callable[[str], None],
    processes: int = PROCESSES,
    *,
    beside_loop: bool = False,
) -> dict[str, Both]:
    """Time operations on two commits in turn.

    Args:
        benchmarks: The folder of the benchmarks.
        trees: Where the packages of base and head are.
        operations: Their names.
        emit: Gets the progress.
        processes: How often both workers are started.
        beside_loop: Whether to time loops beside the head, to measure what the machine loses.
    """
    found: dict[str, Both] = {operation: (TimedSide(), TimedSide()) for operation in operations}
    loop = IdleLoop() if beside_loop else None
    for process in range(processes):
        count = f"{len(operations)} operation{'s' * (len(operations) > 1)}"
        emit(f"Timing {count} in pairs, process {process + 1} of {processes}")
        left = [*operations]
        while left:  # one that ends its worker leaves the others to new ones
            with (
                Worker(benchmarks, trees[0]) as base,
                Worker(benchmarks, trees[1]) as head,
                suppress(WorkerFailedError),  # kept as the error of the operation that ended it
            ):
                while left:
                    operation = left.pop(0)
                    for run, worker in zip(found[operation], (base, head), strict=True):
                        run.missing = worker.missing.get(operation, ())
                    for pair in range(PAIRS):
                        order = (1, 0) if (process + pair) % 2 else (0, 1)
                        _pair(operation, found[operation], (base, head), order, loop)
    return found


def _pair(
    operation: str,
    both: Both,
    workers: tuple[Worker, Worker],
    order: tuple[int, int],
    loop: IdleLoop | None,
) -> None:
    if any(run.error is not None for run in both):
        return
    failed: WorkerFailedError | None = None
    for index in order:
        run = both[index]
        if run.missing:
            continue
        try:
            answer = workers[index].run(operation, BLOCK_S)
        except WorkerFailedError as error:
            answer, failed = str(error).splitlines()[-1], error
        if isinstance(answer, str):
            run.error = answer
            continue
        run.missing = workers[index].missing.get(operation, ())
        if run.missing:
            continue
        thinned = answer.wall_ns[:: math.ceil(len(answer.wall_ns) / KEPT_A_BLOCK)]
        # Each loop is as long as a call, which may do many operations.
        call_ns = answer.cpu_ns * answer.per_call
        lost = loop.lost_ns(call_ns, len(thinned)) if loop and index else ()
        lost_ns = tuple(ns / answer.per_call for ns in lost)
        run.blocks.append(Block(thinned, answer.cpu_ns, lost_ns))
    if failed:
        raise failed


@dataclass(slots=True)
class IdleLoop:
    """A loop that does nothing but look at the clock, and its fastest turn, in CPU time."""

    fastest_ns: float = math.inf

    def lost_ns(self, length_ns: float, count: int) -> tuple[float, ...]:
        """Return by how much `count` loops of so much CPU time exceed as many fastest turns."""
        lost = []
        for _ in range(count):
            wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            used_ns = turns = 0
            while used_ns < length_ns:
                used_ns = time.thread_time_ns() - cpu_ns
                turns += 1
            wall_ns = time.perf_counter_ns() - wall_ns
            if turns > _TURNS:
                self.fastest_ns = min(self.fastest_ns, used_ns / turns)
            lost.append(max(0.0, wall_ns - min(used_ns, turns * self.fastest_ns)))
        return tuple(lost)


def timing_of(first: Both, second: Both | None = None) -> Timing:
    """Return what the judge reads of an operation, and of its confirmation if there was one."""
    base, head = first
    return Timing(
        base=_side(base),
        head=_side(head),
        cpu=_interval(first),
        confirmation=None if second is None else _interval(second),
        again=None if second is None else _side(second[1]),
    )


def _side(run: TimedSide) -> Side:
    wall_ns = tuple(ns for block in run.blocks for ns in block.wall_ns)
    lost_ns = tuple(ns for block in run.blocks for ns in block.lost_ns)
    return Side(wall_ns, lost_ns, run.error, run.missing)


def _interval(both: Both) -> Interval | None:
    base, head = ([block.cpu_ns for block in run.blocks] for run in both)
    try:
        return median_interval([h / b for b, h in zip(base, head, strict=False) if b > 0])
    except TooFewSamplesError:
        return None


def side_of(content: Mapping[str, Any]) -> TimedSide:
    """Return one side of a run, as it was kept."""
    blocks = [
        Block(_times(one["wall_ns"]), _times([one["cpu_ns"]])[0], _times(one.get("lost_ns", ())))
        for one in content["blocks"]
    ]
    return TimedSide(blocks, content["error"], tuple(content["missing"]))


def _times(values: Sequence[Any]) -> tuple[float, ...]:
    found = tuple(map(float, values))
    if not all(map(math.isfinite, found)):
        raise ValueError("a time is not finite")
    return found
