"""``stageflow pulse check`` and ``export``: the page's data in words, and as lines."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stageflow.cli import main
from stageflow.pulse.dashboard.export import SCHEMA_VERSION, Measurement
from stageflow.pulse.gate import Exit
from stageflow.pulse.history import AsvProject
from tests.utils import central
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tests.utils.telemetry import run_log, sink_of, voice_log

GUIDE = (ROOT / "docs" / "operations" / "export.md").read_text(encoding="utf-8")
COMMITS, METRICS = 20, 3
BUILD = central.names(METRICS)[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> AsvProject:
    """A repository whose first series rises over its budget with commit 12."""
    return central.repository(tmp_path_factory.mktemp("check") / "repo", COMMITS, METRICS)


@pytest.fixture
def empty(tmp_path: Path) -> AsvProject:
    """A repository in which nothing was measured."""
    project = central.repository(tmp_path / "repo", 2, 1)
    for path in project.results_dir.rglob("*.json"):
        path.unlink()
    return project


def called(project: AsvProject, *arguments: str) -> int:
    """The exit code of a pulse command on that repository."""
    command, *rest = arguments
    return main(["pulse", command, "--repository", str(project.root), *rest])


def test_findings_of_the_history(project: AsvProject, capsys: pytest.CaptureFixture[str]) -> None:
    """An exceeded budget and an open regression are reported with figures and runbook."""
    assert called(project, "check") == 3
    said = capsys.readouterr().out
    newest = project.git("rev-parse", "main").strip()
    risen = project.git("rev-list", "--reverse", "main").split()[12]
    assert f"✗ 1 budgets exceeded (0 kept at {newest[:10]}" in said
    assert (
        "    Building 20 stages: value 1,200,000 instructions, budget 1,100,000 "
        f"({BUILD}); docs/runbook.md#pipeline-build" in said
    )
    assert "✗ 1 regressions open (0 known and accepted, 20 commits measured)" in said
    assert f"{BUILD}: 1,000,000 → 1,200,000 instructions (+20.0 %) since {risen[:10]}" in said
    assert "? alerts: not evaluated; stageflow pulse alert with the same --store does" in said
    assert "? dead letters: there is no telemetry" in said


def test_what_is_accepted_is_not_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rise within its budget that was accepted is counted as known, and the check is passed."""
    project = central.repository(tmp_path / "repo", COMMITS, METRICS)
    budgets = project.benchmarks_dir / "budgets.toml"
    budgets.write_text(budgets.read_text().replace("1_100_000", "1_300_000"), encoding="utf-8")
    (project.benchmarks_dir / "accepted.toml").write_text(
        f'version = 1\n[[accepted]]\nbenchmark = "{BUILD}"\nup_to = 1.25\n'
        'reason = "types are checked"\nuntil = 2999-01-31\nowner = "engine"\n',
        encoding="utf-8",
    )
    assert called(project, "check") == 0
    said = capsys.readouterr().out
    assert "✓ 0 budgets exceeded (1 kept" in said
    assert "✓ 0 regressions open (1 known and accepted" in said


