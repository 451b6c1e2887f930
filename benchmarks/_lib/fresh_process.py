"""Measurements that need a fresh interpreter: imports, and the growth of memory."""

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
from benchmarks._lib.fresh_process import peak_bytes
from benchmarks._lib.support import run
from benchmarks._lib.workloads import {maker}, orchestrator, run_at_once

bound = orchestrator("dense 4x5", {maker})
run(run_at_once(bound, 1))
before = peak_bytes()
results = run(run_at_once(bound, {runs}))
assert all(result.error is None for result in results)
print(peak_bytes() - before)
"""

_TRACED = """\
import gc, sys, tracemalloc
sys.path[:0] = sys.argv[1:3]
from benchmarks._lib.handwritten import FeaturedGraph
from benchmarks._lib.support import run
from benchmarks._lib.workloads import SHAPES, orchestrator, suspending, run_at_once, run_times

class ByHand:
    graph = FeaturedGraph(SHAPES["dense 4x5"], suspend=True)
    run = lambda self, _: self.graph.run()

def go(runs):
    return run(run_at_once(bound, runs)) if {keep} else run(run_times(bound, runs)) and None

bound = orchestrator("dense 4x5", suspending) if {keep} else orchestrator("chain of 10")
if {by_hand}:
    bound = ByHand()
go({runs} if {keep} else 100)
gc.collect()
tracemalloc.start()
go({runs} if {keep} else 10)  # what is made once, and how large asyncio's set of tasks grows
gc.collect()
before, _ = tracemalloc.get_traced_memory()
tracemalloc.reset_peak()
kept = go({runs})
after, peak = tracemalloc.get_traced_memory()
if not {peak}:
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
print((peak if {peak} else after) - before)
"""

# How many modules of its own each of these loads depends on the version of Python.
_IMPORTED = """\
import sys, asyncio, copy, dataclasses, datetime, difflib, random
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import stageflow
print(len(set(sys.modules) - before))
"""

#: Where the package that is measured lies, and where this one does.
_PACKAGES = (str(Path(stageflow.__file__).parents[1]), str(Path(__file__).parents[2]))
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


def traced_bytes(runs: int, *, keep: bool, peak: bool = False, by_hand: bool = False) -> float:
    """Bytes that Python has allocated after `runs` runs more than before them, divided by `runs`.

    Args:
        runs: How many runs.
        keep: Whether the runs of 20 stages that suspend go on at once, and their results are kept;
            else they are runs of ten stages, one after another, and the results are dropped.
        peak: Whether to return the most that was allocated in between.
        by_hand: Whether the runs are those of code by hand, which keeps events and outputs, too.
    """
    return _ask(_TRACED.format(runs=runs, keep=keep, peak=peak, by_hand=by_hand)) / runs


def imported_modules() -> int:
    """How many modules ``import stageflow`` loads beyond some of Python that it needs."""
    return _ask(_IMPORTED)


def _ask(program: str) -> int:
    """The number that `program` prints in an interpreter of its own."""
    command = [sys.executable, "-I", "-c", program, *_PACKAGES]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if answer.returncode:
        raise RuntimeError(f"a fresh interpreter failed:\n{answer.stderr}")
    return int(answer.stdout)
