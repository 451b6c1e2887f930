"""The project that ``stageflow init`` creates works: its tests, its benchmarks, its gate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.cli import main
from stageflow.pulse.alerts import load_alerts
from tests.utils.asv_repo import ROOT, ScratchRepo, install_quickly
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

TURN = "shop/turn.py"
#: A test that fails has failed: what Hypothesis finds need not shrink.
NO_SHRINKING = """
from hypothesis import Phase, settings

settings.register_profile("no shrinking", phases=[Phase.generate])
settings.load_profile("no shrinking")
"""
_CALL = "reply = await ctx.llm.complete("
#: A test of the project, and what breaks the promise that it holds: text of turn.py, and another.
BREAKS = {
    "test_contracts.py::TestCustomer": ('record["name"]', 'record["surname"]'),
    "test_contracts.py::TestDraft": ("valid_answer(reply)", "valid_answer(None)"),
    "test_contracts.py::TestAnswer": ('f"{customer}: ', 'f"{surname}: '),
    "test_properties.py::test_nobody_is_left_without_words": ("else draft", 'else ""'),
    "test_faults.py::test_without_the_model_there_is_an_apology": ("ConnectionError", "KeyError"),
    "test_faults.py::test_without_the_database_the_answer_has_no_name": (
        "required=False",
        "required=True",
    ),
    "test_faults.py::test_a_model_that_hangs_ends_the_turn_in_time": (
        "timeout_s=10.0",
        "timeout_s=30.0",
    ),
    "test_simulation.py::test_the_lookup_costs_no_time": (
        "@stage(kind=StageKind.AGENT, ",
        '@stage(kind=StageKind.AGENT, after=["customer"], ',
    ),
    "test_simulation.py::test_the_same_seed_gives_the_same_events": (
        _CALL,
        "globals().setdefault('calls', []).append(0)\n"
        "        await __import__('asyncio').sleep(len(globals()['calls']) / 100)\n"
        f"        {_CALL}",
    ),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ScratchRepo:
    """A project, as it is laid."""
    folder = tmp_path_factory.mktemp("init")
    assert main(["init", str(folder / "shop"), "--stageflow", str(ROOT)]) == 0
    (folder / "home").mkdir()
    return ScratchRepo(folder / "shop", folder / "home")


def run_tests(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run its tests with what a project of its own has installed: no other plugin of pytest."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    no_plugins = [f"-pno:{name}" for name in ("asyncio", "cacheprovider", "xdist", "randomly")]
    return run_command(
        [sys.executable, "-m", "pytest", "-q", *no_plugins, *args], cwd=project, env=environment
    )


def test_its_tests_pass(shop: ScratchRepo) -> None:
    """All of them, of each kind, and none is skipped."""
    done = run_tests(shop.path, "-vv")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.lower()
    inherited = {
        "::".join(line.removeprefix("tests/").split()[0].split("::")[:2])
        for line in done.stdout.splitlines()
        if "::" in line and "PASSED" in line
    }
    assert inherited == set(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
def test_each_of_its_tests_goes_red(shop: ScratchRepo, tmp_path: Path, name: str) -> None:
    """A test of the project fails, and does not merely break, once its promise is not kept."""
    project = shop.copy(tmp_path).path
    was, becomes = BREAKS[name]
    text = (project / TURN).read_text(encoding="utf-8")
    assert text.count(was) == 1
    (project / TURN).write_text(text.replace(was, becomes), encoding="utf-8")
    (project / "conftest.py").write_text(NO_SHRINKING, encoding="utf-8")
    done = run_tests(project, f"tests/{name}")
    assert done.returncode == 1, done.stdout
    assert "failed" in done.stdout.splitlines()[-1]
    assert "SyntaxError" not in done.stdout


def test_a_budget_whose_section_is_missing_is_named(shop: ScratchRepo, tmp_path: Path) -> None:
    """Where the runbook has nothing on what is exceeded, nobody would know what to do."""
    repo = shop.copy(tmp_path)
    repo.git("init", "--quiet", "--initial-branch", "main")
    runbook = (repo.path / "docs/runbook.md").read_text(encoding="utf-8")
    repo.commit("A new project", {"docs/runbook.md": runbook.replace("## turn\n", "## turns\n")})
    done = repo.pulse("budgets")
    assert done.returncode == 6, done.stdout
    assert "docs/runbook.md has no section 'turn'" in done.stdout
    assert "did you mean 'turns'?" in done.stdout


def test_its_benchmarks_and_its_gate(shop: ScratchRepo, tmp_path: Path) -> None:
    """The history is published, the gate is fine with the first commit and sees a lost overlap."""
    repo = shop.copy(tmp_path)
    repo.git("init", "--quiet", "--initial-branch", "main")
    # A budget of time holds on the machine that it was measured on, and this may be a slower one.
    budgets = (repo.path / "benchmarks/budgets.toml").read_text(encoding="utf-8")
    slow = budgets.replace("p50 = 2\np99 = 20\n", "p50 = 2000\np99 = 20000\n")
    assert slow != budgets
    repo.commit("A new project", {"benchmarks/budgets.toml": slow})
    measured = repo.pulse("bench", "--commits", "1", "--attribute", "rounds=1")
    assert measured.returncode == 0, measured.stdout
    assert "3 measured" in measured.stdout
    by_hand = repo.asv("publish")
    assert by_hand.returncode == 0, by_hand.stdout
    assert (repo.path / ".asv/html/central.html").is_file()
    commits = (repo.path / ".asv/html/commits.html").read_text(encoding="utf-8")
    assert f'id="{repo.git("rev-parse", "--short=8", "HEAD")}"' in commits
    first = repo.pulse("gate", "--no-timed", "--only", "exact")
    assert first.returncode == 0, first.stdout
    assert "Figures of budgets: 2 kept." in first.stdout
    repo.git("switch", "--quiet", "--create", "feature")
    was, becomes = BREAKS["test_simulation.py::test_the_lookup_costs_no_time"]
    text = (repo.path / TURN).read_text(encoding="utf-8")
    # A seventh of a turn, of which no exact figure knows.
    call = '    return f"{customer}: {draft}"'
    assert call in text
    text = text.replace(was, becomes).replace(call, f"    sum(range(3_000))\n{call}")
    install_quickly(repo.path)
    repo.commit("One after the other, and a little more work", {TURN: text})
    second = repo.pulse("gate")
    assert second.returncode == 1, second.stdout
    assert "512 to 576 ms" in second.stdout
    assert "docs/runbook.md#turn" in second.stdout
    assert "Figures of budgets: 1 over, 3 kept." in second.stdout
    if shutil.which("valgrind"):
        assert "instructions('cost.Turn.time_turn')  regression" in second.stdout
    assert "4 figures of 3 budgets" in repo.pulse("budgets").stdout
    assert repo.git("status", "--porcelain") == ""


def test_its_alerts_are_read(shop: ScratchRepo) -> None:
    """The rules are sound, and each has a section in the runbook."""
    rules = load_alerts(shop.path / "benchmarks/alerts.toml")
    runbook = (shop.path / "docs/runbook.md").read_text(encoding="utf-8")
    assert rules.benchmark is not None
    for section in (rules.benchmark.runbook, *(rule.runbook for rule in rules.rules)):
        assert f"\n## {section}\n" in runbook


def test_its_tests_pass_beside_other_plugins(shop: ScratchRepo) -> None:
    """A plugin of pytest that warns at its start does not end the run."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider", "tests/test_faults.py"]
    done = run_command(command, cwd=shop.path, env=environment)
    assert done.returncode == 0, done.stdout
