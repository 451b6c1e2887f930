"""Holds parts of the package to coverage floors of their own, branches included.

coverage knows one floor for everything; the specification has one for each component::

    coverage json -o coverage.json && python tests/coverage_floors.py coverage.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Least coverage in per cent, by file, or by folder when it ends in a slash.
FLOORS: Mapping[str, float] = {
    "stageflow/bag.py": 100.0,
    "stageflow/graph.py": 100.0,
    "stageflow/interceptors/": 95.0,
    "stageflow/orchestrator.py": 95.0,
    "stageflow/pipeline.py": 100.0,
    "stageflow/plan.py": 95.0,
    "stageflow/run.py": 95.0,
    "stageflow/validation.py": 100.0,
}


def shortfalls(report: Mapping[str, Any], floors: Mapping[str, float] = FLOORS) -> list[str]:
    """What is below its floor, one sentence each.

    Args:
        report: What ``coverage json`` writes.
        floors: Least coverage in per cent, by file or folder.
    """
    if not report["meta"]["branch_coverage"]:
        return ["branches were not measured; run pytest with --cov-branch"]
    found = []
    for path, floor in floors.items():
        files = {
            name: file
            for name, file in report["files"].items()
            if name == path or (path.endswith("/") and name.startswith(path))
        }
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


def main(argv: list[str]) -> int:
    """Judge a report; the exit code is 1 if something is below its floor, 2 without a report."""
    if len(argv) != 1 or not Path(argv[0]).is_file():
        print(
            "usage: coverage_floors.py REPORT, where REPORT is written by: coverage json -o REPORT"
        )
        return 2
    problems = shortfalls(json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    for problem in problems:
        print(problem)
    if not problems:
        print(f"coverage: all {len(FLOORS)} floors are kept")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
