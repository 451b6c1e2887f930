"""The listings of docs/guides/providers.md work unchanged."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from stageflow.cli import make_parser
from tests.utils.commands import run_command
from tests.utils.listener import in_a_thread
from tests.utils.openai_server import KEY, OpenAIServer

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "providers.md"
TEXT = GUIDE.read_text(encoding="utf-8")
LISTINGS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("local", r"completed → .*\b(7|seven)\b.*\n"),
        ("commands", r"open the door\n"),
        ("service", r"Good morning!"),
        ("detect", r"de\n"),
    ],
)
def test_a_listing_works(name: str, printed: str, tmp_path: Path) -> None:
    """Without a warning, and prints what it is to print."""
    assert len(LISTINGS) == TEXT.count("```python\n") == 5
    server = OpenAIServer()
    with in_a_thread(server):
        done = run_command(
            [sys.executable, "-W", "error", "-c", LISTINGS[name]],
            cwd=tmp_path,
            env={**os.environ, "OPENAI_API_KEY": KEY, "SERVICE_URL": server.url, "NO_PROXY": "*"},
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(printed, done.stdout, re.DOTALL), done.stdout


def test_the_tests_of_a_provider_of_ones_own_pass(tmp_path: Path) -> None:
    """In a project that has nothing but the package."""
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    for name in ("detect", "test_detect"):
        (tmp_path / f"{name}.py").write_text(LISTINGS[name], encoding="utf-8")
    done = run_command(
        [sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "21 passed" in done.stdout


def test_the_commands_are_those_that_errors_name() -> None:
    """One line for each extra."""
    for extra in ("openai", "local"):
        assert f"`pip install -e 'path/to/this/clone[{extra}]'" in TEXT


def test_the_command_lines_parse() -> None:
    """With the options that there are."""
    lines = re.findall(r"^\$ (?:.*\| )?stageflow (run .*)$", TEXT, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        make_parser().parse_args(shlex.split(line))
