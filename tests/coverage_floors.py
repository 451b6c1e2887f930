"""Holds parts of the package to coverage floors of their own, branches included; prints the table.

coverage knows one floor for everything; here each component has its own::

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
    "stageflow/board.py": 95.0,
    "stageflow/cluster/": 95.0,
    "stageflow/graph.py": 100.0,
    "stageflow/interceptors/": 95.0,
    "stageflow/orchestrator.py": 95.0,
    "stageflow/pipeline.py": 100.0,
    "stageflow/plan.py": 95.0,
    "stageflow/run.py": 95.0,
    "stageflow/stream.py": 95.0,
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
    """One line for each floor, and one for the whole: what is asked, and what was measured.

    Of a folder the least covered file counts, as each of its files has to keep the floor.

    Args:
        report: What ``coverage json`` writes.
        floors: Least coverage in per cent, by file or folder.
    """
    width = max(map(len, [*floors, "everything"]))
    lines = [f"{'coverage, branches included':{width}}   asked  measured"]
    for path, floor in floors.items():
        measured = [
            file["summary"]["percent_covered"]
            for name, file in report["files"].items()
            if _belongs(name, path)
        ]
        least = f"{min(measured):.1f} %" if measured else "nothing"
        lines.append(f"{path:{width}}  {floor:4g} %  {least:>8}")
    if "totals" in report:
        lines.append(
            f"{'everything':{width}}       -  {report['totals']['percent_covered']:6.1f} %"
        )
    return lines


def _belongs(name: str, path: str) -> bool:
    return name == path or (path.endswith("/") and name.startswith(path))


def main(argv: list[str]) -> int:
    """Judge a report; the exit code is 1 if something is below its floor, 2 without a report."""
    if len(argv) != 1 or not Path(argv[0]).is_file():
        print("there is no report of a run yet; `make test` writes one, and so does")
        print("coverage json -o REPORT && python -m tests.coverage_floors REPORT")
        return 2
    report = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    print("\n".join(table(report)))
    problems = shortfalls(report)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"coverage: all {len(FLOORS)} floors are kept")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
