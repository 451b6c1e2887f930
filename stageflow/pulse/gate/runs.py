"""The gate's own record: one line for each of its runs, in ``.asv/gate/runs.jsonl``."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.gate.judge import Exit
from stageflow.pulse.gate.measure import GATE_DIR
from stageflow.pulse.record_lines import add_line, read_lines

RUNS_FILE = "runs.jsonl"


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the gate that came to a verdict.

    Attributes:
        at: When it ended, in ISO 8601.
        base: The commit that the head was compared with; None for a first commit.
        head: The commit that was judged.
        exit: Its exit code.
        wall_s: How long it took, in seconds.
    """

    at: str
    base: str | None
    head: str
    exit: int
    wall_s: float

    @classmethod
    def now(cls, base: str | None, head: str, code: Exit, wall_s: float) -> Run:
        """A run that ends now."""
        at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return cls(at, base, head, int(code), round(wall_s, 3))


def record(root: Path, run: Run) -> None:
    """Add a run to the record of the repository in `root`."""
    add_line(root / GATE_DIR / RUNS_FILE, asdict(run))


def recorded(root: Path) -> tuple[list[Run], int]:
    """The recorded runs, oldest first, and how many lines are no such record."""
    return read_lines(root / GATE_DIR / RUNS_FILE, _run)


def _run(line: dict[str, Any]) -> Run:
    run = Run(**line)
    dt.datetime.fromisoformat(run.at)
    return run
