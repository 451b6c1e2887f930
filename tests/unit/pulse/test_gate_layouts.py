"""The gate finds the package of a commit wherever a project keeps it, and commits in any clone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stageflow.pulse import PulseError
from stageflow.pulse.gate.command import GateOptions, _commits, _edited
from stageflow.pulse.gate.worker import tree
from stageflow.pulse.history import AsvProject
from tests.utils.asv_repo import ScratchRepo

SETTINGS = {"project": "toy-lib", "repo": ".", "branches": ["main"]}


def made(folder: Path, files: dict[str, str], **settings: str) -> ScratchRepo:
    """Return a repository of two commits, the second of which changes a benchmark."""
    folder.mkdir()
    repo = ScratchRepo(folder, folder.parent)
    repo.git("init", "--quiet", "--initial-branch", "main")
    config = {"asv/asv.conf.json": json.dumps(SETTINGS | settings)}
    repo.commit("First", {**files, **config, "benchmarks/suite.py": ""})
    repo.commit("Second", {"benchmarks/suite.py": "# changed\n"})
    return repo


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        ("", {}),
        ("", {"repo": "https://example.invalid/toy-lib.git"}),
        ("lib/", {"repo": ".."}),
        ("python/core/", {"repo": "..", "repo_subdir": "python/core"}),
    ],
)
def test_a_package_is_found(tmp_path: Path, place: str, settings: dict[str, str]) -> None:
    """It may be in the root, in another folder, or in a sub-folder that asv.conf.json names."""
    files = {f"{place}toy_lib/__init__.py": "", f"{place}toy_lib/more.py": ""}
    settings = {"repo": "..", "benchmark_dir": "../benchmarks"} | settings
    repo = made(tmp_path / "repo", files, **settings)
    project = AsvProject.load(repo.path / "asv", reads_only=True)
    with tree(project, "HEAD") as found:
        assert (found / "toy_lib/more.py").is_file()
    assert _edited(project, "HEAD~1") == ("benchmarks/suite.py",)


def test_an_installed_package_is_not_measured_in_place_of_a_commit(tmp_path: Path) -> None:
    """A repository of benchmarks alone is refused: both commits would look the same."""
    repo = made(tmp_path / "repo", {}, project="pytest", repo="..")
    with (
        pytest.raises(PulseError, match=r"no package 'pytest'.*so .*/pytest/__init__.py would be"),
        tree(AsvProject.load(repo.path / "asv", reads_only=True), "HEAD"),
    ):
        pass


@pytest.mark.parametrize(("depth", "base"), [(1, None), (1, "HEAD~1"), (2, None), (2, "main")])
def test_a_shallow_clone_without_the_base_is_refused(
    tmp_path: Path, depth: int, base: str | None
) -> None:
    """A head is not taken for a first commit if its past was not fetched."""
    with pytest.raises(PulseError, match=r"shallow.*fetch-depth: 0"):
        _commits(shallow(tmp_path, depth), GateOptions(base))


def test_a_shallow_clone_that_has_the_base_is_enough(tmp_path: Path) -> None:
    """A commit before the head, fetched with it, is its base in the whole history as well."""
    clone = shallow(tmp_path, 2)
    base, head = clone.git("rev-parse", "HEAD~1", "HEAD").split()
    assert _commits(clone, GateOptions("HEAD~1")) == (base, head)


def shallow(folder: Path, depth: int) -> AsvProject:
    """Return a clone of so many commits."""
    repo = made(folder / "repo", {}, repo="..")
    repo.commit("Third", {"file": ""})
    repo.git("clone", "--quiet", f"--depth={depth}", f"file://{repo.path}", str(folder / "clone"))
    return AsvProject.load(folder / "clone/asv", reads_only=True)
