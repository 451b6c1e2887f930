"""mypy accepts the public API as it is meant to be used, and refuses it as it is not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[int, str]]]:
    """For each file, its lines with an error and the error's code."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listing = tmp_path_factory.mktemp("readme") / "readme.py"
    listing.write_text(readme.split("```python\n")[1].split("```")[0], encoding="utf-8")
    names = ("must_check.py", "must_not_check.py")
    files = [*(str(FOLDER / name) for name in names), str(listing)]
    config = str(ROOT / "pyproject.toml")
    # The cache of `make lint`: without one, mypy checks the whole package each time.
    options = ["--config-file", config, "--cache-dir", str(ROOT / ".mypy_cache"), "--no-pretty"]
    # In a process of its own: mypy leaves millions of objects behind, and each later collection
    # of garbage would look at them.
    done = run_command([sys.executable, "-m", "mypy", *options, *files])
    assert not done.stderr, done.stderr
    found: dict[str, set[tuple[int, str]]] = {Path(name).name: set() for name in files}
    for name, line, code in re.findall(
        r"(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE
    ):
        found[name].add((int(line), code))
    return found


def test_what_must_check_does(said: dict[str, set[tuple[int, str]]]) -> None:
    """Not one error in the API as users write it, nor in the README's first listing."""
    assert said["must_check.py"] == said["readme.py"] == set()


def test_what_must_not_check_does_not(said: dict[str, set[tuple[int, str]]]) -> None:
    """Every marked line has its error, and no other line has one."""
    lines = (FOLDER / "must_not_check.py").read_text(encoding="utf-8").splitlines()
    marked = {
        (number, found.group(1))
        for number, line in enumerate(lines, 1)
        if (found := re.search(r"# E: ([\w-]+)$", line))
    }
    assert len(marked) >= 12
    assert said["must_not_check.py"] == marked


def test_the_package_says_that_it_is_typed() -> None:
    """Checkers of other projects look for the marker."""
    assert (ROOT / "stageflow" / "py.typed").is_file()
