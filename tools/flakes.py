"""Run the tests repeatedly, each time in another order, and list those that failed.

Each run prints its seed; ``pytest --random-order-seed=SEED`` repeats that order.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

#: Fast, and without servers that take long to start.
USUAL = ("tests/unit", "tests/property", "tests/contract", "tests/integration/test_runs.py")


def failures(report: Path) -> set[str]:
    """The tests that a JUnit report calls failed or broken."""
    return {
        f"{case.get('classname')}::{case.get('name')}"
        for case in ET.parse(report).iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    }


def run_once(paths: Sequence[str], seed: int, folder: Path, processes: str = "auto") -> set[str]:
    """Run the tests in the order of a seed.

    Args:
        paths: What to run.
        seed: Of the order.
        folder: Where the report is written.
        processes: How many run them; "auto" for one a core, "0" for this one alone.

    Returns:
        The tests that failed.

    Raises:
        RuntimeError: pytest did not come to run tests; the text is what it said.
    """
    report = folder / f"{seed}.xml"
    options = ["-n", processes, "--dist", "worksteal", "--random-order", "-q"]
    options += [f"--junit-xml={report}", f"--random-order-seed={seed}"]
    command = [sys.executable, "-m", "pytest", *options, *paths]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return failures(report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests several times; the exit code is 1 if a test failed in any of them."""
    parser = argparse.ArgumentParser("python -m tools.flakes", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", default=USUAL, help="what to run (default: the fast tests)"
    )
    parser.add_argument("--repeats", type=int, default=20, help="how often")
    parser.add_argument("--processes", default="auto", help="how many at once; one a core")
    parser.add_argument("--seed", type=int, help="of the first run; drawn if left out")
    arguments = parser.parse_args(argv)
    first = random.randrange(10_000) if arguments.seed is None else arguments.seed
    failed: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        for number in range(arguments.repeats):
            began = time.perf_counter()
            found = run_once(arguments.paths, first + number, Path(folder), arguments.processes)
            took_s = time.perf_counter() - began
            told = ", ".join(sorted(found)) or "all passed"
            print(f"run {number + 1}: seed {first + number}, {took_s:.0f} s: {told}", flush=True)
            failed.update(found)
    for name, times in failed.most_common():
        kind = "always" if times == arguments.repeats else f"{times} times of {arguments.repeats}"
        print(f"{name} failed {kind}")
    if not failed:
        print(f"no flake in {arguments.repeats} runs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
