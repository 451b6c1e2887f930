"""Does what the gate asks for, with the package of one commit: a line of JSON in, a line out.

``stageflow pulse gate`` starts two of these, ``bisect`` and ``profile`` one. What they measure
stands in works.py and exact.py; this file needs no change.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import newproject

from benchmarks import exact
from benchmarks.works import WORKS

CALLS = 20
MOST_TOLD = 1_000


def timed(name: str, seconds: float) -> dict[str, Any]:
    """Do a work again and again for about that long; every call is timed."""
    wall_ns: list[int] = []

    async def block() -> None:
        for _ in range(CALLS):
            began_ns = time.perf_counter_ns()
            await WORKS[name]()
            wall_ns.append(time.perf_counter_ns() - began_ns)

    with asyncio.Runner() as runner:
        runner.run(block())  # caches are filled
        wall_ns.clear()
        cpu_began_ns = time.process_time_ns()
        until = time.perf_counter() + seconds
        while not wall_ns or time.perf_counter() < until:
            runner.run(block())
        cpu_ns = time.process_time_ns() - cpu_began_ns
    return {"wall_ns": wall_ns[:MOST_TOLD], "cpu_ns": cpu_ns, "operations": len(wall_ns)}


def measured(series: str) -> dict[str, Any]:
    """The value of a series such as ``exact.Turn.track_ms``."""
    _, owner, method = series.split(".")
    return {"value": getattr(getattr(exact, owner)(), method)()}


def repeat(name: str, seconds: float) -> None:
    """Do a work for about that long, for a profiler to look at."""
    timed(name, seconds)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What is to be said to a question; an error of what is measured is an answer, too."""

    def tried(ask: Any, *arguments: Any) -> dict[str, Any]:
        try:
            return dict(ask(*arguments))
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    if "measure" in asked:
        return {series: tried(measured, series) for series in asked["measure"]}
    return {"work": asked["work"], **tried(timed, asked["work"], asked["seconds"])}


def say(what: dict[str, Any]) -> None:
    """Write a line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    package = str(Path(newproject.__file__).parent)
    say({"ready": True, "package": package, "works": list(WORKS), "missing": {}})
    for line in sys.stdin:
        say(answer(json.loads(line)))
