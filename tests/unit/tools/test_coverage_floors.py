"""The floors of coverage: what is below one is named, and nothing passes by not being measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.coverage_floors import FLOORS, main, shortfalls, table

ROOT = Path(__file__).resolve().parents[3]


def report(branches: bool = True, **covered: float) -> dict[str, Any]:
    """A report of files named like ``a_py``, with their coverage in per cent."""
    return {
        "meta": {"branch_coverage": branches},
        "files": {
            f"pkg/{name.replace('_', '.')}": {
                "summary": {"percent_covered": percent},
                "missing_lines": [7] if percent < 100 else [],
                "missing_branches": [[7, 9]] if percent < 100 else [],
            }
            for name, percent in covered.items()
        },
    }


def test_what_keeps_its_floor_is_not_named() -> None:
    """Exactly the floor is enough."""
    assert shortfalls(report(a_py=95.0, b_py=100.0), {"pkg/a.py": 95.0, "pkg/": 95.0}) == []


def test_what_is_below_its_floor_is_named_with_what_is_missing() -> None:
    """A file, and each file of a folder."""
    floors = {"pkg/a.py": 95.0, "pkg/": 90.0}
    in_file, in_folder = shortfalls(report(a_py=94.9, b_py=80.0), floors)
    assert in_file.startswith("pkg/a.py: 94.9 % covered, at least 95 % asked")
    assert "missing lines: 7; missing branches: 7→9" in in_file
    assert in_folder.startswith("pkg/b.py: 80.0 %")


def test_what_was_not_measured_does_not_pass() -> None:
    """Neither a file that is not in the report, nor a report without branches."""
    (missing,) = shortfalls(report(), {"pkg/a.py": 95.0})
    assert "pkg/a.py: was not measured" in missing
    (branchless,) = shortfalls(report(branches=False, a_py=100.0), {"pkg/a.py": 95.0})
    assert "--cov-branch" in branchless


def test_the_table_shows_what_is_asked_and_what_was_measured() -> None:
    """A line for each floor; of a folder its least covered file, of nothing that it is nothing."""
    measured = report(a_py=100.0, b_py=96.25)
    _, file, folder, missing = table(measured, {"pkg/a.py": 100, "pkg/": 95, "x.py": 90})
    assert file.split() == ["pkg/a.py", "100", "%", "100.0", "%"]
    assert folder.split() == ["pkg/", "95", "%", "96.2", "%"]
    assert missing.split() == ["x.py", "90", "%", "nothing"]


def test_the_floors_that_are_promised() -> None:
    """In full: the graph, the pipeline and the bag; nearly in full: what runs them."""
    promised = {"graph.py": 100.0, "pipeline.py": 100.0, "bag.py": 100.0, "orchestrator.py": 95.0}
    for name, floor in promised.items():
        assert FLOORS[f"stageflow/engine/{name}"] >= floor
    assert FLOORS["stageflow/interceptors/"] >= 95.0


@pytest.mark.parametrize("path", FLOORS)
def test_each_floor_is_of_something_that_exists(path: str) -> None:
    """A renamed module would otherwise be reported as unmeasured only after a whole run."""
    assert (ROOT / path).exists()


def test_the_command_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 without an output if asked to be quiet, 1 below a floor, 2 without a report."""
    kept = tmp_path / "coverage.json"
    names = {path + ("base.py" if path.endswith("/") else "") for path in FLOORS}
    file = {"summary": {"percent_covered": 100.0}, "missing_lines": [], "missing_branches": []}
    whole: dict[str, Any] = {"meta": {"branch_coverage": True}, "files": dict.fromkeys(names, file)}
    kept.write_text(json.dumps(whole), encoding="utf-8")
    assert main([str(kept), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    del whole["files"]["stageflow/engine/bag.py"]
    kept.write_text(json.dumps(whole), encoding="utf-8")
    assert main([str(kept)]) == 1
    shown = capsys.readouterr().out
    assert "stageflow/engine/bag.py: was not measured" in shown
    assert "asked  measured" in shown
    assert main([str(tmp_path / "none.json")]) == 2
    assert "there is no" in capsys.readouterr().err
