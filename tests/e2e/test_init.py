"""The project that ``stageflow init`` lays works: its tests, its benchmarks, its gate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.cli import main
from tests.utils.asv_repo import ScratchRepo

TURN = "shop/turn.py"
_CALL = "answer = await ctx.llm.complete("
#: A test of the project, and what breaks the promise that it holds: text of turn.py, and another.
BREAKS = {
    "test_contracts.py::TestCustomer": ("ok(name=", "ok(surname="),
    "test_contracts.py::TestDraft": ("ok(draft=valid", "ok(reply=valid"),
    "test_contracts.py::TestAnswer": ("ok(answer=", "ok(said="),
    "test_properties.py::test_nobody_is_left_without_words": ('else ctx["draft"]', "else name"),
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
        'inputs=["text"],\n    outputs=["draft"]',
        'dependencies=["customer"],\n    inputs=["text"],\n    outputs=["draft"]',
    ),
    "test_simulation.py::test_the_same_seed_gives_the_same_events": (
        _CALL,
        f"await __import__('asyncio').sleep(__import__('time').perf_counter_ns() % 97 / 100)\n"
        f"        {_CALL}",
    ),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ScratchRepo:
    """A project, as it is laid."""
    folder = tmp_path_factory.mktemp("init")
    assert main(["init", str(folder / "shop")]) == 0
    (folder / "home").mkdir()
    return ScratchRepo(folder / "shop", folder / "home")


def run_tests(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run its tests with what a project of its own has installed: no other plugin of pytest."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    no_plugins = [f"-pno:{name}" for name in ("asyncio", "cacheprovider", "xdist", "randomly")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *no_plugins, *args],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_its_tests_pass(shop: ScratchRepo) -> None:
    """All of them, of each kind, and none is skipped."""
    done = run_tests(shop.path)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    listed = run_tests(shop.path, "--collect-only").stdout
    inherited = {
        "::".join(line.removeprefix("tests/").split("::")[:2])
        for line in listed.splitlines()
        if "::" in line
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
    done = run_tests(project, f"tests/{name}")
    assert done.returncode == 1, done.stdout
    assert "failed" in done.stdout.splitlines()[-1]
    assert "SyntaxError" not in done.stdout


def test_its_benchmarks_and_its_gate(shop: ScratchRepo, tmp_path: Path) -> None:
    """The history is published, the gate is fine with the first commit and sees a lost overlap."""
    repo = shop.copy(tmp_path)
    repo.git("init", "--quiet", "--initial-branch", "main")
    repo.commit("A new project", {})
    measured = repo.pulse("bench", "--commits", "1", "--attribute", "rounds=1")
    assert measured.returncode == 0, measured.stdout
    assert "3 measured" in measured.stdout
    assert (repo.path / ".asv/html/central.html").is_file()
    first = repo.pulse("gate")
    assert first.returncode == 0, first.stdout
    assert "4 kept" in first.stdout
    repo.git("switch", "--quiet", "--create", "feature")
    was, becomes = BREAKS["test_simulation.py::test_the_lookup_costs_no_time"]
    text = (repo.path / TURN).read_text(encoding="utf-8")
    repo.commit("One after the other", {TURN: text.replace(was, becomes)})
    second = repo.pulse("gate", "--only", "exact")
    assert second.returncode == 1, second.stdout
    assert "512 to 576 ms" in second.stdout
    assert "docs/runbook.md#turn" in second.stdout
    assert repo.git("status", "--porcelain") == ""
