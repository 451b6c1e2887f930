"""``bench`` measures what has not been measured, newest first, and publishes what it has."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.utils import asv_repo
from tests.utils.asv_repo import BASE_STEPS, Measured, ScratchRepo

pytestmark = pytest.mark.slow

#: The oldest commit's never ends, so that an interrupt comes in time however late it is sent.
WAITING = f"""

def track_until_interrupted():
    if stageflow.STEPS == {BASE_STEPS}:
        time.sleep(3_600)


track_until_interrupted.version = "1"
track_until_interrupted.timeout = 3_600
"""

BROKEN_BUILD = {"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'no.such'\n"}


@pytest.fixture
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The measured repository of this session; read it only."""
    return asv_repo.measured(tmp_path_factory)


@pytest.fixture
def copy(measured: Measured, tmp_path: Path) -> ScratchRepo:
    """A copy of the measured repository, to change."""
    return measured.copy(tmp_path)


def published_commits(repo: ScratchRepo) -> set[str]:
    """The commits that the published site knows."""
    index = json.loads((repo.path / ".asv/html/index.json").read_text(encoding="utf-8"))
    return set(index["revision_to_hash"].values())


def announced(output: str) -> list[str]:
    """Return the announcements of the measured commits, in their order."""
    return re.findall(r"^=== commit (\d+ of \d+: .*)$", output, re.MULTILINE)


def test_all_commits_are_measured_and_published(measured: Measured) -> None:
    """One command measures a fresh repository, newest commit first, and says how to open it."""
    assert measured.exit_code == 0, measured.output
    git = measured.repo.git
    shown = [
        git("show", "--no-patch", "--abbrev=8", "--format=%h %s", c)
        for c in reversed(measured.commits)
    ]
    assert announced(measured.output) == [f"{i} of 3: {s}" for i, s in enumerate(shown, 1)]
    assert re.findall(r"elapsed, about \d+:\d\d to go", measured.output)
    first, rest = measured.output.split("The newest commit is published in", 1)
    assert "=== commit 1 of 3" in first
    assert "=== commit 2 of 3" in rest
    assert "3 measured\n" in measured.output
    assert measured.output.count("2 measured, 1 not available there") == 2
    assert str(measured.repo.path / ".asv" / "html" / "index.html") in measured.output
    assert measured.repo.results().keys() == {c[:8] for c in measured.commits}
    assert published_commits(measured.repo) == set(measured.commits)


def test_values_are_those_of_each_commit(measured: Measured) -> None:
    """Each commit's own package was installed: the counted work is that of the commit."""
    steps = []
    for commit in measured.commits:
        text = measured.repo.results()[commit[:8]].read_text(encoding="utf-8")
        steps.append(json.loads(text)["results"]["work.track_steps"][0])
    assert steps == [[BASE_STEPS], [BASE_STEPS + 5_000], [BASE_STEPS + 5_000]]


def test_samples_are_kept(measured: Measured) -> None:
    """The single samples of a timing are kept, since percentiles are computed from them."""
    result = json.loads(measured.repo.results()[measured.commits[-1][:8]].read_text("utf-8"))
    row = dict(zip(result["result_columns"], result["results"]["work.time_work"], strict=False))
    assert len(row["samples"][0]) >= 2


def test_second_run_measures_nothing(copy: ScratchRepo) -> None:
    """A measured commit is not measured again, and the history is published all the same."""
    before = {name: path.read_bytes() for name, path in copy.results().items()}
    done = copy.pulse("bench")
    assert done.returncode == 0, done.stdout
    assert "has been measured on this machine already" in done.stdout
    assert announced(done.stdout) == []
    assert {name: path.read_bytes() for name, path in copy.results().items()} == before


def test_corrupt_results_are_set_aside_and_the_rest_published(
    copy: ScratchRepo, measured: Measured
) -> None:
    """``build`` names a half-written result and a corrupt machine file and publishes the rest."""
    first, second, third = measured.commits
    broken = copy.results()[second[:8]]
    half = broken.read_bytes()[:333]
    broken.write_bytes(half)
    machine = broken.with_name("machine.json")
    machine.write_text("")
    (copy.path / ".asv/results/benchmarks.json").unlink()
    done = copy.pulse("build")
    assert done.returncode == 0, done.stdout
    assert f"Set aside {broken.relative_to(copy.path)}: not whole JSON" in done.stdout
    assert f"Set aside {machine.relative_to(copy.path)}: the file is empty" in done.stdout
    aside = copy.path / ".asv/set-aside" / broken.parent.name / broken.name
    assert aside.read_bytes() == half
    assert published_commits(copy) == {first, third}


def test_corrupt_result_is_measured_again(copy: ScratchRepo, measured: Measured) -> None:
    """A commit whose result was set aside counts as unmeasured, and the run goes on."""
    copy.results()[measured.commits[1][:8]].write_text("{")
    done = copy.pulse("bench", "--attribute", "rounds=1")
    assert done.returncode == 0, done.stdout
    assert "Set aside" in done.stdout
    assert [line.split(": ")[0] for line in announced(done.stdout)] == ["1 of 1"]
    assert published_commits(copy) == set(measured.commits)


