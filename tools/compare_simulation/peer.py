"""Try one program with one tool, in the environment of that tool; print the result as JSON.

`python peer.py TOOL PROGRAM SEEDS RUNS`. This file imports the tool, `programs` beside it, and the
standard library.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

Main = Callable[[], Coroutine[Any, Any, None]]
#: Searches with a program, a seed and a number of runs; returns what runs a failure again, the
#: deviations of the failure from asyncio's order if they are known, or None without a failure.
Search = Callable[[Main, int, int], tuple[Callable[[], object], int | None] | None]


def _stageflow(main: Main, seed: int, runs: int) -> Any:
    testing: Any = importlib.import_module("stageflow.testing")
    try:
        testing.explore(main, runs=runs, scenario=testing.Scenario(seed))
    except Exception as error:
        text = re.findall(r"sf1-[\w-]+", error.__notes__[-1])[-1]
        choices = testing.Token.parse(text).scenario.choices or ""
        return lambda: testing.simulate(main, token=text), len(choices.split())
    return None


def _detangle(main: Main, seed: int, runs: int) -> Any:
    detangle: Any = importlib.import_module("detangle")
    try:
        detangle.explore(main, runs=runs, seed=seed, database=False)
    except detangle.BugFound as error:
        report = error.report
        return lambda: detangle.replay(main, report.token), report.deviations
    return None


def _simloom(main: Main, seed: int, runs: int) -> Any:
    simloom: Any = importlib.import_module("simloom")
    found = simloom.explore(main, runs=runs, start_seed=seed)
    if not found.failed:
        return None
    return lambda: simloom.run(main, seed=found.failures[0].seed), None


def _simloop(main: Main, seed: int, runs: int) -> Any:
    simloop: Any = importlib.import_module("simloop")
    found = simloop.explore(main, range(seed, seed + runs))
    if found is None:
        return None

    def again() -> None:
        repeated = simloop.explore(main, [found.seed])
        if repeated is not None:
            raise repeated.exception

    return again, None


def _seedloop(main: Main, seed: int, runs: int) -> Any:
    seedloop: Any = importlib.import_module("seedloop")
    seeds = range(seed, seed + runs)
    found = seedloop.check(lambda _: main(), seeds=seeds, on_failure="return")
    if found.error is None:
        return None
    return lambda: seedloop.replay(lambda _: main(), seed=found.failing_seed), None


TOOLS: dict[str, Search] = {
    "stageflow": _stageflow,
    "detangle": _detangle,
    "simloom": _simloom,
    "simloop": _simloop,
    "seedloop": _seedloop,
}


class Counted:
    """A program that counts its runs up to the first that fails."""

    def __init__(self, program: Main) -> None:
        self.__name__ = self.__qualname__ = program.__name__
        self._program, self.runs, self.failed = program, 0, False

    async def main(self) -> None:
        """Run it; a failure is run again by tools that reduce it."""
        self.runs += not self.failed
        try:
            await self._program()
        except BaseException:  # a deadlock cancels it
            self.failed = True
            raise


def tried(search: Search, program: Main, seeds: int, most: int) -> dict[str, Any]:
    """Return for each seed the runs until found, whether it repeated, and its deviations."""
    runs: list[int | None] = []
    repeated, deviations = 0, []
    began_s = time.process_time()
    for number in range(seeds):
        counted = Counted(program)
        found = search(counted.main, 100_000 * number, most)
        runs.append(None if found is None else counted.runs)
        if found is not None:
            again, count = found
            deviations += [] if count is None else [count]
            try:
                again()
            except BaseException:
                repeated += 1
    spent_s = time.process_time() - began_s
    return {"runs": runs, "repeated": repeated, "deviations": deviations, "cpu_s": spent_s}


if __name__ == "__main__":
    tool, name, seed_count, run_count = sys.argv[1:]
    named = getattr(importlib.import_module("programs"), name)
    # The time to import a tool is not that of its runs.
    importlib.import_module("stageflow.testing" if tool == "stageflow" else tool)
    print(json.dumps(tried(TOOLS[tool], named, int(seed_count), int(run_count))))
