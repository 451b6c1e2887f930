"""Results that asv cannot use: every command names them, leaves them out, and goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stageflow.cli import main
from stageflow.pulse import PulseError
from stageflow.pulse.dashboard import publish_with_dashboard
from stageflow.pulse.dashboard.records import Record, gate_record, load_record
from stageflow.pulse.history import GATE_DIR, AsvProject, read_lines, site
from tests.utils import central

COMMITS = 20
RULES = """\
version = 1

[links]
page = "https://pulse.example/"
runbook = "https://pulse.example/runbook.md"

[[alert]]
name = "BenchmarkRegressed"
kind = "benchmark"
counted_limit = 1.195
timed_limit = 1.15
window_commits = 9
severity = "warning"
owner = "engine"
runbook = "benchmark-regressed"
"""


@pytest.fixture
def project(tmp_path: Path) -> AsvProject:
    """A measured repository; its three newest commits have results that asv cannot use."""
    project = central.repository(tmp_path / "repo", COMMITS, 2)
    (project.benchmarks_dir / "alerts.toml").write_text(RULES, encoding="utf-8")
    newest = [*reversed(project.git("rev-list", "--reverse", "main").split())]
    paths = [next(project.results_dir.glob(f"*/{commit[:8]}-*.json")) for commit in newest[:3]]
    content = json.loads(paths[0].read_text(encoding="utf-8"))
    name = next(iter(content["results"]))
    content["results"][name][0] = [float("inf")]
    paths[0].write_text(json.dumps(content), encoding="utf-8")
    paths[1].unlink()
    paths[1].mkdir()
    paths[2].unlink()
    paths[2].symlink_to("nowhere")
    return project


#: Commands that change results, and commands that only read them, perhaps while asv writes.
WRITERS = ["build", "compare HEAD~4 HEAD~5", "budgets"]
READERS = ["check", "check --json", "export", "alert --benchmarks"]


@pytest.mark.parametrize("command", [*WRITERS, *READERS])
def test_every_command_names_them_and_goes_on(
    project: AsvProject, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Three files are set aside, or left in place; the commits before them are read."""
    written = command in WRITERS
    name, *options = command.split()
    if name == "alert":
        options += ["--rules", str(project.benchmarks_dir / "alerts.toml")]
        options += ["--state", str(tmp_path / "state.db")]
    code = main(["pulse", name, "--repository", str(project.root), *options])
    told = "".join(capsys.readouterr())
    assert code != 1, told
    assert told.count(f"{'Set aside' if written else 'Left out'} .asv/results/") == 3
    assert "is not a list of numbers that asv can draw" in told
    assert told.count("not a file") == 2
    assert (len(list(project.set_aside_dir.rglob("*.json"))) >= 2) == written
    if name == "check" and options:
        assert len([n for n in json.loads(told)["notes"] if n.startswith("Left out")]) == 3


def test_asv_that_does_not_end(project: AsvProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing has a limit; the error names the file to look at, and the old site stays."""
    publish_with_dashboard(project, lambda _: None)
    before = (project.html_dir / "index.json").read_bytes()
    monkeypatch.setattr(site, "_PUBLISH_S", 0.01)
    monkeypatch.setattr(site, "_PUBLISH_A_FILE_S", 0.0)
    newest = max(project.results_dir.glob("*/*-*.json"))
    os.utime(newest, (2e9, 2e9))
    with pytest.raises(PulseError, match=r"asv publish did not end within 0 s") as caught:
        publish_with_dashboard(project, lambda _: None)
    assert caught.value.code == "pulse_asv_failed"
    assert str(newest) in str(caught.value)
    assert (project.html_dir / "index.json").read_bytes() == before
    assert not list(project.root.glob(".*asv.conf.json"))


def load(**changed: Any) -> str:
    """A line of the record of loads."""
    numbers = ("rate_hz", "seconds", "ended", "failed", "cpu_share", "tasks", "files", "cpus")
    line = {"version": 1, "at": "2026-01-01T00:00:00+00:00", "commit": "c", "python": "3"}
    latency = dict.fromkeys(("p50", "p95", "p99", "max"), 1.0)
    other = {"latency_ms": latency, "memory_growth": 1.0, "faults": []}
    return json.dumps(line | other | dict.fromkeys(numbers, 1) | changed)


UNREADABLE = [
    load(rate_hz=float("nan")),
    load(rate_hz=float("inf")),
    load(rate_hz=1).replace('"rate_hz": 1', '"rate_hz": 1e999'),
    load(rate_hz=10**400),
    load(rate_hz=1).replace('"rate_hz": 1', f'"rate_hz": {"1" * 5_000}'),
    load(seconds=0),
    load(latency_ms=7),
    load(latency_ms=[]),
    load(at="0001-01-01"),
    "[]",
    "[" * 100_000,
]


def test_lines_that_cannot_be_drawn_are_counted(tmp_path: Path) -> None:
    """Values that are not finite, too large or nested too deeply hide no other line."""
    lines = [load(), *UNREADABLE]
    (tmp_path / "loads.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = load_record(Record("loads.jsonl", "make load"), tmp_path)
    assert len(found["loads"]) == 1
    assert found["notes"] == [
        f"{len(UNREADABLE)} lines of loads.jsonl cannot be read and were left out."
    ]


@pytest.mark.parametrize("field", [{"exit": []}, {"wall_s": "x"}, {"at": "0001-01-01"}, {"at": 1}])
def test_runs_that_cannot_be_drawn_are_counted(tmp_path: Path, field: dict[str, object]) -> None:
    """A malformed run of the gate hides no other one."""
    sound = {"at": "2026-01-01T00:00:00+00:00", "base": None, "head": "h", "exit": 0, "wall_s": 1.0}
    path = tmp_path / GATE_DIR / "runs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(f"{json.dumps(sound)}\n{json.dumps(sound | field)}\n", encoding="utf-8")
    found = gate_record(tmp_path)
    assert (found["count"], len(found["notes"])) == (1, 1)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_record_that_is_not_a_file(tmp_path: Path, kind: str) -> None:
    """A folder or a link that leads nowhere counts as one line that cannot be read."""
    path = tmp_path / "loads.jsonl"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert read_lines(path, dict) == ([], 1)
