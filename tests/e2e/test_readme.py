"""The README's listings and commands do what it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    """The README's listings in one language, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def test_the_example_prints_what_the_readme_says() -> None:
    """The README's example runs as it stands and prints the output printed below it."""
    (example,) = blocks("python")
    (output,) = blocks("text")
    done = run_command([sys.executable, "-W", "error", "-c", example])
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_it_is_short() -> None:
    """The example takes at most twelve lines of code, imports included, and the README 120."""
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_make_target_that_the_readme_names_exists() -> None:
    """Each `make …` of the README is a target of the Makefile."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert {"bench", "test", "help"} <= named
    assert named <= targets


def test_a_program_of_the_environment_is_not_called_before_it_is_made() -> None:
    """From a fresh clone, the commands work in the order in which the README shows them."""
    first = next(block for block in blocks("console") if "$ .venv/bin/" in block)
    assert "$ make setup" in first.partition("$ .venv/bin/")[0]


def test_every_path_that_the_readme_names_exists() -> None:
    """The README's map points to what is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([\w./-]+)\)", text)
    folders = re.findall(r"`((?:[\w]+/)+)`", text)
    assert links
    assert folders
    for path in [*links, *folders]:
        assert (ROOT / path).exists(), path
