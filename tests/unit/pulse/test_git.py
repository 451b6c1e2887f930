"""Git is called and read correctly for any history, refs and settings of a user."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from stageflow.cli import main
from stageflow.pulse import PulseError
from stageflow.pulse.alerts.regressions import HistoryWatch, Regression
from stageflow.pulse.alerts.rules import BenchmarkRule, Links, Severity
from stageflow.pulse.alerts.state import AlertState
from stageflow.pulse.dashboard import publish_with_dashboard
from stageflow.pulse.gate.command import GateOptions, _commits, _edited
from stageflow.pulse.gate.measure import resolved
from stageflow.pulse.gate.search import _between
from stageflow.pulse.history import AsvProject, circumstances, read_history
from stageflow.pulse.history.commits import commits_of
from stageflow.pulse.history.project import machine_name
from tests.utils import central
from tools.mutation.changed import changed_lines

#: What parts records, breaks lines, rings and paints; and a byte that is not UTF-8.
HOSTILE = (
    b"Bell \x07 unit \x1f record \x1e line \xe2\x80\xa8 escape \x1b[31m latin \xff end\n\n\x1d\x0c"
)
SHOWN = "Bell � unit � record � line � escape �[31m latin � end"
SETTINGS = {
    "color.ui": "always",
    "color.diff": "always",
    "core.quotePath": "true",
    "diff.noprefix": "true",
    "i18n.logOutputEncoding": "ISO-8859-1",
    "log.date": "relative",
    "log.showSignature": "true",
    "user.name": "Zoë",
    "user.email": "z@example.invalid",
}


def git(root: Path, *args: str | bytes, stdin: bytes = b"") -> str:
    """Run git as the user of the clone does."""
    command = ["git", *args]
    done = subprocess.run(command, cwd=root, input=stdin, check=True, capture_output=True)
    return done.stdout.decode(errors="replace").strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> AsvProject:
    """A measured clone with hostile commits, names of two meanings, and its own settings."""
    project = central.repository(tmp_path_factory.mktemp("hostile") / "repo", 20, 2)
    root = project.root
    for name, value in SETTINGS.items():
        git(root, "config", name, value)
    for name in ("main", "v1", "HEAD~1"):
        (root / name).write_text("named like a revision", encoding="utf-8")
    (root / os.fsdecode(b"benchmarks/\xff.py")).write_text("", encoding="utf-8")
    (root / "benchmarks/[a].py").write_text("", encoding="utf-8")
    git(root, "add", "--all")
    tree, parent = git(root, "write-tree"), git(root, "rev-parse", "refs/heads/main")
    who = b"\xff\x1f <z@example.invalid> 1800000000 +0000"
    text = b"tree %s\nparent %s\nauthor %s\ncommitter %s\n\n%s\n\n\x1d\x0c"
    # `git commit` would take the bytes for Latin-1.
    commit = text % (tree.encode(), parent.encode(), who, who, HOSTILE)
    tip = git(root, "hash-object", "-w", "-t", "commit", "--stdin", stdin=commit)
    git(root, "reset", "--quiet", tip)
    git(root, "tag", "v1")
    git(root, "tag", "main", "main~3")
    git(root, "tag", "tree", "main^{tree}")
    for ref in (b"\xff", b"-q", b"HEAD"):
        git(root, "update-ref", b"refs/tags/" + ref, "refs/heads/main~2")
    return project


def test_a_hostile_history_is_published(project: AsvProject) -> None:
    """The branch wins over a tag and a file of its name, and nothing controls the reader."""
    publish_with_dashboard(project, lambda _: None)
    page = (project.html_dir / "commits.html").read_text(encoding="utf-8")
    assert not set(page) & set("\x07\x1b\x1e\x1f\u2028")
    assert html.escape(SHOWN) in page
    assert "ago" not in page
    index = json.loads((project.html_dir / "index.json").read_text(encoding="utf-8"))
    assert index["tags"].keys() == {"v1"}
    assert index["params"]["branch"] == ["main"]
    assert len(read_history(project).commits) == 20
    assert not list(project.root.glob(".*asv.conf.json"))


def test_every_commit_is_read(project: AsvProject) -> None:
    """Separators within a message part nothing; what could control a terminal is replaced."""
    commits = commits_of(project)
    assert len(commits) == 21
    assert commits[-1].hash == git(project.root, "rev-parse", "refs/heads/main")
    assert commits[-1].subject == SHOWN
    assert project.title(commits[-1].hash, "%an: %s") == f"��: {SHOWN}"
    assert circumstances(project.root)["commit"] == commits[-1].hash


def test_the_gate_reads_it(project: AsvProject) -> None:
    """The base, what lies between and the edited benchmarks are found, patterns are names."""
    tip = git(project.root, "rev-parse", "refs/heads/main")
    assert resolved(project, "main") == tip
    assert _commits(project, GateOptions(base="HEAD~2"))[1] == tip
    base = resolved(project, "HEAD~2")
    assert len(_between(project, base, tip)) == 2
    assert {"benchmarks/[a].py", "benchmarks/�.py"} < {*_edited(project, base)}
    assert changed_lines(project.root, "refs/heads/main") == {}
    assert changed_lines(project.root, "refs/heads/main~1").keys() >= {"main", "v1"}


def test_an_alert_names_a_hostile_commit(project: AsvProject, tmp_path: Path) -> None:
    """A commit that may be to blame is shown on one line, and is one commit."""
    rule = BenchmarkRule("Slower", 1.1, 1.2, 9, Severity.WARNING, "engine", "regression")
    tip = commits_of(project)[-2:]
    with AlertState(tmp_path / "state.db") as state:
        watch = HistoryWatch(rule, Links("p", "r"), project, state, ())
        reading = watch._reading((), Regression(range(1, 2), 1, {"x": 2.0}), tip)
    assert reading.likely == f"commit {tip[1].hash[:7]} {SHOWN}"


def test_a_repository_of_somebody_else(
    project: AsvProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is git's own, which names the command that helps, and not a missing branch."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for ask in (project.branch_ref, lambda: read_history(project), project.is_shallow):
        with pytest.raises(PulseError, match=r"dubious ownership(.|\n)*safe\.directory"):
            ask()
    assert circumstances(project.root)["commit"] is None


@pytest.mark.parametrize(
    "revision", ["nowhere", "--help", "-n", "main:stageflow", "v1^{tree}", "HEAD~1..HEAD", ""]
)
def test_no_commit(project: AsvProject, revision: str) -> None:
    """The error repeats the wrong name, be it an option of git or a folder."""
    with pytest.raises(PulseError, match=f"no commit '{re.escape(revision)}'"):
        resolved(project, revision)


NAMES = [
    "ci/runner-1",
    "../../out",
    "..",
    ".",
    ".hidden",
    "",
    "-x",
    "a\\b",
    "C:",
    "a\x1fb",
    "é" * 101,
]


@pytest.mark.parametrize("command", ["bench", "gate"])
@pytest.mark.parametrize("name", [*NAMES, "é" * 101, " ", "a ", "a.", "\udcff", "a\nb", "a*"])
def test_machine_that_is_not_a_folder(
    project: AsvProject, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name is refused with the arguments, before anything is measured or written."""
    with pytest.raises(SystemExit) as caught:
        main(["pulse", command, "--repository", str(project.root), f"--machine={name}"])
    assert caught.value.code == 2
    assert "cannot be the name of a machine" in capsys.readouterr().err
    with pytest.raises(PulseError, match="cannot be the name of a machine"):
        machine_name(name)


