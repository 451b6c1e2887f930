"""The workflows' jobs of the gate and of the site pass in the clones that hosted runners make."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.cli.init import TEMPLATE
from stageflow.pulse.gate import Exit
from tests.utils import asv_repo, gate_repo
from tests.utils.asv_repo import BASE_STEPS, ROOT, ScratchRepo, package
from tests.utils.hosted_runner import Event, Runner, run_job

pytestmark = pytest.mark.slow

NO_COMMIT = "0" * 40
PULL_REQUEST = Event("pull_request", "refs/pull/1/merge", base_ref="main")
#: Where the workflows are: this repository's, and those of a project that `stageflow init` makes.
OURS, THEIRS = ROOT / ".github/workflows", TEMPLATE / "dot-github/workflows"
_DRILL = '"""Takes the place of the long drill."""\n'
_SETTINGS_OF_DOCS = "site_name: shop\nsite_dir: .asv/html/docs\n"


def renamed(files: dict[str, str]) -> dict[str, str]:
    """The files of a package that does not hide the one that measures it."""
    return {
        name.replace("stageflow", "shop"): text.replace("stageflow", "shop")
        for name, text in files.items()
    }


def small(factory: pytest.TempPathFactory, folder: Path) -> ScratchRepo:
    """A repository of one commit, with an asv environment that other tests have made already."""
    measured = asv_repo.measured(factory).repo
    settings = json.loads((measured.path / "asv.conf.json").read_text("utf-8"))
    files = {
        "pyproject.toml": (measured.path / "pyproject.toml").read_text("utf-8"),
        "asv.conf.json": json.dumps(settings | {"env_dir": str(measured.environments)}),
    }
    files |= package(BASE_STEPS) | gate_repo.benchmark_files() | {"benchmarks/__init__.py": ""}
    budgets = files["benchmarks/budgets.toml"]
    night = budgets.index('[[budget]]\nmetric = "Steps by night"')
    files["benchmarks/budgets.toml"] = (
        budgets[:night] + budgets[budgets.index("[[without_budget]]") :]
    )
    files |= {
        ".gitignore": ".asv/\n__pycache__/\n/.venv/\n/Makefile\n/gate.*\n",
        "tools/__init__.py": "",
        "tools/outage_simulation.py": '"""Takes the place of the long simulation."""\n',
        "docs/index.md": "Words\n",
        "mkdocs.yml": "site_name: shop\nsite_dir: .asv/html/docs\n",
    }
    repo = ScratchRepo(folder / "repo", measured.home, measured.environments)
    shutil.copytree(ROOT / ".ci", repo.path / ".ci")
    repo.git("init", "--quiet", "--initial-branch", "main")
    repo.commit("A shop", renamed(files))
    return repo


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A runner of a server with ``main``, a branch, and the merge commits of two pull requests."""
    folder = tmp_path_factory.mktemp("hosted")
    repo = small(tmp_path_factory, folder)
    repo.git("switch", "--quiet", "--create", "feature")
    repo.commit("Words", {"README.md": "words"})
    repo.git("switch", "--quiet", "main")
    repo.commit("Main moves on", {"NEWS.md": "news"})
    repo.git("switch", "--quiet", "--detach")
    repo.git("merge", "--quiet", "--no-ff", "--message", "Merge feature into main", "feature")
    repo.git("update-ref", "refs/pull/1/merge", "HEAD")
    repo.commit("A tenth slower", renamed(package(BASE_STEPS * 11 // 10)))
    repo.git("update-ref", "refs/pull/2/merge", "HEAD")
    repo.git("switch", "--quiet", "main")
    origin = folder / "origin"
    repo.git("clone", "--quiet", "--mirror", str(repo.path), str(origin))
    programs = folder / "programs"
    programs.mkdir()
    python = f'exec "{sys.executable}"'
    # Valgrind is installed by others, or missing.
    for name, line in (
        ("python", python),
        ("mkdocs", f"{python} -m mkdocs"),
        ("sudo", "exit 0 ||"),
    ):
        script = programs / name
        script.write_text(f'#!/bin/sh\n{line} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return Runner(origin, programs, ROOT / "Makefile", repo.env)


def exact_only(runner: Runner, event: Event, folder: Path) -> str:
    """Run our gate's job on the exact series alone: enough to see which commits it compares."""
    makefile = folder.with_name("Makefile")
    text = (ROOT / "Makefile").read_text("utf-8")
    assert text.count("pulse gate --base") == 1
    makefile.write_text(text.replace("pulse gate", "pulse gate --only exact"), encoding="utf-8")
    return judged(replace(runner, makefile=makefile), event, folder)


def judged(
    runner: Runner, event: Event, folder: Path, workflows: Path = OURS, code: int = 0
) -> str:
    """Run the gate's job and return which commits its report is about, and what it says."""
    on = replace(runner, makefile=TEMPLATE / "Makefile") if workflows is THEIRS else runner
    done = run_job(workflows / "gate.yml", "gate", event, on, folder)
    found = Exit(code).name
    assert f"Gate: {found} " in done.output, done.output
    # All steps ran, the last one whatever the gate found, and the gate's own code is in the log.
    *others, gate, show = done.codes
    assert gate.startswith("make gate ")
    assert show == 'cat gate.md >> "$GITHUB_STEP_SUMMARY"'
    assert [name for name, ended in done.codes.items() if ended] == ([gate] if code else [])
    assert others
    assert (f"Error {code}\n" in done.output) == (code != 0)
    return done.summary


def commits(runner: Runner, base: str, head: str) -> str:
    """Return how a report names two commits."""
    return "..".join(runner.git(runner.origin, "rev-parse", rev)[:10] for rev in (base, head))


def test_a_pull_request_passes(runner: Runner, tmp_path: Path) -> None:
    """A merge commit in a clone without a local branch is compared with the newest main."""
    report = judged(runner, PULL_REQUEST, tmp_path / "clone", THEIRS)
    assert commits(runner, "main", PULL_REQUEST.ref) in report


@pytest.mark.parametrize("workflows", [OURS, THEIRS], ids=["ours", "of init"])
def test_a_slower_pull_request_fails_and_shows_its_report(
    runner: Runner, tmp_path: Path, workflows: Path
) -> None:
    """A tenth more work ends the job with the gate's code 1, but for the report."""
    event = replace(PULL_REQUEST, ref="refs/pull/2/merge")
    report = judged(runner, event, tmp_path / "clone", workflows, code=1)
    assert commits(runner, "main", event.ref) in report


def test_a_push_is_compared_with_the_commit_before_it(runner: Runner, tmp_path: Path) -> None:
    """A push to main is compared with what main was before."""
    before = runner.git(runner.origin, "rev-parse", "main~1")
    event = Event("push", "refs/heads/main", before=before)
    report = exact_only(runner, event, tmp_path / "clone")
    assert commits(runner, "main~1", "main") in report


def test_the_first_push_of_a_branch_is_compared_with_main(runner: Runner, tmp_path: Path) -> None:
    """Without a commit before it, a branch is compared with where it left main."""
    event = Event("push", "refs/heads/feature", before=NO_COMMIT)
    report = exact_only(runner, event, tmp_path / "clone")
    assert commits(runner, "main~1", "feature") in report


@pytest.mark.parametrize(("before", "forced"), [(NO_COMMIT, False), ("f" * 40, True)])
def test_a_main_without_a_past_is_compared_with_nothing(
    runner: Runner, tmp_path: Path, before: str, forced: bool
) -> None:
    """Where main is new, or its past was replaced, the report says that only budgets are judged."""
    event = Event("push", "refs/heads/main", before=before, forced=forced)
    report = exact_only(runner, event, tmp_path / "clone")
    assert "the same commit: only budgets are judged" in report


def test_a_shallow_clone_does_not_pass(runner: Runner, tmp_path: Path) -> None:
    """A checkout of the newest commit alone has no base: the set-up fails and names the fix."""
    clone = tmp_path / "clone"
    runner.check_out(clone, Event("push", "refs/heads/main"), depth=1)
    done = runner.run(clone, f"{runner.programs}/python -m stageflow pulse gate", {})
    assert done.returncode == 6, done.stdout
    assert "fetch-depth: 0" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("workflows", "ref"),
    [(OURS, "refs/heads/main"), (THEIRS, "refs/heads/feature")],
    ids=["ours, main", "of init, another branch"],
)
def test_the_site_is_published(runner: Runner, tmp_path: Path, workflows: Path, ref: str) -> None:
    """The site shows main's commits, whatever is checked out; our results are kept."""
    on = replace(runner, makefile=TEMPLATE / "Makefile") if workflows is THEIRS else runner
    event = Event("workflow_dispatch", ref)
    done = run_job(workflows / "pages.yml", "measure", event, on, tmp_path / "clone")
    assert not any(done.codes.values()), done.output
    index = json.loads((done.clone / ".asv/html/index.json").read_text(encoding="utf-8"))
    main = runner.git(runner.origin, "rev-list", "main").split()
    assert set(index["revision_to_hash"].values()) == set(main)
    assert (done.clone / ".asv/html/central.html").is_file()
    assert runner.git(done.clone, "status", "--porcelain") == ""
    if workflows is THEIRS:  # the command of its next job, on the same results
        shutil.copy(TEMPLATE / "benchmarks/alerts.toml", done.clone / "benchmarks")
        alert = on.run(done.clone, "make alert", {})
        assert alert.returncode == 0, alert.stdout
