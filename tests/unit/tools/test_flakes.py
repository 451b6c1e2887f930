"""The search for flakes finds one, and names it with its seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.flakes import main, run_once

pytestmark = pytest.mark.slow


def write(folder: Path, body: str) -> str:
    """A file with a test of its own configuration."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    path = folder / "test_it.py"
    path.write_text(body)
    return str(path)


def test_a_test_that_depends_on_the_order_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails in some of the runs, and is reported as such."""
    path = write(
        tmp_path,
        "done = []\ndef test_first(): done.append(1)\ndef test_second(): assert done\n",
    )
    assert main([path, "--repeats", "2", "--seed", "3", "--processes", "0"]) == 1
    said = capsys.readouterr().out
    assert "test_it::test_second failed" in said
    assert "times of 2" in said
    assert "seed 4" in said


def test_sound_tests_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is invented."""
    path = write(tmp_path, "def test_it(): pass\n")
    assert main([path, "--repeats", "2", "--processes", "0"]) == 0
    assert "no flake in 2 runs" in capsys.readouterr().out


def test_a_command_that_cannot_run_is_reported(tmp_path: Path) -> None:
    """With what pytest said."""
    with pytest.raises(RuntimeError, match="nowhere"):
        run_once([str(tmp_path / "nowhere.py")], 1, tmp_path, "0")
