"""The watch over what the user's commands keep in the clone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.utils.untouched import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches with inotify")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which something was measured."""
    for name in (".asv/results/ci/a.json", ".asv/env/lib/b.py", "README.md", "stageflow/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def watch(clone: Path) -> Iterator[Watch]:
    """The watch over it."""
    found = Watch(clone)
    yield found
    found.close()


def test_what_a_program_reads_is_noticed(clone: Path, watch: Watch) -> None:
    """A result is named that a program of the test opens, once."""
    subprocess.run(["cat", ".asv/results/ci/a.json"], cwd=clone, check=True, capture_output=True)
    assert watch.touched() == [".asv/results/ci/a.json"]
    assert watch.touched() == []


def test_what_is_written_is_noticed(clone: Path, watch: Watch) -> None:
    """New files and folders are named, and so is what is deleted."""
    (clone / "letters.db").write_text("", encoding="utf-8")
    (clone / "dist").mkdir()
    (clone / ".asv/gate").mkdir()
    (clone / ".asv/results/ci/a.json").unlink()
    assert watch.touched() == [".asv/gate", ".asv/results/ci/a.json", "dist", "letters.db"]


def test_everything_else_may_be_used(clone: Path, watch: Watch) -> None:
    """Sources may be read, folders listed, and the report of the coverage written."""
    (clone / "README.md").read_text(encoding="utf-8")
    (clone / "stageflow/d.py").write_text("", encoding="utf-8")
    (clone / ".coverage.json").write_text("", encoding="utf-8")
    assert [path.name for path in (clone / ".asv").iterdir()]
    assert watch.touched() == []
