"""The listings of the testing guides work, in a project that has nothing but the package."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("testing*.md"))
_LISTING = re.compile(r"^```python\n# (\S+\.py)(: fails)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def guides() -> str:
    """The text of all pages."""
    return "\n".join(page.read_text(encoding="utf-8") for page in GUIDES)


def listings() -> dict[str, tuple[str, bool]]:
    """The guide's listings by the file that they belong to, and whether they are to fail."""
    text = guides()
    found = {name: (code, bool(fails)) for name, fails, code in _LISTING.findall(text)}
    assert len(found) == text.count("```python\n"), "a listing begins with the name of its file"
    return found


TESTS = [name for name in listings() if name.startswith("tests/")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project made of the guide's listings, in which its commands were given."""
    root = tmp_path_factory.mktemp("guide")
    (root / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    for name, (code, _) in listings().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    for line in re.findall(r"^\$ stageflow (.*)$", guides(), re.MULTILINE):
        command = [sys.executable, "-m", "stageflow", *shlex.split(line), "--scale", "0"]
        subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    return root


def run_pytest(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest there, without the plugin that would run async tests in a real loop."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    return run_command(
        [sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider", *args],
        cwd=project,
        env=environment,
    )


@pytest.mark.parametrize("name", TESTS)
def test_a_listing_ends_as_the_guide_says(project: Path, name: str) -> None:
    """Those that are to pass do, and the one that shows a failure fails, by its assertion."""
    _, fails = listings()[name]
    done = run_pytest(project, name)
    assert done.returncode == (1 if fails else 0), done.stdout + done.stderr
    assert ("AssertionError" in done.stdout) == fails


def test_the_failure_is_replayed_by_its_token(project: Path) -> None:
    """The command that the failing listing prints fails again, in its one test."""
    (name,) = [name for name, (_, fails) in listings().items() if fails]
    failed = run_pytest(project, name)
    found = re.search(r"pytest (--simulate=\S+)", failed.stdout)
    assert found is not None, failed.stdout
    again = run_pytest(project, found.group(1))
    assert again.returncode == 1, again.stdout + again.stderr
    assert "1 failed" in again.stdout
    assert "passed" not in again.stdout


def test_the_mismatch_is_reported_as_the_guide_says(project: Path) -> None:
    """Word by word, but for where the lines break."""
    text = guides()
    (shown,) = re.findall(r"^```text\n(tests/monday.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    show = (
        "import sys; sys.path += ['.', 'tests']\n"
        "from test_recorded import *\n"
        "edited = Pipeline('turn', [transcript, answer])\n"
        "recorded('tests/monday.json').replay(edited)\n"
    )
    done = run_command([sys.executable, "-c", show], cwd=project)
    told = done.stderr.splitlines()[-1].partition("RecordingMismatchError: ")[2]
    assert told == " ".join(shown.split())


def test_the_benchmark_measures(project: Path) -> None:
    """Run by itself in this repository, it prints a line with a time."""
    (name,) = [name for name in listings() if name.startswith("benchmarks/")]
    done = run_command(
        [sys.executable, "-W", "error", str(project / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Json\.track_100_stages +[\d.]+ [mµn]s", done.stdout), done.stdout


def test_the_guide_speaks_of_every_kind_of_test() -> None:
    """Each package of the kit that its first table names has a listing that uses it."""
    packages = {*re.findall(r"`(stageflow\.testing\.\w+)` \|$", guides(), re.MULTILINE)}
    code = "".join(code for code, _ in listings().values())
    assert len(packages) == 5
    words = set(re.findall(r"\w+", code))
    unused = [name for name in packages if not words & {*importlib.import_module(name).__all__}]
    assert unused == []
