"""Print the coverage of the last `make test`, and check the floor of each component.

The coverage package knows one floor for everything; here each component has its own, branches
included. The exit code is 1 if something is below its floor, 2 without a report.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Written by `make test`.
REPORT = Path(".coverage.json")
#: Least coverage in per cent, by file, or by folder when it ends in a slash.
FLOORS: Mapping[str, float] = {
    "stageflow/engine/bag.py": 100.0,
    "stageflow/engine/run_streams.py": 95.0,
    "stageflow/cluster/": 95.0,
    "stageflow/engine/graph.py": 100.0,
    "stageflow/interceptors/": 95.0,
    "stageflow/engine/orchestrator.py": 95.0,
    "stageflow/engine/pipeline.py": 100.0,
    "stageflow/engine/plan.py": 95.0,
    "stageflow/engine/run.py": 95.0,
    "stageflow/engine/stepping.py": 95.0,
    "stageflow/engine/stream.py": 95.0,
    "stageflow/engine/validation.py": 100.0,
}


def shortfalls(report: Mapping[str, Any], floors: Mapping[str, float] = FLOORS) -> list[str]:
    """Return one sentence for each file that is below its floor.

    Args:
        report: What ``coverage json`` writes.
        floors: Least coverage in per cent, by file or folder.
    """
    if not report["meta"]["branch_coverage"]:
        return ["branches were not measured; run pytest with --cov-branch"]
    found = []
    for path, floor in floors.items():
        files = {name: file for name, file in report["files"].items() if _belongs(name, path)}
        if not files:
            found.append(f"{path}: was not measured; run the tests with --cov=stageflow")
        for name, file in sorted(files.items()):
            covered = file["summary"]["percent_covered"]
            if covered < floor:
                lines = ", ".join(map(str, file["missing_lines"])) or "none"
                branches = ", ".join(f"{a}→{b}" for a, b in file["missing_branches"]) or "none"
                found.append(
                    f"{name}: {covered:.1f} % covered, at least {floor:g} % asked;"
                    f" missing lines: {lines}; missing branches: {branches}"
                )
    return found


def table(report: Mapping[str, Any], floors: Mapping[str, float] = FLOORS) -> list[str]:
    """Return one line for each floor: required and measured.

    There is none for the whole package, as `make test` does not trace the tests of the rest. A
    folder counts as its least covered file, as the floor holds for each file.

    Args:
        report: What ``coverage json`` writes.
        floors: Least coverage in per cent, by file or folder.
    """
    width = max(map(len, [*floors, "coverage, branches included"]))
    lines = [f"{'coverage, branches included':{width}}   asked  measured"]
    for path, floor in floors.items():
        measured = [
            file["summary"]["percent_covered"]
            for name, file in report["files"].items()
            if _belongs(name, path)
        ]
        least = f"{min(measured):.1f} %" if measured else "nothing"
        lines.append(f"{path:{width}}  {floor:4g} %  {least:>8}")
    return lines


def _belongs(name: str, path: str) -> bool:
    return name == path or (path.endswith("/") and name.startswith(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a report; the exit code is 1 if something is below its floor, 2 without a report."""
    parser = argparse.ArgumentParser("python -m tools.coverage_floors", description=__doc__)
    parser.add_argument("report", type=Path, nargs="?", default=REPORT, help=f"default: {REPORT}")
    parser.add_argument("--quiet", action="store_true", help="print only what is below its floor")
    options = parser.parse_args(argv)
    if not options.report.is_file():
        print(f"there is no {options.report}: `make test` writes {REPORT}", file=sys.stderr)
        return 2
    report = json.loads(options.report.read_text(encoding="utf-8"))
    problems = shortfalls(report)
    if not options.quiet:
        print("\n".join(table(report)))
    print("".join(f"{problem}\n" for problem in problems), end="")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
