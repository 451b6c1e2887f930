"""Print after how many runs `explore` finds each bug, and whether correct programs ever fail.

The median and the maximum of 20 seeds, at most 2,000 runs each; and runs a second of CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from stageflow.testing import Scenario, explore
from tools.compare_simulation.programs import BUGGY, CORRECT, Program


def runs_until_found(program: Program, seed: int, most: int) -> int | None:
    """Return the number of the first run that fails; None if none does."""
    runs, failed = 0, False

    async def counted() -> None:
        nonlocal runs, failed
        runs += not failed  # a failure is run again, to be reduced
        try:
            await program()
        except BaseException:  # a deadlock cancels it
            failed = True
            raise

    try:
        explore(counted, runs=most, scenario=Scenario(seed))
    except Exception:
        return runs
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table.

    Returns:
        0 if every bug was found by every seed and no correct program failed, and 1 otherwise.
    """
    parser = argparse.ArgumentParser("python -m tools.compare_simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds for each program")
    parser.add_argument("--runs", type=int, default=2_000, help="how many runs at most")
    options = parser.parse_args(argv)
    complete = True
    print("| program | found | median | maximum |\n| --- | --- | --- | --- |")
    for program in BUGGY:
        numbers = range(options.seeds)
        found = [runs_until_found(program, 100_000 * n, options.runs) for n in numbers]
        known = [runs for runs in found if runs is not None]
        complete &= len(known) == len(found)
        median, highest = (statistics.median(known), max(known)) if known else ("-", "-")
        print(f"| {program.__name__} | {len(known)} of {len(found)} | {median} | {highest} |")
    for program in CORRECT:
        began_s = time.process_time()
        alarm = runs_until_found(program, 0, options.runs)
        complete &= alarm is None
        rate = options.runs / (time.process_time() - began_s)
        text = f"{rate:,.0f} runs a CPU second" if alarm is None else f"fails in run {alarm}"
        print(f"{program.__name__}: {text}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
