"""The pages that asv makes of much data, and where their steps are searched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.history import asv_publish
from tests.utils import central

COMMITS = 40


@pytest.mark.slow
def test_the_pages_are_those_of_asv(tmp_path: Path) -> None:
    """Each file is the same, byte for byte, as that of asv alone; only the time differs."""
    project = central.repository(tmp_path / "repo", COMMITS, 3)
    with project.config_of_branch() as options:
        ours, theirs = (
            published(tmp_path / name, program, project.root, options)
            for name, program in (("ours", ["-P", asv_publish.__file__]), ("theirs", ["-m", "asv"]))
        )
    assert ours == theirs
    assert any(name.endswith("track_002.json") for name in ours)


def published(site: Path, program: list[str], root: Path, options: Any) -> dict[str, bytes]:
    """The files of a site that a program wrote."""
    command = [sys.executable, *program, "publish", "--no-pull", "--html-dir", str(site), *options]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (site / "info.json").unlink()
    (site / "regressions.xml").unlink()
    return {
        path.relative_to(site).as_posix(): path.read_bytes()
        for path in site.rglob("*")
        if path.is_file()
    }


def test_steps_are_searched_among_the_newest_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first level that is found reaches back to the oldest value."""
    monkeypatch.setattr(asv_publish, "SEARCHED", 20)
    values = [9.0] * 100 + [1.0] * 10 + [2.0] * 10
    found = asv_publish._steps(values, [1.0] * len(values))
    assert json.loads(json.dumps(found)) == [[0, 110, 1.0, 1.0, 0.0], [110, 120, 2.0, 2.0, 0.0]]
    monkeypatch.setattr(asv_publish, "SEARCHED", 1000)
    assert asv_publish._steps(values)[0][:3] == (0, 100, 9.0)
