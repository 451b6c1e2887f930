"""Time operations on request: a process for one commit, beside one for another.

``python -P -m benchmarks._lib.worker`` measures the stageflow that it imports: the first on
``PYTHONPATH``, which names a commit's package, and then the folder of the benchmarks. (Without
``-P`` Python would look in the current folder before.) It says that it is ready, and then answers
each line of JSON on its standard input by one on its standard output:

    {"operation": "bag.write", "seconds": 0.05}
    {"operation": "bag.write", "wall_ns": [871, …], "cpu_ns": 41875423, "count": 48000,
     "calls": 480}
    {"measure": ["exact.Work.track_tasks('voice')"]}
    {"exact.Work.track_tasks('voice')": {"value": 4}}

``wall_ns`` holds the time of each call (of 1,000 at most), divided by the operations that it does,
``cpu_ns`` the CPU time of all ``calls``, which did ``count`` operations. An operation that raises
is answered with ``error``, one that this commit lacks something for with ``missing``; it serves on
until its input ends.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import stageflow
from benchmarks._lib.measure_one import measure
from benchmarks._lib.operations import OPERATIONS, Call, Operation
from benchmarks._lib.support import run

MOST_TOLD = 1_000
#: As few calls are timed at least, however long they take: the gate's twelve blocks are then enough
#: for a P99, which needs a hundred.
LEAST_TOLD = 9


def serve(questions: TextIO, tell: Callable[[dict[str, Any]], None]) -> None:
    """Say what can be timed here, and answer until `questions` ends."""
    lacking = {
        name: operation.missing() for name, operation in OPERATIONS.items() if operation.timed
    }
    tell(
        {
            "ready": True,
            "package": str(Path(stageflow.__file__).parent),
            "operations": list(lacking),
            "missing": {name: names for name, names in lacking.items() if names},
        }
    )
    for question in questions:
        asked = json.loads(question)
        if "measure" in asked:
            tell(measure(asked["measure"]))
        else:
            tell({"operation": asked["operation"], **answer(asked["operation"], asked["seconds"])})


def answer(name: str, seconds: float) -> dict[str, Any]:
    """Time the operation of that name for about so many seconds; never raises what it raises."""
    operation = OPERATIONS.get(name)
    if operation is None:
        return {"error": f"there is no operation {name!r}"}
    lacking = operation.missing()
    if lacking:
        return {"missing": lacking}
    try:
        return timed(operation, seconds)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def timed(operation: Operation, seconds: float) -> dict[str, Any]:
    """Do blocks of an operation for `seconds` of wall time, and at least `LEAST_TOLD` calls."""
    wall_ns: list[int] = []
    cpu_ns = blocks = 0
    run(_block_ns(operation, operation.make()))  # fixtures are made, caches filled
    until = time.perf_counter() + seconds
    while len(wall_ns) < LEAST_TOLD or time.perf_counter() < until:
        call = operation.make()
        gc.collect(0)
        wall, cpu = run(_block_ns(operation, call))
        wall_ns += wall
        cpu_ns += cpu
        blocks += 1
    return {
        "wall_ns": wall_ns[:MOST_TOLD],
        "cpu_ns": cpu_ns,
        "count": blocks * operation.per_block,
        "calls": len(wall_ns),
    }


def repeat(name: str, seconds: float) -> None:
    """Do an operation for about so many seconds, for a profiler to look at.

    Raises:
        LookupError: There is none of that name, or this commit lacks what it needs.
    """
    operation = OPERATIONS.get(name)
    if operation is None or operation.missing():
        lacking = operation.missing() if operation else [f"an operation {name}"]
        raise LookupError(f"cannot do {name!r}: there is no {', '.join(lacking)}")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        run(operation.do(operation.make()))


async def _block_ns(operation: Operation, call: Call) -> tuple[list[int], int]:
    """Wall time of each call divided by its operations, and CPU time of all, in nanoseconds."""
    clock, per_call = time.perf_counter_ns, operation.per_call
    wall: list[int] = []
    cpu_started_at = time.process_time_ns()
    for _ in range(operation.calls):
        started_at = clock()
        await call()
        wall.append((clock() - started_at) // per_call)
    return wall, time.process_time_ns() - cpu_started_at


def _tell(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.stdin, _tell)
