"""``gate``, ``compare`` and ``budgets`` on small repositories: real git, real asv, real workers."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.gate import recorded_runs
from tests.utils import gate_repo
from tests.utils.asv_repo import BASE_STEPS, package
from tests.utils.gate_repo import GateRepo, benchmark_files, budgets, operations

pytestmark = pytest.mark.slow

BROKEN_BUILD = {"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'no.such'\n"}
SLOWER = package(BASE_STEPS * 3 // 2)
STEPS, WALK = "exact.track_steps('voice')", "counted.track_instructions('walk')"
TIMED = "timed('walk')"


@pytest.fixture
def repo(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> GateRepo:
    """A repository on a branch without commits of its own yet, its base measured."""
    return gate_repo.gated(tmp_path_factory, tmp_path)


@pytest.fixture
def slower(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> GateRepo:
    """The same with a commit that is 1.5 times slower, and was judged once."""
    return gate_repo.slower(tmp_path_factory, tmp_path)


def judged(repo: GateRepo, code: int, *args: str) -> dict[str, Any]:
    """Run the gate, which has to end with `code`, and return its report."""
    report = repo.path / ".asv" / "report.json"
    done = repo.gate("--json", str(report), *args)
    assert done.returncode == code, done.stdout
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    assert found["exit"]["code"] == code
    return found | {"output": done.stdout}


def kinds(report: dict[str, Any]) -> dict[str, str]:
    """Return the verdict on each series."""
    return {verdict["series"]: verdict["kind"] for verdict in report["verdicts"]}


def test_regression(slower: GateRepo, tmp_path: Path) -> None:
    """A commit planted 1.5 times slower fails by all three signals, in all three reports."""
    markdown = tmp_path / "report.md"
    found = judged(slower, 1, "--markdown", str(markdown))
    base, head = slower.git("rev-parse", "main"), slower.git("rev-parse", "HEAD")
    assert (found["base"], found["head"]) == (base, head)
    verdicts = {verdict["series"]: verdict for verdict in found["verdicts"]}
    for series in (STEPS, WALK, TIMED):
        assert verdicts[series]["kind"] == "regression"
        assert verdicts[series]["ratio"] == 1.5
    assert "confirmed by a second run" in verdicts[TIMED]["sure"]
    assert "Gate: REGRESSION (exit code 1)" in found["output"]
    assert f"{base[:10]}..{head[:10]}" in found["output"]
    rows = [line for line in markdown.read_text("utf-8").splitlines() if "regression" in line]
    assert len(rows) == 3
    assert all("+50.0 %" in row for row in rows)
    (run,) = recorded_runs(slower.path)[0][-1:]
    assert (run.base, run.head, run.exit, run.wall_s > 0) == (base, head, 1, True)


def test_second_run_measures_nothing_anew(slower: GateRepo) -> None:
    """The same two commits again: judged by what is kept, which stays as it is, byte for byte."""
    kept = slower.content()
    found = judged(slower, 1)
    assert slower.content() == kept
    assert "asv has measured all of it already" in found["output"]
    assert "Timing" not in found["output"]
    assert {kinds(found)[series] for series in (STEPS, WALK, TIMED)} == {"regression"}


def test_fine(repo: GateRepo) -> None:
    """A commit that changes no cost passes, and only the head is measured."""
    head = repo.commit("Words", {"README.md": "words"})
    found = judged(repo, 0)
    assert kinds(found) == {
        STEPS: "unchanged",
        WALK: "unchanged",
        TIMED: "unchanged",
        "counted.track_instructions('later')": "skipped on both",
        "timed('later')": "skipped on both",
    }
    measured = re.findall(r"For stageflow commit (\w+)", found["output"])
    assert [head.startswith(prefix) for prefix in measured] == [True]


def test_main_may_have_moved_on(repo: GateRepo) -> None:
    """The base is where the branch left main: what main won meanwhile does not count."""
    base = repo.git("rev-parse", "HEAD")
    repo.git("switch", "--quiet", "main")
    repo.commit("Faster main", package(BASE_STEPS // 2))
    repo.git("switch", "--quiet", "feature")
    repo.commit("Words", {"README.md": "words"})
    assert judged(repo, 0, "--only", STEPS)["base"] == base


def write(repo: GateRepo, files: dict[str, str]) -> None:
    """Change files of the working tree."""
    for name, text in files.items():
        (repo.path / name).write_text(text, encoding="utf-8")


def test_over_budget(repo: GateRepo) -> None:
    """A series over its budget is listed by name, even if it did not get slower."""
    write(repo, budgets(limit=BASE_STEPS - 1))
    found = judged(repo, 3)
    (over,) = [check for check in found["budgets"] if check["state"] == "over"]
    assert (over["budget"]["series"], over["measured"]) == (STEPS, BASE_STEPS)
    assert "docs/runbook.md#steps" in found["output"]


def test_budgets_of_the_night(repo: GateRepo) -> None:
    """A nightly budget is held, and its benchmark measured, only when that is asked."""
    night = judged(repo, 3, "--nightly", "--no-timed")
    assert "work.track_steps" in kinds(night)
    assert "work.track_steps" not in kinds(judged(repo, 0, "--no-timed"))


def test_accepted(slower: GateRepo) -> None:
    """A known regression passes until its day, and is named; once that is over it fails."""
    text = "version = 1\n"
    for series in (STEPS, WALK, TIMED):
        text += f'[[accepted]]\nbenchmark = "{series}"\nup_to = 1.5\nreason = "worth it"\n'
        text += 'until = 9999-12-31\nowner = "engine"\n'
    write(slower, {"benchmarks/accepted.toml": text})
    assert kinds(judged(slower, 0))[STEPS] == "accepted"
    write(slower, {"benchmarks/accepted.toml": text.replace("9999-12-31", "2001-01-01")})
    found = judged(slower, 1)
    assert any("No longer accepted since 2001-01-01" in note for note in found["notes"])


def test_nothing_matched(repo: GateRepo) -> None:
    """A pattern that no series matches is not fine: code 4."""
    found = judged(repo, 4, "--only", "no.such.thing")
    assert "no benchmark matches" in found["output"]


def test_broken_benchmark(repo: GateRepo) -> None:
    """A package whose work raises breaks its benchmarks of every signal: code 5, with the error."""
    text = "STEPS = 1\n\n\ndef work():\n    raise ZeroDivisionError('planted')\n"
    repo.commit("Broken", {"stageflow/__init__.py": text})
    found = judged(repo, 5)
    assert {kinds(found)[series] for series in (STEPS, WALK, TIMED)} == {"broken"}
    assert "ZeroDivisionError: planted" in next(
        verdict["note"] for verdict in found["verdicts"] if verdict["series"] == TIMED
    )


def test_lost_api(repo: GateRepo) -> None:
    """A head that lacks what the base had is broken, not new and not fine."""
    text = package(BASE_STEPS)["stageflow/__init__.py"].replace("def work", "def walk")
    repo.commit("Renamed", {"stageflow/__init__.py": text})
    found = judged(repo, 5, "--only", "walk")
    assert kinds(found) == {WALK: "lost its API", TIMED: "lost its API"}


CACHED = """


