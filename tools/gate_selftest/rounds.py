"""Recorded rounds: all that the gate measures, of identical code, again and again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stageflow.pulse import PulseError
from stageflow.pulse.gate import (
    PROCESSES,
    Both,
    Catalogue,
    Evidence,
    Measured,
    TimedSide,
    Timing,
    Value,
    Worker,
    side_of,
    time_pairs,
    timing_of,
)
from stageflow.pulse.history import Signal, signal_of, timed

#: Pairs of processes a round; two rounds have as many as one run of the gate.
PROCESSES_A_ROUND = PROCESSES // 2


@dataclass(frozen=True)
class Round:
    """The measurements of one round.

    Attributes:
        values: Exact and counted series; NaN where something is lacking.
        timed: For each pair of processes, both sides by operation.
    """

    values: Mapping[str, float]
    timed: Sequence[Mapping[str, Both]]


@dataclass
class Pool:
    """Rounds that were recorded under one condition of the machine.

    Attributes:
        condition: ``quiet`` or ``loaded``.
        folder: Where rounds are kept, so that an interruption costs one. Those that are there are
            taken, so that several processes can record at once.
        rounds: The rounds.
        loads: The machine's load average after each round.
    """

    condition: str
    folder: Path | None = None
    rounds: list[Round] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    _taken: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.take_kept()

    def record(self, benchmarks: Path, tree: Path, found: Catalogue) -> None:
        """Record one more round, and keep it in the folder."""
        with load(self.condition == "loaded"):
            values = values_of(benchmarks, tree, judged(found))
            processes = [
                time_pairs(benchmarks, (tree, tree), found.operations, lambda _: None, processes=1)
                for _ in range(PROCESSES_A_ROUND)
            ]
            content = {
                "load": os.getloadavg()[0],
                "values": values,
                "timed": [
                    {
                        operation: [asdict(run) for run in both]
                        for operation, both in measured.items()
                    }
                    for measured in processes
                ],
            }
        if self.folder is None:
            self._take(content)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.condition}-{time.time_ns()}-{os.getpid()}.part"
        path.write_text(json.dumps(content), encoding="utf-8")
        path.rename(path.with_suffix(".json"))
        self.take_kept()

    def take_kept(self) -> None:
        """Take the rounds in the folder that are not taken yet."""
        for path in sorted(self.folder.glob(f"{self.condition}-*.json")) if self.folder else ():
            if path not in self._taken:
                self._taken.add(path)
                self._take(json.loads(path.read_text(encoding="utf-8")))

    def _take(self, content: Mapping[str, Any]) -> None:
        timed = [
            {operation: (side_of(base), side_of(head)) for operation, (base, head) in one.items()}
            for one in content["timed"]
        ]
        self.rounds.append(Round(content["values"], timed))
        self.loads.append(content["load"])

    def in_order(self) -> list[tuple[Round, Round, list[Mapping[str, Both]]]]:
        """The real comparisons: each round is in one of them."""
        both = list(zip(self.rounds[::2], self.rounds[1::2], strict=False))
        return [(base, head, [*base.timed, *head.timed]) for base, head in both]

    def drawn(self, chance: random.Random) -> tuple[Round, Round, list[Mapping[str, Both]]]:
        """A comparison of rounds drawn by chance.

        Counts of one round are independent of those of another, and pairs of processes of all
        others, so any two rounds and any four pairs of processes could have been one run.
        """
        base, head = chance.sample(self.rounds, 2)
        pool = [processes for one in self.rounds for processes in one.timed]
        return base, head, chance.sample(pool, PROCESSES)


def judged(found: Catalogue) -> list[str]:
    """The series that a single commit has a value of by which it is judged."""
    return [name for name in found.units if signal_of(name) in (Signal.EXACT, Signal.COUNTED)]


def values_of(benchmarks: Path, tree: Path, series: Sequence[str]) -> dict[str, float]:
    """Measure exact and counted series once.

    Raises:
        PulseError: One of them broke, or the machine was too busy to count it.
    """
    with Worker(benchmarks, tree) as worker:
        answers = worker.measure(series)
    ways = ("error", "late")
    broken = {n: found[way] for n, found in answers.items() for way in ways if way in found}
    if broken:
        raise PulseError(f"cannot be measured: {broken}")
    return {name: answer.get("value", float("nan")) for name, answer in answers.items()}


def evidence(
    units: Mapping[str, str],
    base: Mapping[str, float],
    head: Mapping[str, float],
    processes: Sequence[Mapping[str, Both]],
    confirming: Sequence[Mapping[str, Both]] = (),
) -> Evidence:
    """Return the input of the judge if these had been measured of two commits."""
    first, second = _together(processes), _together(confirming)
    timings: dict[str, Timing] = {
        timed(operation): timing_of(both, second.get(operation))
        for operation, both in first.items()
    }
    return Evidence(
        units=units,
        head=Measured("head", "here", {name: Value(value) for name, value in head.items()}),
        base=Measured("base", "here", {name: Value(value) for name, value in base.items()}),
        timings=timings,
    )


def _together(processes: Sequence[Mapping[str, Both]]) -> dict[str, Both]:
    """The blocks of several pairs of processes as those of one run."""
    together: dict[str, Both] = {}
    for measured in processes:
        for operation, both in measured.items():
            into = together.setdefault(operation, (TimedSide(), TimedSide()))
            for run, more in zip(into, both, strict=True):
                run.blocks += more.blocks
    return together


#: Twice as many as there are processors, so that each of ours has to wait for its turn.
_BUSY_A_PROCESSOR = 2


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Keep every processor busy, if that is wanted."""
    count = _BUSY_A_PROCESSOR * (os.cpu_count() or 1) if wanted else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()
