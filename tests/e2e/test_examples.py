"""Each example runs as a reader would run it, and prints what its first comment says."""

from __future__ import annotations

import ast
import os
import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: It serves until it is stopped, so `test_browser_voice.py` runs it.
SERVER = ROOT / "examples" / "browser_voice.py"
ENDING = [path for path in EXAMPLES if path != SERVER]


@pytest.mark.parametrize("path", ENDING, ids=lambda path: path.stem)
def test_it_prints_what_it_says(path: Path, tmp_path: Path) -> None:
    """To the letter, without a warning, from any folder, and with nothing left behind."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None
    shown = textwrap.dedent(text.split("\n\n")[-1])
    done = run_command(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == shown.strip()
    assert list(tmp_path.iterdir()) == []


def test_each_is_short_and_in_the_list() -> None:
    """None is longer than 120 lines, a server than 200, and the list of them names each."""
    listed = re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text())
    assert sorted(listed) == [path.name for path in EXAMPLES]
    assert all(len(path.read_text().splitlines()) <= 120 for path in ENDING)
    assert len(SERVER.read_text().splitlines()) <= 200