class Cached:
    params, param_names, unit, version = list(OPERATIONS), ["work"], "instructions", "1"

    def setup_cache(self):
        {cache}

    def track_instructions(self, cache, work):
        return track_instructions(work)
"""


def test_only_what_is_asked_is_counted(repo: GateRepo) -> None:
    """One of many that share a costly preparation is measured without it; all with it."""
    counted = benchmark_files()["benchmarks/counted.py"]
    fails = "raise ZeroDivisionError('everything was counted')"
    repo.commit("Cached", {"benchmarks/counted.py": counted + CACHED.format(cache=fails)})
    repo.commit("Slower", package(BASE_STEPS * 2))
    one = "counted.Cached.track_instructions('walk')"
    found = judged(repo, 1, "--only", one)
    assert kinds(found) == {one: "regression"}
    assert found["output"].count("Measuring 1 series") == 2
    assert "asv" not in found["output"]
    assert kinds(judged(repo, 5, "--only", "counted.Cached*"))[one] == "broken"


def test_a_busy_machine_is_a_verdict_of_its_own(repo: GateRepo) -> None:
    """A benchmark that asv stops at its time limit is not called broken: code 4, with the fix."""
    counted = benchmark_files()["benchmarks/counted.py"]
    slow = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while 1: pass'])"
    text = CACHED.format(cache=slow) + "\n    setup_cache.timeout = 0.5\n"
    repo.commit("Cached", {"benchmarks/counted.py": counted + text})
    found = judged(repo, 4, "--only", "counted.Cached*")
    assert {*kinds(found).values()} == {"machine too busy"}
    assert "exit status -256" in found["verdicts"][0]["note"]


def test_new_removed_and_edited(repo: GateRepo) -> None:
    """Series that the base lacks are new, others are removed, and edited files are named."""
    text = operations()["benchmarks/_lib/operations.py"].replace('"walk": "work", ', "")
    slim = budgets()["benchmarks/budgets.toml"].replace("timed('walk')", "timed('later')")
    slim = slim[: slim.rindex("[[without_budget]]")]
    repo.commit(
        "Another work",
        {"benchmarks/_lib/operations.py": text, "benchmarks/budgets.toml": slim}
        | package(BASE_STEPS, added_later=True),
    )
    found = judged(repo, 0)
    assert kinds(found) == {
        STEPS: "unchanged",
        WALK: "removed",
        TIMED: "removed",
        "counted.track_instructions('later')": "new",
        "timed('later')": "new",
    }
    assert any(
        "Edited since the base: benchmarks/_lib/operations.py;" in note for note in found["notes"]
    )


def test_results_of_edited_benchmarks_are_not_reused(repo: GateRepo) -> None:
    """After an edit that asv does not see in the benchmark's own body, all is measured anew."""
    write(
        repo,
        {
            "benchmarks/_lib/operations.py": operations()["benchmarks/_lib/operations.py"]
            + "# edited\n"
        },
    )
    found = judged(repo, 0)
    assert "For stageflow commit" in found["output"]
    assert "Timing" in found["output"]


