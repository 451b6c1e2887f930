"""How a clone knows the branch that is measured: its own, a remote's, or any other revision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate.measure import resolved
from stageflow.pulse.history import AsvProject, run_git
from tests.utils.histories import History


@pytest.fixture
def project(tmp_path: Path) -> AsvProject:
    """A clone of three commits on ``main`` with a detached HEAD."""
    history = History(tmp_path)
    history.commit(3)
    history.project.git("checkout", "--quiet", "--detach")
    settings = {"branches": ["main"], "results_dir": ".asv/results"}
    (tmp_path / "asv.conf.json").write_text(json.dumps(settings), encoding="utf-8")
    return history.project


def only_on(project: AsvProject, *remotes: str) -> None:
    """Let remotes have ``main``, each at another commit, and this clone not."""
    for number, remote in enumerate(remotes):
        project.git("update-ref", f"refs/remotes/{remote}/main", f"HEAD~{number}")
    project.git("branch", "--quiet", "-D", "main")


def test_the_branch_of_the_clone_comes_first(project: AsvProject) -> None:
    """A branch of a remote is not looked at, and neither is a tag of the same name."""
    project.git("update-ref", "refs/remotes/origin/main", "HEAD~1")
    project.git("tag", "main", "HEAD~2")
    assert project.branch_ref() == "refs/heads/main"
    assert resolved(project, "main") == project.commit("HEAD")


def test_without_it_origin_comes_first(project: AsvProject) -> None:
    """Of several remotes, origin's branch is taken; a file of that name changes nothing."""
    only_on(project, "fork", "origin")
    (project.root / "main").write_text("", encoding="utf-8")
    assert project.branch_ref() == "refs/remotes/origin/main"
    assert resolved(project, "main") == project.commit("HEAD~1")


def test_a_base_may_be_a_branch_of_any_remote(project: AsvProject) -> None:
    """A branch that is named without its remote is found, but a tag of that name comes first."""
    project.git("update-ref", "refs/remotes/fork/next", "HEAD~1")
    assert resolved(project, "next") == resolved(project, "fork/next") == project.commit("HEAD~1")
    project.git("tag", "next", "HEAD~2")
    assert resolved(project, "next") == project.commit("HEAD~2")


def test_asv_is_given_the_branches_alone(project: AsvProject) -> None:
    """It finds them by their names, also one that only a remote has; what it reads with is gone."""
    only_on(project, "origin")
    (project.root / "asv.conf.json").write_text('{"branches": ["main", "HEAD"], "x": 1}')
    project.git("branch", "old", "HEAD~2")
    project.git("tag", "--annotate", "--message=v1", "v1", "HEAD~1")
    before = sorted(project.root.iterdir())
    with project.config_of_branch() as options:
        given = Path(options[-1])
        assert given.parent == project.root
        settings = json.loads(given.read_text(encoding="utf-8"))
        repository = Path(settings.pop("repo"))
        assert settings == {"branches": ["main", "HEAD"], "x": 1}
        refs = run_git(repository, "for-each-ref", "--format=%(refname)").split()
        assert refs == ["refs/heads/HEAD", "refs/heads/main", "refs/tags/v1"]
        for name, same in (("main", "HEAD"), ("HEAD", "HEAD"), ("v1", "HEAD~1")):
            asked = ("rev-list", "--first-parent", name, "--")
            assert run_git(repository, *asked) == project.git("rev-list", same, "--")
    assert sorted(project.root.iterdir()) == before
    assert not repository.exists()


def test_asv_is_given_what_a_shallow_clone_has(project: AsvProject, tmp_path: Path) -> None:
    """Commits that were not fetched are not looked for."""
    clone = tmp_path / "clone"
    project.git("clone", "--quiet", "--depth=2", project.root.as_uri(), str(clone))
    (clone / "asv.conf.json").write_text('{"branches": ["HEAD"]}')
    with replace(project, root=clone, branch="HEAD").config_of_branch() as options:
        settings = json.loads(Path(options[-1]).read_text(encoding="utf-8"))
        assert len(run_git(Path(settings["repo"]), "rev-list", "--all").split()) == 2


def test_a_branch_that_nobody_has(project: AsvProject) -> None:
    """The error names the branch and the command that fetches it."""
    project.git("branch", "--quiet", "-D", "main")
    project.git("update-ref", "refs/remotes/origin/main/older", "HEAD")
    with pytest.raises(PulseError, match=r"no branch 'main'.*git fetch origin main:main"):
        project.branch_ref()
