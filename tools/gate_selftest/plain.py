"""Judge identical code, and code that is twice as slow, as asv itself does.

``python -m tools.gate_selftest.plain`` compares the timed benchmarks of some modules by asv's own
rule, as ``asv continuous`` does: those of identical code, and those that do their work twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from asv.commands.compare import _is_result_better  # type: ignore[import-untyped]
from asv_runner.statistics import compute_stats  # type: ignore[import-untyped]

from tools.gate_selftest.trials import Rate

#: asv's default factor.
FACTOR = 1.1
_MEASURE = """\
import importlib, json, sys
from benchmarks._lib import support
from benchmarks._lib.without_asv import cases

modules, times = sys.argv[1].split(","), int(sys.argv[2])
draw_s = support.draw_s
support.draw_s = lambda work, timer: draw_s(lambda: [work() for _ in range(times)], timer)
found = {}
for name in modules:
    for case in cases(importlib.import_module(f"benchmarks.{name}")):
        value = case.call() if case.unit == "seconds" else None
        if isinstance(value, dict):
            found[f"{name}.{case.label}"] = value["samples"]
print(json.dumps(found))
"""
Samples = dict[str, list[float]]


def measured(modules: str, times: int) -> Samples:
    """Measure in a fresh process, with each work repeated."""
    command = [sys.executable, "-c", _MEASURE, modules, str(times)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Samples = json.loads(done.stdout)
    return found


def slower(base: Samples, head: Samples) -> list[str]:
    """Return the benchmarks that asv calls slower, and fails for."""

    def judged(samples: list[float]) -> tuple[float, tuple[dict[str, Any], list[float]]]:
        value, stats = compute_stats(samples, 1)
        return value, (stats, samples)

    found = []
    for name in base:
        (one, known), (other, new) = judged(base[name]), judged(head[name])
        if _is_result_better(one, other, known, new, FACTOR):
            found.append(name)
    return found


def main() -> int:
    """Compare and print two rows of a table; return 1 if a verdict was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.gate_selftest.plain")
    parser.add_argument("--modules", default="bag,events", help="default: %(default)s")
    parser.add_argument("--comparisons", type=int, default=20, help="default: %(default)s")
    asked = parser.parse_args()
    same, twice, worst, loads = 0, 0, 0.0, []
    for number in range(1, asked.comparisons + 1):
        base, head, slow = (measured(asked.modules, times) for times in (1, 1, 2))
        loads.append(os.getloadavg()[0])
        same += bool(slower(base, head))
        twice += bool(slower(base, slow))
        worst = max(worst, *(min(head[n]) / min(base[n]) for n in base))
        print(number, same, twice, slower(base, slow), file=sys.stderr, flush=True)
    load = f"{min(loads):.0f} to {max(loads):.0f}"
    for what, count in (("identical code", same), ("work done twice", twice)):
        rate = Rate(count, asked.comparisons)
        low, high = rate.interval
        told = f"{count} of {asked.comparisons} [{low:.1%} to {high:.1%}]"
        print(f"| {what} | {len(base)} | {load} | {told} |")
    print(f"The largest ratio of identical code was {worst:.2f}.")
    return int(bool(same) or twice < asked.comparisons)


if __name__ == "__main__":
    sys.exit(main())
