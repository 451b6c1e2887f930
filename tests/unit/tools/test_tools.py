"""The programs of tools/: README.md lists them all, and each explains itself."""

from __future__ import annotations

import os
import re
import runpy
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command

FOLDER = ROOT / "tools"
PROGRAMS = sorted(
    {path.stem for path in FOLDER.glob("[!_]*.py")}
    | {path.parent.name for path in FOLDER.glob("*/__main__.py")}
)


def test_the_page_lists_every_program() -> None:
    """One row for each program, in alphabetical order, and no other row."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == PROGRAMS


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--help`` names the command and says what it does, without running it."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"tools.{name}", run_name="__main__")
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m tools.{name} ")
    assert len(shown.split("\n\n")[1]) > 30, "a description"


def test_make_help_stays_short() -> None:
    """At most twenty targets; everything else is a program of tools/."""
    # Also below another make, which would have this one announce its folder.
    done = run_command(["make", "--no-print-directory", "help"], cwd=ROOT, check=True)
    assert len(done.stdout.splitlines()) <= 20


@pytest.mark.parametrize("makefile", [ROOT / "Makefile", ROOT / "stageflow/cli/template/Makefile"])
def test_an_installation_shows_on_a_terminal_how_long_it_takes(makefile: Path) -> None:
    """The seconds count while the command runs, and its exit code is kept."""
    terminal, inside = os.openpty()
    recipe = "try:; @$(TIMED) sh -c 'read line; exit 3'"
    with subprocess.Popen(
        ["make", "--file", makefile, "--eval", recipe, "try"],
        stdin=subprocess.PIPE,
        stderr=inside,
    ) as running:
        shown = b""
        while b" 1 s" not in shown:
            assert select.select([terminal], [], [], 60.0)[0], shown
            shown += os.read(terminal, 1000)
        running.communicate(b"\n")
    os.close(inside)
    with suppress(OSError):  # Linux ends a terminal by an error
        while piece := os.read(terminal, 1000):
            shown += piece
    os.close(terminal)
    assert b"Error 3" in shown