def test_old_commit_that_does_not_build(copy: ScratchRepo) -> None:
    """An older commit that cannot be built is reported, the newest one measured: code 0."""
    sound = (copy.path / "pyproject.toml").read_text(encoding="utf-8")
    broken = copy.commit("Broken build", BROKEN_BUILD)
    newest = copy.commit("Fixed build", {"pyproject.toml": sound})
    done = copy.pulse("bench", "--bench", "track_steps")
    assert done.returncode == 0, done.stdout
    summary = done.stdout[done.stdout.index("Commits of main measured") :]
    assert re.search(rf"{newest[:7]}\w*  1 measured\n", summary)
    assert re.search(rf"{broken[:7]}\w*  0 measured, could not be built", summary)
    again = copy.pulse("bench", "--bench", "track_steps")
    assert announced(again.stdout) == []
    retried = copy.pulse("bench", "--bench", "track_steps", "--retry-failed")
    assert announced(retried.stdout) == [
        "1 of 1: " + copy.git("log", "-1", "--abbrev=8", "--format=%h %s", broken)
    ]


def test_benchmark_that_fails_on_the_newest_commit(copy: ScratchRepo) -> None:
    """A benchmark that fails on the newest commit is named, the rest published: code 3."""
    text = (
        asv_repo.package(BASE_STEPS)["stageflow/__init__.py"] + "\n\nadded_later = 'no function'\n"
    )
    newest = copy.commit("Not callable", {"stageflow/__init__.py": text})
    done = copy.pulse("bench", "--attribute", "rounds=1")
    assert done.returncode == 3, done.stdout
    assert "2 measured, 1 FAILED: work.time_added_later" in done.stdout
    assert "'str' object is not callable" in done.stdout
    assert newest in published_commits(copy)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_what_is_measured(
    copy: ScratchRepo, measured: Measured, signum: signal.Signals
) -> None:
    """Interrupted at its second commit of three, it publishes the newest and ends: code 130."""
    for path in copy.results().values():
        path.unlink()
    with (copy.path / "benchmarks/work.py").open("a", encoding="utf-8") as benchmarks:
        benchmarks.write(WAITING)
    with copy.start_pulse("bench", "--bench", "track_") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("=== commit 2 of 3"):
                process.send_signal(signum)
    output = "".join(lines)
    assert process.returncode == 130, output
    assert "Interrupted" in output
    published = published_commits(copy)
    assert measured.commits[-1] in published
    assert measured.commits[0] not in published
    assert not list(copy.path.glob(".asv/set-aside/**/*.json"))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda repo: repo.git("branch", "--move", "main", "trunk"), "has no branch 'main'"),
        (lambda repo: (repo.path / "asv.conf.json").unlink(), "asv.conf.json does not exist"),
    ],
    ids=["branch", "settings"],
)
def test_what_cannot_be_measured_is_said(
    copy: ScratchRepo, prepare: Callable[[ScratchRepo], object], message: str
) -> None:
    """Without the branch or the settings the command exits with code 1 and names the fix."""
    prepare(copy)
    done = copy.pulse("bench")
    assert done.returncode == 1
    assert message in done.stdout.splitlines()[-1]


def test_nothing_to_publish(copy: ScratchRepo) -> None:
    """Without results ``build`` ends with code 1, and the site that stood still stands."""
    for path in copy.results().values():
        path.unlink()
    before = published_commits(copy)
    done = copy.pulse("build")
    assert done.returncode == 1
    assert "there are no results" in done.stdout
    assert published_commits(copy) == before


def test_no_commits_asked_for(copy: ScratchRepo) -> None:
    """A number of commits below one is a bad argument: code 2."""
    done = copy.pulse("bench", "--commits", "0")
    assert done.returncode == 2
    assert "less than 1" in done.stdout


def test_shards_measure_a_part_each_and_merge_into_the_whole(
    copy: ScratchRepo, measured: Measured, tmp_path: Path
) -> None:
    """Two machines share the benchmarks of a commit; merged, all are measured and published."""
    newest = measured.commits[-1][:8]
    whole = set(json.loads(copy.results()[newest].read_text("utf-8"))["results"])
    (copy.path / ".asv/results").rename(tmp_path / "whole")
    parts = []
    for number in (1, 2):
        done = copy.pulse("bench", "--commits", "1", "--shard", f"{number}/2")
        assert done.returncode == 0, done.stdout
        parts.append(set(json.loads(copy.results()[newest].read_text("utf-8"))["results"]))
        (copy.path / ".asv/results").rename(tmp_path / str(number))
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]
    done = copy.pulse("merge", str(tmp_path / "1"), str(tmp_path / "2"))
    assert done.returncode == 0, done.stdout
    assert f"{len(whole)} measurements merged" in done.stdout
    assert set(json.loads(copy.results()[newest].read_text("utf-8"))["results"]) == whole
    assert copy.pulse("build").returncode == 0
    assert published_commits(copy) == {measured.commits[-1]}
