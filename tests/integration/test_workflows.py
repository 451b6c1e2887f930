"""The workflows: what they call runs here, too, and they have no more rights than they need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tests.utils.working_copy import working_copy

PROGRAM = ".venv/bin/python -m tools."
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _jobs() -> list[Any]:
    return [
        pytest.param(path, name, job, id=f"{path.stem}.{name}")
        for path in WORKFLOWS
        for name, job in _load(path)["jobs"].items()
    ]


def _commands() -> list[str]:
    """Every command line of every step, those of a matrix among them."""
    found = []
    for path in WORKFLOWS:
        for job in _load(path)["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {}).get("include", ())
            found += [row["command"] for row in matrix if "command" in row]
            found += [step["run"] for step in job.get("steps", ()) if "run" in step]
    lines = {part for line in found for part in line.split(" && ")}
    return sorted(line for line in lines if not line.startswith("${{"))


def _run(command: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "MAKE", "PYTEST"))}
    return run_command(["bash", "-c", command], cwd=folder, env=kept | environment)


@pytest.mark.parametrize(("path", "name", "job"), _jobs())
def test_least_rights(path: Path, name: str, job: dict[str, Any]) -> None:
    """A job may read the contents; what more it may is said for it alone, and never for all."""
    assert _load(path)["permissions"] == {"contents": "read"}
    more = set(job.get("permissions", {}).items()) - {("contents", "read")}
    allowed = {
        "nightly.store": {("contents", "write")},
        "pages.store": {("contents", "write")},
        "release.publish": {("id-token", "write")},
        "pages.publish": {("pages", "write"), ("id-token", "write")},
    }
    assert more == allowed.get(f"{path.stem}.{name}", set())
    if ("contents", "write") in more:  # runs no package, which could use the right
        assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/results store"]
    assert job["timeout-minutes"] <= 180


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_no_secret_is_in_reach(path: Path) -> None:
    """Each action is named by the hash of a commit; a fork's pull request finds no secret."""
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in used)
    assert "secrets." not in text
    assert "pull_request_target" not in text