def test_findings_of_the_telemetry(
    empty: AsvProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dead letters that wait in the telemetry are wrong, whatever is measured."""
    central.write_telemetry(tmp_path / "t.db", 400, hours=1)
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        ((waiting,),) = connection.execute("SELECT count(*) FROM dead_letters").fetchall()
    assert waiting
    assert called(empty, "check", "--store", str(tmp_path / "t.db"), "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["exit"], found["letters"], found["commit"]) == (3, waiting, None)
    assert called(empty, "check", "--store", str(tmp_path / "t.db")) == 3
    assert f"✗ {waiting} dead letters waiting (t.db)" in capsys.readouterr().out


def test_first_audio_over_its_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Turns that are heard too late are named with figure, budget, pipeline and runbook."""
    project = central.repository(tmp_path / "repo", 1, 1)
    central.hold_first_audio(project, p50=500, p99=1000)
    logs = [voice_log(f"{n}", 300.0 if n % 20 else 2000.0) for n in range(100)]
    sink_of(tmp_path / "t.db", logs).close()
    assert called(project, "check", "--store", str(tmp_path / "t.db")) == 3
    said = [line for line in capsys.readouterr().out.splitlines() if "First audio" in line]
    expected = "    First audio: p99 2032 ms, budget 1000 (streaming_voice); docs/runbook.md#"
    assert said == [f"{expected}pipeline-build"]


def test_nothing_known_and_nothing_wrong(
    empty: AsvProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing was looked at, nothing is said to be fine; sound telemetry alone is."""
    assert called(empty, "check") == 4
    sink_of(tmp_path / "t.db", [run_log("1", {"a": 10.0})]).close()
    assert called(empty, "check", "--store", str(tmp_path / "t.db")) == 0
    assert "✓ 0 dead letters waiting (t.db)" in capsys.readouterr().out


def test_budgets_of_nothing(empty: AsvProject, capsys: pytest.CaptureFixture[str]) -> None:
    """Budgets that nothing was held against are not kept: code 4, and what to do."""
    assert called(empty, "budgets") == Exit.INSUFFICIENT_DATA
    said = capsys.readouterr().out
    assert "1 figures of 1 budgets" in said
    assert "1 not known" in said
    assert "measure it first" in said


def test_a_budget_beside_what_was_measured(
    project: AsvProject, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is exceeded gives code 3, at a commit before its rise code 0."""
    assert called(project, "budgets") == Exit.OVER_BUDGET
    assert called(project, "budgets", "--head", "HEAD~15") == Exit.OK
    assert "1 kept" in capsys.readouterr().out


def test_a_named_store_that_is_not_there(
    project: AsvProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that was asked for and cannot be read is an error, no silence."""
    assert called(project, "check", "--store", str(tmp_path / "nowhere.db")) == 1
    assert "nowhere.db" in capsys.readouterr().err


def exported(project: AsvProject, path: Path) -> list[dict[str, Any]]:
    """The lines of an export."""
    assert called(project, "export", "--into", str(path)) == 0
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_everything_measured_is_exported(project: AsvProject, tmp_path: Path) -> None:
    """Each series of each commit is one line, with commit, times, machine and environment."""
    lines = exported(project, tmp_path / "m.jsonl")
    hashes = project.git("rev-list", "main").split()
    assert {(line["commit"], line["metric"]) for line in lines} == {
        (commit, name) for commit in hashes for name in central.names(METRICS)
    }
    assert len(lines) == COMMITS * METRICS
    (newest,) = [one for one in lines if one["commit"] == hashes[0] and one["metric"] == BUILD]
    assert newest == {
        "schema_version": 1,
        "metric": BUILD,
        "value": 1.2e6,
        "samples": None,
        "unit": "instructions",
        "commit": hashes[0],
        # The last of 20 commits an hour apart, the first at 1,700,000,000 s.
        "commit_at": "2023-11-15T17:13:20+00:00",
        "measured_at": "1970-01-01T00:00:00+00:00",
        "machine": {
            "arch": "x",
            "cpu": "c",
            "machine": "box",
            "num_cpu": "2",
            "os": "o",
            "ram": "1",
        },
        "environment": {"name": "virtualenv-py3.11", "python": "3.11", "requirements": {}},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_voice_figures_are_exported(empty: AsvProject, tmp_path: Path) -> None:
    """Each figure of each machine is a line of the same form, with its samples."""
    lines = central.voice_figures() + "cut off\n" + central.voice_figures(0.4)
    (empty.results_dir / "voice.jsonl").write_text(lines, encoding="utf-8")
    found = exported(empty, tmp_path / "m.jsonl")
    assert len(found) == 2 * 6
    by_name = {line["metric"]: line for line in found[:6]}
    assert by_name["voice_figures.stt.any_words.word_error_rate"]["value"] == 0.36
    assert by_name["voice_figures.turn.streaming.first_audio"] == {
        "schema_version": 1,
        "metric": "voice_figures.turn.streaming.first_audio",
        "value": 600.0,
        "samples": [500.0, 600.0, 1000.0],
        "unit": "ms",
        "commit": "a" * 40,
        "commit_at": "2026-01-01T00:00:00+00:00",
        "measured_at": "2026-01-02T03:04:05+00:00",
        "machine": {
            "arch": "x",
            "cpu": "a processor",
            "machine": "box",
            "num_cpu": "2",
            "os": "o",
            "ram": "1",
        },
        "environment": {
            "name": "",
            "python": "3.11.7",
            "requirements": {"pocketsphinx": "5.1.1"},
        },
    }


def test_broken_and_missing_are_different_states(tmp_path: Path) -> None:
    """A benchmark that broke has no value; one that was skipped, or of another version, no line."""
    project = central.repository(tmp_path / "repo", 1, 5)
    (path,) = project.results_dir.glob("*/*-*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    broke, skipped, old, kept = central.names(5)[1:]
    content["results"][broke] = [None, [], "1", 0, 0.1]
    content["results"][skipped] = [[float("nan")], [], "1", 0, 0.1]
    content["results"][old][2] = "another version"
    content["result_columns"].append("samples")
    content["results"][kept] = [[2.0], [], "1", None, 0.1, [[1.0, 2.0, 3.0]]]
    path.write_text(json.dumps(content), encoding="utf-8")
    lines = {line["metric"]: line for line in exported(project, tmp_path / "m.jsonl")}
    assert set(lines) == {BUILD, broke, kept}
    assert lines[broke]["value"] is None
    assert lines[kept]["samples"] == [1.0, 2.0, 3.0]
    assert lines[kept]["measured_at"] is None


def test_nothing_to_export(
    empty: AsvProject, project: AsvProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without results, or a place for them, an earlier export stays, and the error has the fix."""
    (tmp_path / "m.jsonl").write_text("earlier", encoding="utf-8")
    assert called(empty, "export", "--into", str(tmp_path / "m.jsonl")) == 1
    assert "measure some commits first" in capsys.readouterr().err
    assert (tmp_path / "m.jsonl").read_text(encoding="utf-8") == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jsonl", "repo"]
    assert called(project, "export", "--into", "/dev/null/m.jsonl") == 1
    assert "could not be written to /dev/null/m.jsonl" in capsys.readouterr().err


def test_the_schema_is_documented() -> None:
    """The table names the fields, in order, and the version; the versions end with the present."""
    table = GUIDE.split("| field | holds |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        field.name for field in dataclasses.fields(Measurement)
    ]
    assert f"| `schema_version` | {SCHEMA_VERSION}. " in table
    versions = re.findall(r"^\| (\d+) \|", GUIDE.split("## Versions")[1], re.MULTILINE)
    assert versions[-1] == str(SCHEMA_VERSION)


def test_the_listing_works(project: AsvProject, tmp_path: Path) -> None:
    """The document's listing runs unchanged, beside an export."""
    exported(project, tmp_path / "measurements.jsonl")
    (code,) = re.findall(r"^```python\n# newest\.py\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    done = run_command([sys.executable, "-W", "error", "-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\S+ [\d.]+ \w+\n", done.stdout)
