"""The gate's own files of settings are sound, and its documents say what the code does."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from benchmarks._lib.operations import INTERCEPTORS, STAGES
from stageflow.pulse.alerts import load_alerts
from stageflow.pulse.gate import (
    RUNBOOK,
    Budgets,
    Catalogue,
    Exit,
    Gate,
    Kind,
    list_benchmarks,
    load_accepted,
    load_budgets,
    sections_of,
)
from stageflow.pulse.history import AsvProject, Signal

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs/guides/gate.md").read_text(encoding="utf-8")


@functools.cache
def catalogue() -> Catalogue:
    """All series of this repository's benchmarks."""
    return list_benchmarks(AsvProject.load(ROOT))


@functools.cache
def ours() -> Budgets:
    """This repository's budgets, checked against its benchmarks."""
    sections = sections_of(ROOT / RUNBOOK)
    return load_budgets(ROOT / "benchmarks/budgets.toml", catalogue().units, sections)


def test_budgets_fit_the_benchmarks() -> None:
    """Every judged series has a budget, and every budget a series whose unit it fits."""
    assert len(ours().budgets) > 50


def test_acceptances_fit_the_benchmarks() -> None:
    """The accepted regressions name series that there are."""
    load_accepted(ROOT / "benchmarks/accepted.toml", catalogue().units)


@pytest.mark.parametrize(
    ("series", "p50_ms", "p99_ms", "gate"),
    [
        ("timed('build.complex')", 10, 50, Gate.PRE_MERGE),
        ("timed('bag.write')", 0.1, 1, Gate.PRE_MERGE),
        ("voice.Latency.track_turn", 500, 1000, Gate.NIGHTLY),
        ("simulation.VirtualLatency.track_voice_turn", 500, 1000, Gate.NIGHTLY),
        ("chat.Latency.track_turn", 300, 800, Gate.NIGHTLY),
        ("simulation.VirtualLatency.track_chat_turn", 300, 800, Gate.NIGHTLY),
    ],
)
def test_budgets_that_are_promised(series: str, p50_ms: float, p99_ms: float, gate: Gate) -> None:
    """The budgets file has these figures."""
    found = [(b.p50, b.p99, b.unit, b.gate) for b in ours().budgets if b.series == series]
    assert (p50_ms, p99_ms, "ms", gate) in found


def test_each_stage_and_interceptor_has_a_budget() -> None:
    """Each stage of the kernels has one of instructions and one of time, each interceptor one."""
    named = {budget.series for budget in ours().budgets}
    for kernel, stages in STAGES.items():
        for stage in stages:
            assert f"timed('stage.{kernel}.{stage}')" in named
            assert f"counted.Operation.track_instructions('stage.{kernel}.{stage}')" in named
    for interceptor in INTERCEPTORS:
        assert f"counted.Operation.track_instructions('interceptor.{interceptor}')" in named


def test_runbook_budgets_and_alerts_name_the_same() -> None:
    """Each budget's and alert's section is in the runbook; each section belongs to one of them."""
    text = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+)$", text, re.MULTILINE)
    assert len(sections) == len(set(sections))
    alerts = load_alerts(ROOT / "benchmarks/alerts.toml")
    assert alerts.benchmark is not None
    named = {rule.runbook for rule in alerts.rules} | {alerts.benchmark.runbook}
    assert set(sections) == named | {budget.runbook for budget in ours().budgets}


def test_guide_explains_each_exit_code() -> None:
    """The table of exit codes has a row for each code, and no other."""
    assert re.findall(r"^\| (\d+) \|", GUIDE, re.MULTILINE) == [str(int(code)) for code in Exit]


def test_guide_explains_each_verdict_and_signal() -> None:
    """Each verdict that is shown or named, and each signal, has a row."""
    explained = re.findall(r"^\| ([^|]+?) \|", GUIDE, re.MULTILINE)
    words = {word for cell in explained for word in cell.split(", ")}
    shown = set(Kind) - {Kind.UNCHANGED, Kind.ALONE, Kind.FASTER}
    assert shown <= words
    assert set(Signal) <= words
