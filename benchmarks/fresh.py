"""What has to be measured in a fresh interpreter: imports, and the growth of memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import stageflow

_IMPORT = """\
import sys, time
sys.path.insert(0, sys.argv[1])
started_at = time.process_time_ns()
import {module}
print(time.process_time_ns() - started_at)
"""

_GROWTH = """\
import sys
sys.path[:0] = sys.argv[1:3]
from benchmarks.fresh import peak_bytes
from benchmarks.support import run
from benchmarks.workloads import {maker}, orchestrator, run_at_once

bound = orchestrator("dense 4x5", {maker})
run(run_at_once(bound, 1))
before = peak_bytes()
results = run(run_at_once(bound, {runs}))
assert all(result.error is None for result in results)
print(peak_bytes() - before)
"""

#: Where the package that is measured lies, and where this one does.
_PACKAGES = (str(Path(stageflow.__file__).parents[1]), str(Path(__file__).parents[1]))
_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The peak of this process's resident memory.

    Linux adds to ``ru_maxrss`` the peak of the process that started this one, so it is asked
    elsewhere there.
    """
    if _STATUS.exists():
        _, _, rest = _STATUS.read_text(encoding="ascii").partition("VmHWM:")
        return int(rest.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def import_seconds(module: str) -> float:
    """CPU time of ``import module`` in a fresh interpreter, the interpreter's start not counted."""
    return _ask(_IMPORT.format(module=module)) / 1e9


def growth_bytes(runs: int, *, suspend: bool = False) -> int:
    """How far the peak of resident memory rises while `runs` runs of 20 stages go on at once.

    The results of all runs, with their outputs and events, are kept until the last has ended.
    """
    maker = "suspending" if suspend else "no_op"
    return _ask(_GROWTH.format(runs=runs, maker=maker))


def _ask(program: str) -> int:
    """The number that `program` prints in an interpreter of its own."""
    command = [sys.executable, "-I", "-c", program, *_PACKAGES]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if answer.returncode:
        raise RuntimeError(f"a fresh interpreter failed:\n{answer.stderr}")
    return int(answer.stdout)
