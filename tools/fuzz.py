"""Give hostile input to everything that reads what others wrote, and count what becomes of it.

Each input is read, or refused with an error of this package; a stream's entry ends or is set aside.
No process dies. An input takes at most 5 s of processor time, and each kind at most 256 MB of
memory beyond what its process has at first. The exit code is 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tests.cluster.fuzzing import MOST_BYTES, Report, fuzz, fuzz_streams, targets

STREAMS = "stream entries"


@cache
def names() -> tuple[str, ...]:
    """Return the names of all kinds."""
    with tempfile.TemporaryDirectory() as folder:
        return (STREAMS, *targets(Path(folder)))


def _one(name: str, count: int, seed: int) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        kinds = targets(Path(folder))
        # More than the bound, so that it is named, and less than what harms the machine.
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MOST_BYTES,) * 2)
        logging.disable()  # it would name each of thousands of entries
        if name == STREAMS:
            return asyncio.run(fuzz_streams(count, seed))
        return fuzz(kinds[name], count, seed)


def _in_processes(kinds: Sequence[str], count: int, seed: int) -> Iterator[tuple[str, Report]]:
    """Fuzz each kind in a process of its own, so that each has its own peak of memory."""
    for name in kinds:
        command = [sys.executable, "-m", "tools.fuzz", "--only", name, "--json"]
        done = subprocess.run(
            [*command, "--count", str(count), "--seed", str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        try:
            yield name, Report(**json.loads(done.stdout))
        except ValueError:
            yield name, Report(problems=[f"the process ended with {done.returncode}"])


def main() -> int:
    """Fuzz, and print a line for each kind."""
    parser = argparse.ArgumentParser("python -m tools.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="inputs of each kind")
    parser.add_argument("--only", choices=names(), help="fuzz one kind, in this process")
    parser.add_argument("--json", action="store_true", help="print the report of --only as JSON")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    arguments = parser.parse_args()
    if arguments.only and arguments.json:
        print(json.dumps(vars(_one(arguments.only, arguments.count, arguments.seed))))
        return 0
    kinds = [arguments.only] if arguments.only else names()
    print(f"seed {arguments.seed}")
    print(f"{'':<16}{'tried':>8}{'read':>8}{'refused':>9}{'slowest':>10}{'memory':>9}")
    failed = False
    for name, report in _in_processes(kinds, arguments.count, arguments.seed):
        print(
            f"{name:<16}{report.tried:>8}{report.read:>8}{report.refused:>9}"
            f"{report.slowest_s:>8.2f} s{report.memory_mb:>6.0f} MB",
            flush=True,
        )
        for problem in report.problems:
            failed = True
            print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
