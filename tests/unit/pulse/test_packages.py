"""The packages of `stageflow.pulse`: how they import, and what they know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageflow.pulse.dashboard import write_central
from stageflow.pulse.history import copy_libraries
from tests.utils import central
from tests.utils.asv_repo import ROOT

PULSE = ROOT / "stageflow/pulse"
#: Each imports only those before it.
PACKAGES = ("history", "gate", "alerts", "dashboard")
#: Names of this repository's kernels, stages, series and programs.
OURS = re.compile(
    r"voice|chat\b|\bstt\b|\btts\b|\bllm\b|\bbag\b|drill|make (?:bench|gate|load|test)"
    r"|track_\w+|StageLatency|TimeTo\w+|from benchmarks[. ]|import benchmarks|stageflow/(?!pulse)"
)


def modules() -> Iterator[Path]:
    """The Python files of pulse, and the scripts and pages that it ships of its own."""
    yield from sorted(PULSE.rglob("*.py"))
    yield from (
        path
        for path in sorted((PULSE / "static").rglob("*"))
        if path.suffix in (".js", ".html") and "vendor" not in path.parts
    )


def test_no_module_names_this_repository() -> None:
    """Names of series, kernels, stages and programs are settings of a project."""
    found = [
        f"{path.relative_to(PULSE)}: {line.strip()}"
        for path in modules()
        for line in path.read_text(encoding="utf-8").splitlines()
        if OURS.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_import_each_other_in_one_direction(name: str) -> None:
    """A package imports those before it, each by its public names."""
    allowed = PACKAGES[: PACKAGES.index(name)]
    for path in (PULSE / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "stageflow.pulse."
            ):
                _, _, *below = str(node.module).split(".")
                of_a_package = below[0] in PACKAGES and below[0] != name
                assert not of_a_package or (below[0] in allowed and len(below) == 1), node.module


def test_a_project_without_records_has_no_panel_of_them(tmp_path: Path) -> None:
    """Without settings the page names no load, no voice and no self-test."""
    project = central.repository(tmp_path / "repo", 3, 2)
    (project.benchmarks_dir / "pulse.toml").unlink()
    copy_libraries(tmp_path / "site")
    write_central(project, tmp_path / "site", lambda _: None)
    pages = [tmp_path / "site/central.html", tmp_path / "site/central/data.json.js"]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert "voice" not in text.lower()
    assert '"figures":null' in text
    assert '"load":null' in text
    assert '"selftest_command":null' in text
