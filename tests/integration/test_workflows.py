"""The workflows: what they call runs here, too, and they have no more rights than they need."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.utils.asv_repo import ROOT

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
    return sorted({line for line in found if not line.startswith("${{")})


def _run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "MAKE", "PYTEST"))}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=kept | environment,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("path", "name", "job"), _jobs())
def test_least_rights(path: Path, name: str, job: dict[str, Any]) -> None:
    """A job may read the contents; what more it may is said for it alone, and never for all."""
    assert _load(path)["permissions"] == {"contents": "read"}
    more = set(job.get("permissions", {}).items()) - {("contents", "read")}
    allowed = {
        "nightly.report": {("contents", "write")},
        "pages.measure": {("contents", "write")},
        "release.publish": {("id-token", "write")},
        "pages.publish": {("pages", "write"), ("id-token", "write")},
    }
    assert more == allowed.get(f"{path.stem}.{name}", set())
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


@pytest.mark.parametrize(
    "command",
    [
        'make load LOADS=/dev/null LOAD_ARGS="--seconds 1 --rate 20"',
        "make storm SCHEDULES=60",
        "make budgets",
    ],
)
def test_targets_run_in_their_quick_form(command: str) -> None:
    """With little to do they end well, and say something.

    `make test` is not among them: within a test it would take the coverage away from the outer one.
    """
    done = _run(command, SEED="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_all_other_steps_are_known() -> None:
    """What is no target of make is one of these; a new kind of step wants a test of its own."""
    others = [line for line in _commands() if not line.startswith("make ")]
    assert others == [".ci/programs valgrind", 'cat gate.md >> "$GITHUB_STEP_SUMMARY"']


# ── the branch of results ───────────────────────────────────────────────────────────────────


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
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
    done = subprocess.run(
        [clone / ".ci" / "results", command], check=True, capture_output=True, text=True
    )
    return done.stdout


def test_results_come_back(clone: Path) -> None:
    """What is stored is what is fetched, run after run, and the checkout is left as it was."""
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
    """Without results nothing is pushed, and the mend is named."""
    done = subprocess.run(
        [clone / ".ci" / "results", "store"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "make bench measures" in done.stderr
