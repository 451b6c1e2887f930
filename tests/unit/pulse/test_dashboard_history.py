"""Central Pulse's history: what is read and left out, where a series changed, what is drawn."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.dashboard import publish_with_dashboard
from stageflow.pulse.dashboard.now import Judged, judged, wrong_now
from stageflow.pulse.dashboard.page import overview, pieces, releases, visible
from stageflow.pulse.history import (
    GATE_DIR,
    OPEN_FOR,
    PIECE,
    AsvProject,
    Commit,
    History,
    Series,
    Step,
    open_step,
    read_history,
    scatters,
    signal_of,
    steps_of,
)
from stageflow.pulse.history.commits import _tails
from tests.utils import central
from tests.utils.errors import raises_code
from tests.utils.gate import LIMITS

BUILD = "counted.Operation.track_instructions('build.complex')"
EXACT, TIMED = "exact.Work.track_calls('voice')", "build.Small.track_orchestrator(3)"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> AsvProject:
    """A repository of 20 commits and 3 series; the first rises with commit 12."""
    return central.repository(tmp_path_factory.mktemp("central") / "repo", 20, 3)


def copied(project: AsvProject, folder: Path, change: dict[str, Any]) -> AsvProject:
    """The results of a repository once more, with the newest commit's file changed."""
    for path in project.results_dir.rglob("*.json"):
        target = folder / path.relative_to(project.results_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    newest = project.git("rev-parse", "main").strip()
    (path,) = folder.glob(f"*/{newest[:8]}-*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        content["results"][key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    return AsvProject(
        project.root,
        project.branch,
        project.benchmarks_dir,
        folder,
        project.html_dir,
        project.set_aside_dir,
        project.package,
    )


def test_history_is_in_the_order_of_the_branch(project: AsvProject) -> None:
    """Every measured commit is there, oldest first, each with the value that was measured of it."""
    history = read_history(project)
    hashes = project.git("rev-list", "--reverse", "main").split()
    assert [commit.hash for commit in history.commits] == hashes
    assert history.commits[3].subject == 'Change <3> & "more" //of it'
    assert history.commits[3].at_s == central.FIRST_COMMIT_S + 3 * 3600
    assert [series.name for series in history.series] == sorted(central.names(3))
    series = history.named(BUILD)
    assert series is not None
    assert series.values == [1e6] * 12 + [1.2e6] * 8
    assert (series.unit, history.elsewhere) == ("instructions", 0)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ([[2.0], [], "1", 0, 0.1], 2.0),
        ([[math.nan], [], "1", 0, 0.1], None),
        ([None, [], "1", 0, 0.1], None),
        ([[2.0], [], "another version", 0, 0.1], None),
    ],
    ids=["measured", "skipped", "broke", "of another version"],
)
def test_an_entry_that_is_not_a_value_is_left_out(
    project: AsvProject, tmp_path: Path, row: list[Any], value: float | None
) -> None:
    """A benchmark that was skipped, broke, or was another one then, has no value there."""
    history = read_history(copied(project, tmp_path, {"engine.Runs.track_001": row}))
    series = history.named("engine.Runs.track_001")
    assert series is not None
    assert series.values[-1] == value


