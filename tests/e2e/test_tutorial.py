"""The tutorial works: its listings and commands, one after another, as a reader types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.utils.asv_repo import ROOT, install_quickly, measured
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

PAGES = [ROOT / "docs" / name for name in ("tutorial.md", "tutorial-benchmark.md")]
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A listing, or a piece of a terminal."""

    language: str
    title: str
    text: str


def blocks() -> list[Block]:
    """All of both pages, in order."""
    return [Block(*found) for found in _BLOCK.findall(text())]


def text() -> str:
    """Return the text of both pages."""
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


class Reader:
    """Somebody who does what the page says, in this repository's environment."""

    def __init__(self, folder: Path, environments: Path | None) -> None:
        self.folder = folder
        self.environments = environments
        names = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.invalid"}
        names |= {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.invalid"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COV_", "MAKE", "PYTEST", "MFLAGS"))
        }
        # A project of its own has none of the plugins that this repository's tests use.
        self.environment = (
            kept
            | names
            | {
                "HOME": str(folder),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTEST_ADDOPTS": "-p no:asyncio -p no:cacheprovider -p no:xdist",
            }
        )

    def write(self, title: str, text: str) -> None:
        """Do what a listing says: a whole file, something to add to it, or a change of it."""
        name, _, how = title.partition(": ")
        path = self.folder / name
        if how == "add":
            path.write_text(path.read_text() + "\n" + text)
        elif how == "change":
            was, becomes = text.split("# to\n")
            before = path.read_text()
            assert before.count(was) == 1, f"{name} does not hold what is to be changed:\n{was}"
            path.write_text(before.replace(was, becomes))
        else:
            assert how == ""
            path.write_text(text)

    def type(self, text: str, fails: bool) -> None:
        """Type each command, and compare what it prints; the last one fails if that is said."""
        commands = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
        for number, command in enumerate(commands, 1):
            typed, _, shown = command.partition("\n")
            expected_to_fail = fails and number == len(commands)
            printed = self._run(typed, expected_to_fail)
            # "…" stands for whatever is printed there.
            parts = ["\\s+".join(map(re.escape, part.split())) for part in shown.split("…")]
            pattern = ".*".join(parts)
            assert re.search(pattern, printed, re.DOTALL), f"$ {typed}\n{printed}"

    def _run(self, typed: str, expected_to_fail: bool) -> str:
        if typed.startswith("cd "):
            self.folder = self.folder / typed.removeprefix("cd ")
            self._borrow_environment()
            install_quickly(self.folder, self.environments)
            return ""
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert (done.returncode != 0) == expected_to_fail, f"$ {typed}\n{done.stdout}"
        return done.stdout

    def _borrow_environment(self) -> None:
        """In place of `make setup`, which would install all of it anew.

        test_init.py lets pip build and install a project, and counts its instructions.
        """
        (self.folder / ".venv").mkdir()
        for part in Path(sys.prefix).iterdir():
            if part.name != ".ready":
                (self.folder / ".venv" / part.name).symlink_to(part)
        (self.folder / ".venv" / ".ready").touch()


def test_the_tutorial_works(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every listing is written, every command typed, in order; each prints what is shown."""
    reader = Reader(tmp_path, measured(tmp_path_factory).repo.environments)
    done = blocks()
    assert {block.language for block in done} == {"python", "toml", "console"}
    for block in done:
        if block.language == "console":
            reader.type(block.text, fails="fails" in block.title)
        else:
            reader.write(block.title, block.text)
    # What a reader has in the end is tidy, too.
    tidy = run_command(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=reader.folder
    )
    assert tidy.returncode == 0, tidy.stdout


def test_no_block_is_overlooked() -> None:
    """The number of fences is twice the number of blocks that are run."""
    assert text().count("```") == 2 * len(blocks())


@pytest.mark.parametrize("wrong", ["66 passed", "price: 3.15", "40 passed in", "5 kept"])
def test_what_is_shown_is_compared(wrong: str) -> None:
    """The outputs that matter are on the page (and so are compared)."""
    assert wrong in "".join(block.text for block in blocks() if block.language == "console")
