"""The gate on a project of another package, with asv's settings and ordinary benchmarks alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.utils.asv_repo import ScratchRepo
from tests.utils.session import once

pytestmark = pytest.mark.slow

REPORT = ".asv/report.json"
_CONFIG = """\
{
    // As `asv quickstart` writes it, with comments; the branch is the default one.
    "version": 1,
    "project": "toy-lib",
    "repo": "..",
    "environment_type": "virtualenv"
}
"""
_PACKAGE = """\
def parse(n):
    return [str(i) for i in range({work} * n)]


def size(n):
    return {size} * n
"""
_BENCHMARKS = """\
import toylib


class Suite:
    params = [[100], ["a'b", "c"]]

    def setup(self, n, kind):
        print("noise")
        self.data = toylib.parse(n)

    def time_sort(self, n, kind):
        assert self.data  # what is consumed is set up again before each call
        toylib.parse(n)
        self.data.clear()

    def track_size(self, n, kind):
        return toylib.size(n)


class Cached:
    def setup_cache(self):
        return [1, 2]

    def time_sum(self, data):
        sum(data)


def time_skipped():
    pass


def _skip():
    raise NotImplementedError


time_skipped.setup = _skip


def timeraw_import():
    return "import toylib"


def peakmem_parse():
    toylib.parse(100)


def track_by_chance():
    import random

    return random.SystemRandom().uniform(1, 2)
"""


@pytest.fixture
def toy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> ScratchRepo:
    """A repository whose asv folder is not its root, and whose package is in ``src``.

    A commit of words was judged.
    """
    folder = once(tmp_path_factory, "toy", lay_and_judge)
    return ScratchRepo(folder / "repo", folder / "home").copy(tmp_path)


def lay_and_judge(folder: Path) -> None:
    """Make the repository, and let the gate pass its commit of words."""
    (folder / "home").mkdir()
    repo = ScratchRepo(folder / "repo", folder / "home")
    repo.path.mkdir()
    repo.git("init", "--quiet", "--initial-branch", "master")
    files = {"perf/asv.conf.json": _CONFIG, "perf/benchmarks/__init__.py": ""}
    files |= {"perf/benchmarks/suite.py": _BENCHMARKS, ".gitignore": ".asv/\n__pycache__/\n"}
    repo.commit("The package", files | {"src/toylib/__init__.py": _PACKAGE.format(work=1, size=8)})
    repo.git("switch", "--quiet", "--create", "work")
    repo.commit("Words", {"README.md": "Words.\n"})
    judged(repo, 0)


def judged(repo: ScratchRepo, code: int, *options: str) -> dict[str, dict[str, Any]]:
    """Run the gate, which has to end with `code`, and return its verdicts by series."""
    project = ScratchRepo(repo.path / "perf", repo.home)
    done = project.pulse("gate", "--json", str(project.path / REPORT), *options)
    assert done.returncode == code, done.stdout
    return verdicts(repo)


def verdicts(repo: ScratchRepo) -> dict[str, dict[str, Any]]:
    """Return the verdicts that were written last, by series."""
    found = json.loads((repo.path / "perf" / REPORT).read_text(encoding="utf-8"))["verdicts"]
    return {verdict["series"]: verdict for verdict in found}


def test_a_commit_of_words_passes(toy: ScratchRepo) -> None:
    """Each benchmark is measured in its way, on both commits, and none alarms."""
    kinds = {series: verdict["kind"] for series, verdict in verdicts(toy).items()}
    assert kinds.pop("timed('suite.time_skipped')") == "skipped on both"
    skipped = kinds.pop("instructions('suite.time_skipped')")
    counts = shutil.which("valgrind") is not None
    assert skipped == ("skipped on both" if counts else "not counted")
    assert len(kinds) == 11
    apart = {series for series in kinds if not series.startswith("timed(")}
    assert {kinds[series] for series in apart} <= {"unchanged", "not counted", "slower", "faster"}
    assert kinds["instructions('suite.Cached.time_sum')"] == (
        "unchanged" if counts else "not counted"
    )
    assert {kinds[series] for series in set(kinds) - apart} <= {"unchanged", "slower", "faster"}


def test_what_became_dearer_is_named(toy: ScratchRepo) -> None:
    """Instructions and values that rose fail the gate, and nothing else does."""
    slower = _PACKAGE.format(work=3, size=9)
    toy.commit("Slower", {"src/toylib/__init__.py": slower})
    found = judged(toy, 1, "--no-timed")
    risen = {series for series, verdict in found.items() if verdict["kind"] == "regression"}
    for kind in ('"a\'b"', "'c'"):
        assert f"value({f'suite.Suite.track_size(100, {kind})'!r})" in risen
        if shutil.which("valgrind"):
            assert f"instructions({f'suite.Suite.time_sort(100, {kind})'!r})" in risen
    assert not any("Cached" in series or "by_chance" in series for series in risen)