@pytest.mark.parametrize("name", ["ci-runner-1", "Zoë", "a", "host.example", "M 2 (old)"])
def test_machine_that_is_a_folder(name: str) -> None:
    """Names of hosts and of people are names of folders on any system."""
    assert machine_name(name) == name


def test_a_default_name_that_is_not_a_folder(
    project: AsvProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither what the system nor what asv's file calls this machine leads out of the results."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("platform.node", lambda: "a/b")
    with pytest.raises(PulseError, match="'a/b' cannot be the name"):
        project.know_machine(None)
    known = {"version": 1, "here": {"machine": "../out"}}
    (tmp_path / ".asv-machine.json").write_text(json.dumps(known), encoding="utf-8")
    with pytest.raises(PulseError, match=r"'\.\./out' cannot be the name"):
        project.know_machine("here")


def test_a_hook_of_another_repository(
    project: AsvProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's variables for a hook, such as one before a push, lead nobody to its repository."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "other")
    tip = git(project.root, "rev-parse", "refs/heads/main")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert resolved(project, "main") == tip
    with project.config_of_branch() as (_, config):
        bare = json.loads(Path(config).read_text(encoding="utf-8"))["repo"]
        assert (Path(bare) / "refs/heads/main").read_text(encoding="utf-8").strip() == tip
    assert circumstances(project.root)["commit"] == tip
