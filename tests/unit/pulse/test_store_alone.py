"""A store of telemetry in an empty folder is enough: no clone, no asv, no table of rules."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from stageflow.cli import main
from stageflow.pulse.alerts.cli import AlertExit
from stageflow.pulse.dashboard import PAGE, live_site
from stageflow.pulse.dashboard.cli import CheckExit
from stageflow.pulse.history import AsvProject
from tests.utils.telemetry import run_log, sink_of

RUNS = 600


def without(*missing: str) -> Callable[[str], ModuleSpec | None]:
    """Return a search for modules that finds all but some."""
    find = importlib.util.find_spec
    return lambda name: None if name in missing else find(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one; asv is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", without("asv", "virtualenv"))
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """Ten minutes of runs that fail, a run a second."""
    begin_s = time.time() // 60 * 60 - RUNS - 60
    logs = [run_log(f"{n}", {"a": "boom"}, at_s=begin_s + n) for n in range(RUNS)]
    sink_of(folder / "runs.db", logs).close()
    return folder / "runs.db"


def test_alerts_have_rules(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rules of the package hold for every pipeline."""
    assert main(["pulse", "alert", "--store", store.name]) == AlertExit.FIRING
    assert "FIRING ErrorBudgetBurnsFast: 100 % of the runs of p failed" in capsys.readouterr().out
    assert {path.name for path in store.parent.iterdir()} == {"runs.db", "runs.alerts.db"}


def test_check_names_what_is_wrong(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before alerts are evaluated nothing is, and afterwards the alerts."""
    assert main(["pulse", "check", "--store", store.name]) == CheckExit.OK
    main(["pulse", "alert", "--store", store.name])
    assert main(["pulse", "check", "--store", store.name]) == CheckExit.WRONG
    assert "ErrorBudgetBurnsFast: 100 % of the runs of p failed" in capsys.readouterr().out


def test_the_page_shows_it(store: Path) -> None:
    """Without a published site, the page is served alone."""
    lines: list[str] = []
    project = AsvProject.load(Path(), reads_only=True)
    site, live = live_site(project, store, 3600, store.parent / "alone", lines.append)
    assert (site / PAGE).is_file()
    assert b'"stage":"a"' in live.answer()


def test_an_export_says_that_nothing_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads results, for which asv is not needed."""
    assert main(["pulse", "export"]) == 1
    assert "there are no results in" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_store_that_does_not_exist_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a file nor a state beside it."""
    assert main(["pulse", "alert", "--store", "nope.db"]) == 1
    assert main(["pulse", "check", "--store", "nope.db"]) == 1
    assert "cannot open the telemetry in nope.db" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_simulation_is_not_wrong_now(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown as one, and neither its letters nor its alerts count."""
    logs = [run_log(f"{n}", {"a": "boom"}) for n in range(9)]
    sink_of(folder / "drill.db", logs, "simulation of an outage").close()
    main(["pulse", "alert", "--store", "drill.db"])
    capsys.readouterr()
    assert main(["pulse", "check", "--store", "drill.db"]) == CheckExit.INSUFFICIENT_DATA
    assert "! drill.db holds a simulation, which does not count here." in capsys.readouterr().out
