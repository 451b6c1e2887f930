"""The outage simulation: real telemetry of turns whose providers fail, hours of it in seconds."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stageflow.telemetry import TelemetryStore, Window
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tools.outage_simulation import INCIDENTS, SOURCE, record

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

HOURS = 0.25


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], list[str]]:
    """The file of a short simulation, how its runs ended, and the lines of progress."""
    path = tmp_path_factory.mktemp("simulated") / "new" / "outage.db"
    lines: list[str] = []
    ended = record(path, HOURS, 5, lines.append)
    return path, dict(ended), lines


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_every_turn_is_in_the_file(simulated: tuple[Path, dict[str, int], list[str]]) -> None:
    """The file holds the callers' turns, as whole runs of one source."""
    path, ended, _ = simulated
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


def test_first_audio_shows(simulated: tuple[Path, dict[str, int], list[str]]) -> None:
    """Streaming turns are heard, sooner than whole ones, and later while the hearing is slow."""
    path, _, _ = simulated
    (incident,) = [one for one in INCIDENTS if one.provider == "stt"]
    with TelemetryStore(path) as store:
        covered = store.covered()
        assert covered is not None
        found = {f.pipeline: f for f in store.firsts(covered, stage="")}
    streaming = found["streaming_voice"]
    assert streaming.p50_ms < 0.9 * found["voice"].p50_ms
    assert streaming.p95_ms > streaming.p50_ms + 0.8 * incident.options["duration_ms"]


def test_it_lasts_as_long_as_it_says(simulated: tuple[Path, dict[str, int], list[str]]) -> None:
    """The turns are spread over all of its virtual time, which ends now."""
    path, _, lines = simulated
    ((first, last),) = _rows(path, "SELECT min(started_s), max(started_s) FROM runs")
    assert HOURS * 3600 * 0.9 < last - first <= HOURS * 3600
    assert len(lines) == 10
    assert lines[-1].startswith(f"simulated {HOURS:.1f} of {HOURS:g} h, ")


def test_each_incident_shows(simulated: tuple[Path, dict[str, int], list[str]]) -> None:
    """Each provider in trouble fails its stage or slows it down; breakers open and close again."""
    path, _, _ = simulated
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


def test_dead_letters_are_replayed(simulated: tuple[Path, dict[str, int], list[str]]) -> None:
    """Every run that failed for good left a letter, and none waits at the end."""
    path, ended, _ = simulated
    (counts,) = _rows(path, "SELECT count(*), count(replayed_s) FROM dead_letters")
    assert counts == (ended["failed"], ended["failed"])


def test_the_same_seed_gives_the_same_simulation(tmp_path: Path) -> None:
    """A second simulation of a seed has the same runs; one of another seed has others."""
    query = (
        "SELECT pipeline, run_id, status, round(duration_ms, 6), error_code FROM runs ORDER BY 2"
    )
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        record(tmp_path / f"{number}.db", 0.05, seed, lambda _: None)
        runs.append(_rows(tmp_path / f"{number}.db", query))
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) > 100


def test_the_command_replaces_an_earlier_file(tmp_path: Path) -> None:
    """The command prints how the turns ended, and leaves one file in place of the old one."""
    (tmp_path / "outage.db").write_text("old", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "tools.outage_simulation",
        "--into",
        str(tmp_path / "outage.db"),
    ]
    done = run_command([*command, "--hours", "0.05"], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'outage.db'} holds 0.05 simulated h: ")
    assert [path.name for path in tmp_path.iterdir()] == ["outage.db"]
    assert _rows(tmp_path / "outage.db", "SELECT count(*) FROM runs")[0][0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--into", "x.db", "--hours", "0"], 2, "--hours must be more than 0 and at most 168"),
        (["--into", "/dev/null/x.db"], 1, "error: the telemetry could not be written: "),
        ([], 2, "--into"),
    ],
)
def test_bad_arguments_are_explained(arguments: list[str], code: int, said: str) -> None:
    """A length out of range, and a file that cannot be written, end with a reason."""
    command = [sys.executable, "-m", "tools.outage_simulation", *arguments]
    done = run_command(command, cwd=ROOT)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
