"""``bisect`` and ``profile``: which commit made a series rise, and where the time goes."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.utils import gate_repo
from tests.utils.asv_repo import BASE_STEPS, ROOT, package
from tests.utils.commands import run_command
from tests.utils.gate_repo import GateRepo

pytestmark = pytest.mark.slow

STEPS = "exact.track_steps('voice')"
BROKEN = {"stageflow/__init__.py": "raise RuntimeError('half a commit')\n"}


@pytest.fixture
def repo(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> GateRepo:
    """A repository on a branch without commits of its own yet."""
    return gate_repo.gated(tmp_path_factory, tmp_path)


def history(repo: GateRepo, *steps: int | None) -> list[str]:
    """Commit one package after another, None a broken one; returns the hashes."""
    return [
        repo.commit(f"Commit {number}", package(n) | {"n": str(number)} if n else BROKEN)
        for number, n in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("culprit", "series"), [(0, STEPS), (3, STEPS), (6, STEPS), (3, "timed('walk')")]
)
def test_the_commit_is_found(repo: GateRepo, culprit: int, series: str) -> None:
    """Wherever it is among seven, by single values or by pairs, and fewer than all are measured."""
    steps = [BASE_STEPS if n < culprit else BASE_STEPS * 3 // 2 for n in range(7)]
    hashes = history(repo, *steps)
    done = repo.pulse("bisect", series)
    assert done.returncode == 0, done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.split()[0] == hashes[culprit][: len(last.split()[0])]
    assert last.endswith(f"Commit {culprit}")
    found = re.search(r"1\.500 times \((\d) commits measured\)", done.stdout)
    assert found, done.stdout
    assert int(found[1]) <= 5


def test_commits_that_cannot_be_measured_are_gone_around(repo: GateRepo) -> None:
    """A broken commit beside the culprit leaves both, and says that either may be it."""
    history(repo, BASE_STEPS, None, BASE_STEPS * 2, BASE_STEPS * 2)
    done = repo.pulse("bisect", STEPS)
    assert done.returncode == 0, done.stdout
    assert "skipped: " in done.stdout
    assert "one of (those between cannot be measured)" in done.stdout
    assert [line.split()[-1] for line in done.stdout.splitlines()[-2:]] == ["1", "2"]


@pytest.mark.parametrize(
    ("steps", "arguments", "message"),
    [
        ((BASE_STEPS,), (STEPS,), "did not regress between"),
        ((), (STEPS,), "there is no commit between"),
        ((BASE_STEPS,), ("nonsense",), "no series has 'nonsense' in its name"),
        ((BASE_STEPS,), ("walk",), "is in the names of 2 series"),
        ((BASE_STEPS,), (STEPS, "--base", "nowhere"), "no commit 'nowhere'"),
        ((None,), (STEPS,), "half a commit"),
    ],
)
def test_what_cannot_be_searched_is_said(
    repo: GateRepo, steps: tuple[int | None, ...], arguments: tuple[str, ...], message: str
) -> None:
    """Without a rise, a range or a series the command ends with code 6 and says the fix."""
    history(repo, *steps)
    done = repo.pulse("bisect", *arguments)
    assert done.returncode == 6, done.stdout
    assert message in done.stdout


def test_both_flame_graphs(tmp_path: Path) -> None:
    """The page shows the graphs of base and head, which name the function that was looked at."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, clone], check=True)
    command = [sys.executable, "-m", "stageflow", "pulse", "profile", "instructions('bag.write')"]
    ends = ["--repository", str(clone), "--base", "HEAD", "--seconds", "2"]
    done = run_command([*command, *ends], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.split()[-1])
    text = page.read_text(encoding="utf-8")
    for side in ("base", "head"):
        assert f'data="{side}.svg"' in text
        drawn = ET.parse(page.with_name(f"{side}.svg")).getroot()
        titles = [node.text or "" for node in drawn.iter("{http://www.w3.org/2000/svg}title")]
        assert any("stageflow/engine/bag.py" in title for title in titles)
        shown = [node.text for node in drawn.iter() if node.get("id") == "title"]
        assert shown == [f"bag.write, {side}"]
