"""Which series there are: the benchmarks that asv finds in a folder, and the timed works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate.series import TIMED_UNIT, series_of, timed
from stageflow.pulse.gate.worker import Worker

#: asv's own discovery, in a process of its own: benchmarks are code.
_DISCOVER = """\
import sys
from asv_runner.discovery import list_benchmarks
with open(sys.argv[2], "w", encoding="utf-8") as file:
    list_benchmarks(sys.argv[1], file)
"""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What can be measured.

    Attributes:
        benchmarks: asv's description of each benchmark, by name.
        works: The works that are timed in pairs.
    """

    benchmarks: Mapping[str, Mapping[str, Any]]
    works: tuple[str, ...]

    @property
    def units(self) -> dict[str, str]:
        """The unit of every series."""
        found = {
            series: str(benchmark["unit"])
            for name, benchmark in self.benchmarks.items()
            for series in series_of(name, benchmark["params"])
        }
        return found | {timed(work): TIMED_UNIT for work in self.works}


def discover(benchmarks: Path, tree: Path) -> Catalogue:
    """List what the folder `benchmarks` can measure of the package in `tree`.

    Raises:
        PulseError: The benchmarks cannot be imported, or there is no worker.
    """
    with tempfile.TemporaryDirectory(prefix="gate-") as temporary:
        listed = Path(temporary) / "benchmarks.json"
        done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
            [sys.executable, "-P", "-c", _DISCOVER, str(benchmarks), str(listed)],
            check=False,
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise PulseError(f"the benchmarks in {benchmarks} cannot be listed:\n{tail}")
        found = json.loads(listed.read_text(encoding="utf-8"))
    with Worker(benchmarks, tree) as worker:
        works = worker.works
    return Catalogue({benchmark["name"]: benchmark for benchmark in found}, works)