def test_base_is_head(repo: GateRepo) -> None:
    """On a branch without commits of its own only the budgets are held, which is said."""
    found = judged(repo, 0)
    assert any("same commit" in note for note in found["notes"])
    assert kinds(found)[STEPS] == "measured, not compared"


def test_first_commit(repo: GateRepo) -> None:
    """A first commit has nothing to be compared with: the budgets are held, which is said."""
    repo.git("checkout", "--quiet", "--orphan", "fresh")
    repo.commit("The first", {})
    repo.git("branch", "--force", "main")
    found = judged(repo, 0, "--only", STEPS)
    assert found["base"] is None
    assert any("first commit" in note for note in found["notes"])


def test_uncommitted_changes_are_not_measured(repo: GateRepo) -> None:
    """The gate leaves uncommitted changes out, and says so."""
    (repo.path / "stageflow/__init__.py").write_text(SLOWER["stageflow/__init__.py"])
    found = judged(repo, 0, "--only", STEPS)
    assert any("Uncommitted changes" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("files", "args", "message"),
    [
        (budgets(-1), (), "budgets.toml:13: p50 = -1 is not a cost"),
        ({"benchmarks/budgets.toml": "version = 1"}, (), "has no budget"),
        ({"benchmarks/accepted.toml": "x = 1\nversion = 1"}, (), "accepted.toml:1: nothing"),
        ({"benchmarks/_lib/worker.py": "raise OSError('planted')"}, (), "OSError: planted"),
        ({"benchmarks/exact.py": "raise OSError('planted')"}, (), "cannot be listed"),
        ({}, ("--base", "nowhere"), "no commit 'nowhere'"),
        ({}, ("--head", "nowhere"), "no commit 'nowhere'"),
        (BROKEN_BUILD, (), "could not be built"),
    ],
)
def test_set_up_failed(
    repo: GateRepo, files: dict[str, str], args: tuple[str, ...], message: str
) -> None:
    """An obstacle to judging is an error that names the fix: code 6, never 1."""
    repo.commit("Whatever", files | {"README.md": "words"})
    done = repo.gate(*args)
    assert done.returncode == 6, done.stdout
    assert message in done.stdout[done.stdout.rindex("error: ") :]


