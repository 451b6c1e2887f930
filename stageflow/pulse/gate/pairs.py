"""Two commits do the same work in turn: what disturbs the machine disturbs both.

Each ratio is of two blocks that lie side by side in time. Workers are started anew several times,
since processes differ by how their memory lies. Everything measured is kept.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stageflow.pulse.errors import TooFewSamplesError
from stageflow.pulse.gate.evidence import Side, Timing
from stageflow.pulse.gate.samples import Interval, median_interval
from stageflow.pulse.gate.series import timed
from stageflow.pulse.gate.worker import Block, Worker
from stageflow.pulse.whole_file import whole_file

VERSION = 1
PROCESSES = 4
PAIRS = 3
BLOCK_S = 0.03
#: More samples of one block than these say nothing new, and fill the disk.
KEPT_A_BLOCK = 250


@dataclass
class Run:
    """What one side of one run gave.

    Attributes:
        blocks: One a pair.
        error: How the work broke, if it did.
        missing: What the commit lacks for it.
    """

    blocks: list[Block] = field(default_factory=list)
    error: str | None = None
    missing: tuple[str, ...] = ()


#: Base and head.
Both = tuple[Run, Run]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The paired timings of two commits, and the file that keeps them.

    Attributes:
        path: The file.
        digest: Of what they were made with; timings of another digest are not used.
        first: By work.
        second: The confirmations, by work.
    """

    path: Path
    digest: str
    first: dict[str, Both] = field(default_factory=dict)
    second: dict[str, Both] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, digest: str | None) -> Pairs:
        """Read what was kept; empty if nothing was, or was made otherwise (None: any will do)."""
        # Whatever cannot be read is made anew.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] == VERSION and digest in (None, content["digest"]):
                first, second = (
                    {
                        work: (run_of(base), run_of(head))
                        for work, (base, head) in content[key].items()
                    }
                    for key in ("first", "second")
                )
                return cls(path, content["digest"], first, second)
        return cls(path, digest or "")

    def save(self, base: str, head: str, machine: str) -> None:
        """Keep everything, in one step."""
        content = {
            "version": VERSION,
            "digest": self.digest,
            "base": base,
            "head": head,
            "machine": machine,
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "first": {work: [asdict(run) for run in both] for work, both in self.first.items()},
            "second": {work: [asdict(run) for run in both] for work, both in self.second.items()},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as file:
            json.dump(content, file)

    def timings(self) -> dict[str, Timing]:
        """What the judge reads, by series."""
        return {
            timed(work): timing(both, self.second.get(work)) for work, both in self.first.items()
        }


def measure(
    benchmarks: Path,
    trees: tuple[Path, Path],
    works: Sequence[str],
    emit: Callable[[str], None],
    processes: int = PROCESSES,
) -> dict[str, Both]:
    """Time works on two commits in turn.

    Args:
        benchmarks: The folder of the benchmarks.
        trees: Where the package of the base is, and that of the head.
        works: Their names.
        emit: Is told the progress.
        processes: How often both workers are started anew.

    Raises:
        WorkerFailedError: A worker did not start, or ended.
    """
    found: dict[str, Both] = {work: (Run(), Run()) for work in works}
    for process in range(processes):
        emit(f"Timing {len(works)} works in pairs, process {process + 1} of {processes}")
        with Worker(benchmarks, trees[0]) as base, Worker(benchmarks, trees[1]) as head:
            for work in works:
                for run, worker in zip(found[work], (base, head), strict=True):
                    run.missing = worker.missing.get(work, ())
                for pair in range(PAIRS):
                    _pair(work, found[work], (base, head), head_first=(process + pair) % 2 == 1)
    return found


def _pair(work: str, both: Both, workers: tuple[Worker, Worker], *, head_first: bool) -> None:
    """Let both sides do one block each, unless one of them cannot."""
    if any(run.error is not None for run in both):
        return
    for index in (1, 0) if head_first else (0, 1):
        run = both[index]
        if run.missing:
            continue
        answer = workers[index].run(work, BLOCK_S)
        if isinstance(answer, str):
            run.error = answer
        else:
            run.blocks.append(Block(_thinned(answer.wall_ns), answer.cpu_ns))


def _thinned(samples: tuple[float, ...]) -> tuple[float, ...]:
    return samples[:: math.ceil(len(samples) / KEPT_A_BLOCK)]


def timing(first: Both, second: Both | None = None) -> Timing:
    """What the judge reads of a work, and of its confirmation if there was one."""
    base, head = first
    return Timing(
        base=_side(base),
        head=_side(head),
        cpu=_interval(first, lambda block: block.cpu_ns),
        wall=_interval(first, lambda block: statistics.median(block.wall_ns)),
        confirmation=None if second is None else _interval(second, lambda block: block.cpu_ns),
    )


def _side(run: Run) -> Side:
    return Side(tuple(ns for block in run.blocks for ns in block.wall_ns), run.error, run.missing)


def _interval(both: Both, cost: Callable[[Block], float]) -> Interval | None:
    base, head = ([cost(block) for block in run.blocks] for run in both)
    try:
        return median_interval(_ratios(zip(base, head, strict=False)))
    except TooFewSamplesError:
        return None


def _ratios(costs: Iterable[tuple[float, float]]) -> list[float]:
    return [head / base for base, head in costs if base > 0]


def run_of(content: Mapping[str, Any]) -> Run:
    """What one side of one run gave, as it was kept."""
    blocks = [Block(tuple(block["wall_ns"]), block["cpu_ns"]) for block in content["blocks"]]
    return Run(blocks, content["error"], tuple(content["missing"]))
