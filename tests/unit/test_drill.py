"""The fault drill: real telemetry of turns whose providers fail, hours of it in seconds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.drill import INCIDENTS, SOURCE, record
from stageflow.telemetry.store import TelemetryStore, Window
from tests.utils.asv_repo import ROOT

HOURS = 0.4


@pytest.fixture(scope="module")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], list[str]]:
    """The file of a short drill, how its runs ended, and what was told meanwhile."""
    path = tmp_path_factory.mktemp("drill") / "new" / "drill.db"
    told: list[str] = []
    ended = record(path, HOURS, 5, told.append)
    return path, dict(ended), told


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_every_turn_is_in_the_file(drilled: tuple[Path, dict[str, int], list[str]]) -> None:
    """What the callers saw is what the file holds, as whole runs of one source."""
    path, ended, _ = drilled
    statuses = dict(_rows(path, "SELECT status, count(*) FROM runs GROUP BY status"))
    replayed = ended["completed when replayed"]
    assert statuses == {
        "completed": ended["completed"] + replayed,
        "failed": ended["failed"],
    }
    assert ended["failed"] > 50 < ended["completed"]
    with TelemetryStore(path) as store:
        assert store.sources() == (SOURCE,)
        assert {name for name, _ in store.known()} == {"streaming_voice", "voice", "chat"}


def test_first_audio_shows(drilled: tuple[Path, dict[str, int], list[str]]) -> None:
    """Streaming turns are heard, sooner than whole ones, and later while the hearing is slow."""
    path, _, _ = drilled
    (incident,) = [one for one in INCIDENTS if one.provider == "stt"]
    with TelemetryStore(path) as store:
        covered = store.covered()
        assert covered is not None
        found = {f.pipeline: f for f in store.firsts(covered, stage="")}
    streaming = found["streaming_voice"]
    assert streaming.p50_ms < 0.9 * found["voice"].p50_ms
    assert streaming.p95_ms > streaming.p50_ms + 0.8 * incident.options["duration_ms"]


def test_it_lasts_as_long_as_it_says(drilled: tuple[Path, dict[str, int], list[str]]) -> None:
    """The turns are spread over all of its virtual time, which ends now."""
    path, _, told = drilled
    ((first, last),) = _rows(path, "SELECT min(started_s), max(started_s) FROM runs")
    assert HOURS * 3600 * 0.9 < last - first <= HOURS * 3600
    assert len(told) == 10
    assert told[-1].startswith(f"drill: {HOURS:.1f} of {HOURS:g} h, ")


def test_each_incident_shows(drilled: tuple[Path, dict[str, int], list[str]]) -> None:
    """Each provider in trouble fails its stage or slows it down; breakers open and close again."""
    path, _, _ = drilled
    codes = {code for (code,) in _rows(path, "SELECT DISTINCT error_code FROM series")}
    expected = {"rate_limited", "operation_timeout", "connection_failed", "service_unavailable"}
    assert {*expected, "circuit_open"} <= codes
    changes = _rows(path, "SELECT provider, after FROM breaker_changes ORDER BY id")
    for provider in ("llm", "db"):
        assert (provider, "open") in changes
        assert dict(changes)[provider] == "closed", "its last change"
    with TelemetryStore(path) as store:
        covered = store.covered()
        assert covered is not None
        whole = Window(covered.start_s, covered.end_s)
        (slow,) = store.latencies(whole, pipeline="voice", stage="stt")
    (incident,) = [one for one in INCIDENTS if one.provider == "stt"]
    assert slow.p99_ms > incident.options["duration_ms"] > slow.p50_ms


def test_dead_letters_are_replayed(drilled: tuple[Path, dict[str, int], list[str]]) -> None:
    """Every run that failed for good left a letter, and none waits at the end."""
    path, ended, _ = drilled
    (counts,) = _rows(path, "SELECT count(*), count(replayed_s) FROM dead_letters")
    assert counts == (ended["failed"], ended["failed"])


def test_the_same_seed_is_the_same_drill(tmp_path: Path) -> None:
    """Another drill of that seed has the same runs, one of another seed others."""
    query = (
        "SELECT pipeline, run_id, status, round(duration_ms, 6), error_code FROM runs ORDER BY 2"
    )
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        record(tmp_path / f"{number}.db", 0.1, seed, lambda _: None)
        runs.append(_rows(tmp_path / f"{number}.db", query))
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) > 100


def test_the_command_replaces_an_earlier_file(tmp_path: Path) -> None:
    """The command tells what became of the turns, and leaves one file in place of the old one."""
    (tmp_path / "drill.db").write_text("old", encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.drill", "--into", str(tmp_path / "drill.db")]
    done = subprocess.run(
        [*command, "--hours", "0.05"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"A fault drill of 0.05 h is in {tmp_path / 'drill.db'}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["drill.db"]
    assert _rows(tmp_path / "drill.db", "SELECT count(*) FROM runs")[0][0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--into", "x.db", "--hours", "0"], 2, "--hours is more than 0, and no more than a week"),
        (["--into", "/dev/null/x.db"], 1, "error: the drill could not be kept: "),
        ([], 2, "--into"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], code: int, said: str) -> None:
    """A drill that makes no sense, or that has no place, ends with a reason."""
    command = [sys.executable, "-m", "benchmarks.drill", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
