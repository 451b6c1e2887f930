"""``asv continuous main HEAD`` tells slow from same, with the commands of our ``asv.conf.json``.

Only the benchmark that counts its work decides here. On a busy machine even CPU time differed by
1.47 between two commits of identical code, so a test that let a time decide would fail by chance.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.utils import asv_repo
from tests.utils.asv_repo import BASE_STEPS, ROOT, ScratchRepo
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

COUNTED = ("--bench", "track_steps")


@pytest.fixture
def repo(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ScratchRepo:
    """A copy of the measured repository with its newest work on a branch off ``main``."""
    copy = asv_repo.measured(tmp_path_factory).copy(tmp_path)
    copy.git("checkout", "--quiet", "-b", "work", "main")
    return copy


def test_planted_slowdown_is_found(repo: ScratchRepo) -> None:
    """A commit that does 1.5 times the work of main ends the comparison with code 1."""
    repo.configure()  # pip builds and installs both, by the commands of this repository
    steps = BASE_STEPS + 5_000
    repo.commit("Slower", asv_repo.package(steps * 3 // 2, added_later=True))
    done = repo.asv("continuous", "main", "HEAD", *COUNTED)
    assert done.returncode == 1, done.stdout
    assert "PERFORMANCE DECREASED" in done.stdout
    changed = [line.split("|")[1:6] for line in done.stdout.splitlines() if line.startswith("| +")]
    ratios = {name.strip(): float(ratio) for _, _, _, ratio, name in changed}
    assert ratios["work.track_steps"] == 1.5


def test_identical_commit_is_not_alarmed_at(repo: ScratchRepo) -> None:
    """A commit with the same package as main ends with code 0, and everything was measured."""
    repo.commit("Words only", {"README.md": "Words.\n"})
    done = repo.asv("continuous", "main", "HEAD", *COUNTED)
    assert done.returncode == 0, done.stdout
    assert "BENCHMARKS NOT SIGNIFICANTLY CHANGED" in done.stdout
    assert {repo.git("rev-parse", c)[:8] for c in ("main", "HEAD")} <= repo.results().keys()


def test_environment_has_what_is_pinned(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commits are measured by the asv_runner that the project pins, and by no other."""
    env = asv_repo.measured(tmp_path_factory).repo.environments
    assert env is not None
    (python,) = env.glob("*/bin/python")
    query = "import importlib.metadata as m; print(m.version('asv_runner'))"
    installed = run_command([python, "-c", query], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pin = f"asv_runner=={installed.stdout.strip()}"
    assert pin in project["optional-dependencies"]["bench"]