@pytest.mark.parametrize("command", [line for line in _commands() if line.startswith("make ")])
def test_every_target_is_there(command: str) -> None:
    """Each step calls a target that this Makefile has, and that comes to run something."""
    done = _run(command.replace("make ", "make --dry-run --always-make ", 1), SEED="1", BASE="HEAD")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        'make load LOADS=/dev/null LOAD_ARGS="--seconds 1 --rate 20"',
        # The planted bugs of one shard: test_planted_bugs.py searches all of them.
        'make stress-test SCHEDULES=1800 STRESS_ARGS="--planted --shard 2/30"',
    ],
)
def test_targets_run_in_their_quick_form(tmp_path: Path, command: str) -> None:
    """With little to do they pass and print something, whatever was measured in this clone.

    `make test` is not among them: within a test it would take the coverage away from the outer one.
    """
    done = _run(command, working_copy(tmp_path / "clone"), SEED="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_budgets_of_unmeasured_series_are_not_a_success(tmp_path: Path) -> None:
    """A clone without results does not report that no budget is exceeded."""
    done = _run("make budgets", working_copy(tmp_path / "clone"))
    assert done.returncode != 0, done.stdout
    assert "Nothing of it was measured on this commit" in done.stdout
    assert "Error 4" in done.stderr


def test_all_other_steps_are_known() -> None:
    """A step that is not a target of make is one of these; a new kind needs its own test."""
    others = [line for line in _commands() if not line.startswith(("make ", PROGRAM))]
    assert others == [
        ".ci/programs valgrind",
        ".ci/results fetch",
        ".ci/results store",
        ".venv/bin/stageflow pulse merge .asv/nightly/*",
        'cat gate.md >> "$GITHUB_STEP_SUMMARY"',
        "git merge-base --is-ancestor HEAD origin/main",
    ]


def _steps(path: Path, job: str) -> list[str]:
    """The actions, without their versions, and the commands of a job."""
    steps = _load(path)["jobs"][job]["steps"]
    return [step["run"] if "run" in step else step["uses"].partition("@")[0] for step in steps]


def test_the_gate_has_all_its_steps() -> None:
    """Each one counts: valgrind for the counts, the cache for what was measured, the report."""
    checkout = ["actions/checkout", "actions/setup-python"]
    gate, show = 'make gate {}GATE_ARGS="--machine ci --markdown gate.md{}"', "cat gate.md >> {}"
    show = show.format('"$GITHUB_STEP_SUMMARY"')
    assert _steps(ROOT / ".github/workflows/gate.yml", "gate") == [
        *(*checkout, "actions/cache/restore", ".ci/programs valgrind"),
        *(gate.format('BASE="$BASE" ', " --json gate.json"), show),
        *("actions/upload-artifact", "actions/cache/save"),
    ]
    laid = ROOT / "stageflow/cli/template/dot-github/workflows"
    install = "sudo apt-get update --quiet && sudo apt-get install --quiet --yes valgrind"
    assert _steps(laid / "gate.yml", "gate") == [*checkout, install, gate.format("", ""), show]
    assert _steps(laid / "pages.yml", "alert")[2:] == ["actions/cache/restore", "make alert"]


def test_only_what_was_tested_on_main_is_released() -> None:
    """Publishing waits for the build, and the build for the tests of a tag on main."""
    jobs = _load(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("tests", "build")
    steps = [step["run"] for step in jobs["tests"]["steps"] if "run" in step]
    assert steps == ["git merge-base --is-ancestor HEAD origin/main", "make lint", "make test"]


def test_the_build_writes_metadata_that_the_index_takes() -> None:
    """The pinned action to publish knows metadata up to 2.4, which flit_core writes before 4."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"]["requires"] == ["flit_core>=3.12,<4"]
    # What that backend has written when this clone was installed.
    written = metadata("stageflow")["Metadata-Version"]
    assert tuple(map(int, written.split("."))) <= (2, 4)


def test_what_the_workflows_install_is_locked_by_hashes() -> None:
    """Each pin of the development's extra, in its version, and nothing without a hash."""
    locked = (ROOT / ".ci" / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==([\w.]+)((?:.*\\\n)*.*)", locked, re.MULTILINE)
    assert [name for name, _, rest in entries if "--hash=sha256:" not in rest] == []
    versions = {name: version for name, version, _ in entries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = "\n".join(project["optional-dependencies"]["dev"])
    pins = dict(re.findall(r"^([\w-]+)[^=\n]*==([\w.]+)", wanted, re.MULTILINE))
    assert {name: versions.get(name) for name in pins} == pins


def test_updates_of_actions_and_packages_are_proposed() -> None:
    """Each pin has somebody who looks for a newer version."""
    found = _load(ROOT / ".github" / "dependabot.yml")
    assert {update["package-ecosystem"] for update in found["updates"]} == {"github-actions", "pip"}


@pytest.mark.parametrize("command", [line for line in _commands() if line.startswith(PROGRAM)])
def test_every_program_has_these_options(command: str) -> None:
    """Each program of tools/ that a step calls exists, and knows the options of the call."""
    name, *words = command.removeprefix(PROGRAM).split()
    done = _run(f"{sys.executable} -m tools.{name} --help")
    assert done.returncode == 0, done.stderr
    assert [word for word in words if word.startswith("--") and word not in done.stdout] == []


def _git(folder: Path, *arguments: str) -> str:
    done = run_command(["git", *arguments], cwd=folder, check=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a bare repository, with the script in it."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.invalid")
    bare, clone = tmp_path / "origin", tmp_path / "clone"
    _git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(bare))
    _git(tmp_path, "clone", "--quiet", str(bare), str(clone))
    (clone / ".ci").mkdir()
    script = clone / ".ci" / "results"
    script.write_bytes((ROOT / ".ci" / "results").read_bytes())
    script.chmod(0o755)
    (clone / ".gitignore").write_text("/.asv/\n")
    _git(clone, "add", "--all")
    _git(clone, "commit", "--quiet", "--message", "First")
    return clone


def _results(clone: Path, command: str) -> str:
    done = run_command([clone / ".ci" / "results", command], check=True)
    return done.stdout


def test_results_come_back(clone: Path) -> None:
    """Fetched results equal the stored ones, run after run, and the checkout stays unchanged."""
    assert "has no branch results yet" in _results(clone, "fetch")
    kept = clone / ".asv" / "results" / "ci"
    kept.mkdir(parents=True)
    for number in (1, 2):
        (kept / f"{number:08x}-env.json").write_text(str(number))
        _results(clone, "store")
    assert _git(clone, "status", "--porcelain") == ""
    assert _git(clone, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    for path in kept.iterdir():
        path.unlink()
    assert "Fetched 2 results" in _results(clone, "fetch")
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        "00000001-env.json": "1",
        "00000002-env.json": "2",
    }
    assert _git(clone.parent / "origin", "rev-list", "--count", "results") == "2"


def test_nothing_to_store_is_said(clone: Path) -> None:
    """Without results nothing is pushed, and the fix is named."""
    done = run_command([clone / ".ci" / "results", "store"])
    assert done.returncode == 1
    assert "make bench measures" in done.stderr