def test_two_machines_are_not_one_history(project: AsvProject, tmp_path: Path) -> None:
    """The machine that measured the newest commit is shown, and the other one is named."""
    both = copied(project, tmp_path, {})
    (tmp_path / "other").mkdir()
    oldest = project.git("rev-list", "--max-parents=0", "main").strip()
    (path,) = tmp_path.glob(f"{central.MACHINE}/{oldest[:8]}-*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["params"]["machine"] = "other"
    (tmp_path / "other" / path.name).write_text(json.dumps(content), encoding="utf-8")
    history = read_history(both)
    assert (history.machine, history.elsewhere, len(history.commits)) == (
        "box, c, Python 3.11",
        1,
        20,
    )


def test_tails_have_a_history() -> None:
    """P95 and P99 are series of their own, with a value where there are samples enough."""
    series = Series("chat.Latency.track_turn", "seconds", [None, 1.0, 2.0], {2: (2.0, 5.0, 9.0)})
    p95, p99 = _tails(series)
    assert (p95.name, p95.unit) == ("chat.Latency.track_turn P95", "seconds")
    assert (p95.values, p99.values) == ([None, None, 5.0], [None, None, 9.0])
    assert not list(_tails(Series("bag.Write", "seconds", [1.0])))


def test_what_the_gate_timed_has_a_history(project: AsvProject) -> None:
    """Operations that asv does not measure are drawn from the gate's files of this machine."""
    hashes = project.git("rev-list", "--reverse", "main").split()
    folder = project.root / GATE_DIR
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [{"wall_ns": [5.0, 7.0, 9.0], "cpu_ns": 5.0}]
    sides = [{"blocks": [], "error": None, "missing": []}, {"blocks": blocks}]
    content = {"machine": central.MACHINE, "head": hashes[4], "first": {"parse": sides}}
    paths = [folder / f"{name}-b.json" for name in ("a", "broken", "elsewhere")]
    try:
        for path, text in zip(paths, (content, [], content | {"machine": "other"}), strict=True):
            path.write_text(json.dumps(text), encoding="utf-8")
        series = read_history(project).named("timed('parse')")
    finally:
        for path in paths:
            path.unlink()
    assert series is not None
    assert series.values == [7.0 if at == 4 else None for at in range(20)]


def test_extremes_stay_visible() -> None:
    """However many values there are, few are drawn, among them each column's least and greatest."""
    chance = random.Random(7)
    values: list[float | None] = [chance.random() for _ in range(10_000)]
    values[1234], values[8765], values[5000] = 99.0, -99.0, None
    drawn = visible(values, columns=100)
    assert len(drawn) <= 202
    assert drawn == sorted(set(drawn))
    assert {0, 1234, 8765, 9999} <= set(drawn)
    assert 5000 not in drawn
    assert visible([1.0, None, 2.0]) == [0, 2]


def steps(name: str, values: Sequence[float | None]) -> tuple[Step, ...]:
    """The steps of a series that the gate would warn of."""
    return steps_of(values, LIMITS.warn(signal_of(name)), timed=scatters(name))


@pytest.mark.parametrize(
    ("name", "values", "at"),
    [
        (EXACT, [5, 5, 6, 6, 5], [2, 4]),
        (BUILD, [100, 101, 100, 99], []),
        (BUILD, [100, 100, 103, 103, 100], [2, 4]),
        (BUILD, [100, None, 101, 102, 103, 104, 105], [5]),
        (TIMED, [100, 101, 99] * 3 + [140, 141, 139] * 3, [9]),
        (TIMED, [100, 101, 99] * 3 + [140, 141] + [99, 100, 101] * 3, []),
        (TIMED, [100], []),
    ],
    ids=[
        "any change of what is exact",
        "less than the gate warns of",
        "more than that",
        "a creep, once it has summed up",
        "what scatters, for good",
        "what scatters, for two commits",
        "one value",
    ],
)
def test_steps(name: str, values: list[float | None], at: list[int]) -> None:
    """A series has its steps where it leaves a level by more than it scatters."""
    assert [step.at for step in steps(name, values)] == at


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([100, 100, 120, 120], (2, 100, 120)),
        ([100, 100, 105, 105], None),
        ([100, 120, 100, 100], None),
        ([100, 120, 115, 115], (1, 100, 115)),
        ([100, *[120] * (OPEN_FOR + 1)], None),
    ],
    ids=["a step", "less than fails", "taken back", "taken back in part", "long ago"],
)
def test_open_regressions(values: list[float | None], found: tuple[int, float, float]) -> None:
    """A step that the gate fails is open until it is taken back or is long ago."""
    step = open_step(values, steps(BUILD, values), LIMITS.fail(signal_of(BUILD)))
    assert (step and (step.at, step.before, step.now)) == found


