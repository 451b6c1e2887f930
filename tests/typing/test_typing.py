"""mypy accepts the public API as it is meant to be used, and refuses it as it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[int, str]]]:
    """For each of the two files, its lines with an error and the error's code."""
    cache = tmp_path_factory.mktemp("mypy")
    files = [str(FOLDER / name) for name in ("must_check.py", "must_not_check.py")]
    config = str(ROOT / "pyproject.toml")
    options = ["--strict", "--config-file", config, "--cache-dir", str(cache), "--no-pretty"]
    out, err, _ = api.run([*options, *files])
    assert not err, err
    found: dict[str, set[tuple[int, str]]] = {"must_check.py": set(), "must_not_check.py": set()}
    for name, line, code in re.findall(
        r"(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", out, re.MULTILINE
    ):
        found[name].add((int(line), code))
    return found


def test_what_must_check_does(said: dict[str, set[tuple[int, str]]]) -> None:
    """Not one error in the API as users write it."""
    assert said["must_check.py"] == set()


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