def test_no_branch_and_no_history_in_common(repo: GateRepo) -> None:
    """Without the branch, or without a common commit, there is no base: code 6."""
    repo.git("checkout", "--quiet", "--orphan", "stranger")
    repo.commit("Unrelated", {})
    done = repo.gate()
    assert done.returncode == 6
    assert "no commit in common" in done.stdout
    repo.git("branch", "--move", "main", "trunk")
    done = repo.gate()
    assert done.returncode == 6
    assert "no branch 'main'" in done.stdout


def test_bad_arguments(repo: GateRepo) -> None:
    """An unknown argument has a code of its own: 2."""
    assert repo.gate("--nightlyy").returncode == 2


def test_interrupted(repo: GateRepo, tmp_path: Path) -> None:
    """Terminated while asv measures, it ends with 130 and leaves no half result behind."""
    # Its work does not end before the signal has come.
    waits = tmp_path / "waits"
    waits.touch()
    (name, text), *_ = SLOWER.items()
    until = f"    while os.path.exists({str(waits)!r}):\n        time.sleep(0.02)\n    done = 0\n"
    text = text.replace("    done = 0\n", until).replace(
        "STEPS", "import os\nimport time\n\nSTEPS", 1
    )
    assert until in text
    repo.commit("Slower", {name: text})
    with repo.start_pulse("gate") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "For stageflow commit" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 130
    waits.unlink()
    judged(repo, 1)


def test_compare(slower: GateRepo) -> None:
    """Any two measured commits are set side by side, the greatest rise first, timings included."""
    done = slower.pulse("compare", "main", "HEAD")
    assert done.returncode == 0, done.stdout
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert f"{BASE_STEPS:,}" in rows[STEPS]
    assert f"{BASE_STEPS * 3 // 2:,}" in rows[STEPS]
    assert "+50.0 %" in rows[WALK]
    assert "99% interval 1.500 to 1.500" in rows[TIMED]
    back = slower.pulse("compare", "HEAD", "main", "--only", "exact.*").stdout
    assert "-33.3 %" in back
    assert WALK not in back


def test_compare_of_old_history(repo: GateRepo) -> None:
    """Commits that the gate never saw are compared by what the history has of them."""
    old = repo.git("rev-parse", "HEAD~3"), repo.git("rev-parse", "HEAD~2")
    done = repo.pulse("compare", *old)
    assert done.returncode == 0, done.stdout
    assert re.search(r"work\.track_steps +20,000 +25,000 +\+25\.0 %", done.stdout)


def test_compare_never_across_machines(slower: GateRepo) -> None:
    """Results of two machines are named and not compared: code 4."""
    ours = slower.results()[slower.git("rev-parse", "HEAD")[:8]]
    there = ours.parent.with_name("elsewhere") / ours.name
    there.parent.mkdir()
    ours.rename(there)
    there.write_text(there.read_text().replace(f'"{ours.parent.name}"', '"elsewhere"'))
    done = slower.pulse("compare", "main", "HEAD", "--only", "exact.*")
    assert done.returncode == 4, done.stdout
    assert re.search(r"on .*; .* on elsewhere", done.stdout)


def test_compare_of_the_unmeasured(repo: GateRepo) -> None:
    """Commits that nobody measured are not read as equal: code 4."""
    head = repo.commit("Words", {"README.md": "words"})
    done = repo.pulse("compare", "HEAD~1", head)
    assert done.returncode == 4
    assert "measure them first" in done.stdout


def test_budgets(repo: GateRepo) -> None:
    """The table shows each budget beside what was measured of a commit, or that nothing was."""
    done = repo.pulse("budgets")
    assert done.returncode == 0, done.stdout
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert re.search(r"20,000 +200,000 steps +kept", rows["Steps"])
    assert re.search(r"0\.02 +1 ms +kept", rows["A walk"])
    assert "not measured" in rows["Steps by night"]


def test_budgets_that_are_exceeded(repo: GateRepo) -> None:
    """Stored budgets of a commit hold, too: one that is exceeded gives code 3."""
    done = repo.pulse("budgets", "--head", "HEAD~1")
    assert done.returncode == 3, done.stdout
    assert re.search(r"Steps by night .* 25,000 +1 steps +over", done.stdout)