def test_what_is_wrong_now(project: AsvProject, tmp_path: Path) -> None:
    """The rise is an open regression, and the budget that it exceeds is shown with its runbook."""
    history = read_history(project)
    found = judged(project, history)
    now = wrong_now(project, history, found, tmp_path / "none.db")
    (over,) = now["budgets"]
    assert (over["measured"], over["limit"], over["runbook"]) == (
        1_200_000,
        1_100_000,
        "pipeline-build",
    )
    (rise,) = now["regressions"]
    assert (rise["series"], rise["at"], rise["ratio"]) == (BUILD, 12, 1.2)
    assert (now["alerts"], now["notes"]) == (None, [])


@pytest.mark.parametrize(
    ("until", "up_to", "open_ones", "known"),
    [("2999-01-31", 1.25, 0, 1), ("2999-01-31", 1.15, 1, 0), ("2001-01-31", 1.25, 1, 0)],
    ids=["accepted", "more than accepted", "no longer accepted"],
)
def test_accepted_regressions(
    project: AsvProject, until: str, up_to: float, open_ones: int, known: int
) -> None:
    """An accepted regression is not open but known, for its accepted range and size."""
    path = project.benchmarks_dir / "accepted.toml"
    path.write_text(
        f'version = 1\n[[accepted]]\nbenchmark = "{BUILD}"\nup_to = {up_to}\n'
        f'reason = "checks more"\nuntil = {until}\nowner = "engine"\n',
        encoding="utf-8",
    )
    try:
        history = read_history(project)
        now = wrong_now(project, history, judged(project, history), Path("none.db"))
    finally:
        path.unlink()
    assert (len(now["regressions"]), len(now["known"])) == (open_ones, known)
    (entry,) = now["accepted"]
    assert (entry["reason"], entry["until"], entry["counts"]) == (
        "checks more",
        until,
        until > "2020",
    )


def test_wrong_settings_are_a_note(project: AsvProject) -> None:
    """A mistake in the budgets does not hide the history: what is wrong stands on the page."""
    path = project.benchmarks_dir / "budgets.toml"
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace("p50 = 1_100_000", "p50 = -1"), encoding="utf-8")
    try:
        found = judged(project, read_history(project))
    finally:
        path.write_text(sound, encoding="utf-8")
    assert found.budgets is None
    assert "p50 = -1 is not a cost" in found.notes[0]


def test_missing_telemetry_is_reported_before_anything_is_made(
    project: AsvProject, tmp_path: Path
) -> None:
    """A store that is named and not there ends the build at once, and leaves no half of a site."""
    with raises_code("telemetry_file_failed", match=r"none\.db"):
        publish_with_dashboard(project, lambda _: None, store=tmp_path / "none.db")
    assert not list(project.html_dir.parent.glob("html*"))


def test_pieces_hold_every_value() -> None:
    """The overview leaves out what no eye can see, the pieces nothing."""
    chance = random.Random(3)
    values: list[float | None] = [chance.random() for _ in range(3 * PIECE + 5)]
    commits = tuple(Commit(f"{n:040x}", n, f"{n}") for n in range(len(values)))
    history = History(commits, (Series(TIMED, "s", values),), "m")
    parts = list(pieces(history))
    assert [part["number"] for part in parts] == [0, 1, 2, 3]
    joined = [value for part in parts for value in part["values"][0]]
    assert joined == pytest.approx(values, rel=1e-5)
    (series,) = overview(history, Judged(), 8)["series"]
    drawn = list(_summed(series["at"]))
    assert series["values"] == pytest.approx([values[n] for n in drawn], rel=1e-5)


def _summed(differences: list[int]) -> list[int]:
    return [sum(differences[: n + 1]) for n in range(len(differences))]


def test_releases_are_the_tags_of_measured_commits(tmp_path: Path) -> None:
    """Plain and annotated tags count; those of other objects and commits do not."""
    project = central.repository(tmp_path / "repo", 4, 1)
    project.git("tag", "v1", "main~2")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
    project.git(*who, "tag", "-a", "-m", "two", "v2", "main")
    project.git("tag", "tree", "main^{tree}")
    assert releases(project, read_history(project)) == [(1, "v1"), (3, "v2")]
    assert releases(project, History()) == []
