"""The limits that are promised, read from the files that the gate and the alerts work with."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stageflow.pulse.alerts.regressions import regressions
from stageflow.pulse.alerts.rules import Alerts, Kind, load_alerts
from stageflow.pulse.gate import Exit, Gate, Limits, judge
from stageflow.pulse.gate.budgets import p99_limits_ms
from stageflow.pulse.history import Commit, History, Series
from tests.utils.gate import COUNTED, EXACT, TIMED, TODAY, evidence, interval, timed, timing

ROOT = Path(__file__).parents[3]
BUDGETS = ROOT / "benchmarks/budgets.toml"
TABLE: dict[str, Any] = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
LIMITS = Limits(**TABLE["limits"])


@pytest.fixture(scope="module")
def alerts() -> Alerts:
    """The rules by which somebody is called."""
    return load_alerts(ROOT / "benchmarks/alerts.toml")


PROMISED = [
    ("Pipeline build", "timed('build.complex')", 10, 50, Gate.PRE_MERGE),
    ("ContextBag write, more than 10,000 a second", "timed('bag.write')", 0.1, 1, Gate.PRE_MERGE),
    ("Voice pipeline", "voice.Latency.track_turn", 500, 1000, Gate.NIGHTLY),
    ("Chat pipeline", "chat.Latency.track_turn", 300, 800, Gate.NIGHTLY),
]


@pytest.mark.parametrize(("metric", "series", "p50", "p99", "gate"), PROMISED)
def test_budgets_promised_to_users(
    metric: str, series: str, p50: float, p99: float, gate: str
) -> None:
    """Median and 99th percentile of what users wait for, and when they are held."""
    (budget,) = [one for one in TABLE["budget"] if one["metric"] == metric]
    assert (budget["benchmark"], budget["unit"]) == (series, "ms")
    assert (budget["p50"], budget["p99"], budget["gate"]) == (p50, p99, gate)


@pytest.mark.parametrize(
    ("ratio", "code"), [(1.101, Exit.REGRESSION), (1.1, Exit.REGRESSION), (1.05, Exit.OK)]
)
def test_the_gate_fails_a_rise_of_ten_per_cent(ratio: float, code: Exit) -> None:
    """In what is counted; a rise by half of that passes, so that the limit is not nothing."""
    found = evidence({COUNTED: 10_000.0}, {COUNTED: 10_000.0 * ratio})
    assert judge(found, LIMITS, (), (), TODAY).exit is code


def test_the_gate_fails_what_rises_for_certain() -> None:
    """An exact figure may not rise at all, a time not by a fifth, where that is certain twice."""
    exact = evidence({EXACT: 100.0}, {EXACT: 100.1})
    assert judge(exact, LIMITS, (), (), TODAY).exit is Exit.REGRESSION
    slower = timed(timing(interval(1.201, 1.3), interval(1.201, 1.3)))
    assert judge(slower, LIMITS, (), (), TODAY).exit is Exit.REGRESSION


@pytest.mark.parametrize(
    ("series", "commits"), [(COUNTED, 1), ("engine.Runs.track_chain", 9), (TIMED, 9)]
)
@pytest.mark.parametrize(("ratio", "fires"), [(1.201, True), (1.1, False)])
def test_an_alert_fires_beyond_twenty_per_cent(
    alerts: Alerts, series: str, commits: int, ratio: float, fires: bool
) -> None:
    """At once in what is counted, and with a window of commits in what is timed."""
    assert alerts.benchmark is not None
    values: list[float | None] = [*[1000.0] * 9, *[1000.0 * ratio] * commits]
    names = [Commit(f"{number:040x}", number, "") for number in range(len(values))]
    history = History(tuple(names), (Series(series, "u", values),))
    assert bool(regressions(history, alerts.benchmark, (), TODAY)) is fires


def test_alerts_on_a_running_system(alerts: Alerts) -> None:
    """More than 1 % of errors, or a P99 over its budget, for five minutes."""
    errors = [rule for rule in alerts.rules if rule.kind is Kind.ERROR_RATE]
    assert [(rule.limit, rule.for_s, rule.window_s) for rule in errors] == [(0.01, 300, 60)]
    latency = {rule.pipeline: rule for rule in alerts.rules if rule.kind is Kind.LATENCY}
    limits_ms = p99_limits_ms(BUDGETS)
    for pipeline, metric, p99_ms in (
        ("voice", "Voice pipeline", 1000.0),
        ("chat", "Chat pipeline", 800.0),
    ):
        rule = latency[pipeline]
        assert (rule.limit, rule.for_s, rule.window_s) == (p99_ms, 300, 60)
        assert limits_ms[metric] == p99_ms
    assert alerts.slack is not None
    assert alerts.email is not None


def test_generated_rules_say_the_same() -> None:
    """Prometheus evaluates the same limits, for the same five minutes."""
    text = (ROOT / "docs/ops/rules.yml").read_text(encoding="utf-8")
    found = dict(itertools.pairwise(re.split(r"- alert: (\w+)\n", text)))
    limits = {"ErrorRateHigh": 0.01, "VoiceLatencyOverBudget": 1, "ChatLatencyOverBudget": 0.8}
    for name, limit in limits.items():
        assert "for: 5m" in found[name]
        assert re.search(rf"> {limit}$", found[name], re.MULTILINE)


def test_what_is_compared_and_kept() -> None:
    """The base is main, measured in an environment of its own, and results stay in the clone."""
    settings = json.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8"))
    assert settings["branches"] == ["main"]
    assert settings["results_dir"] == ".asv/results"
    assert settings["benchmark_dir"] == "benchmarks"


@pytest.mark.parametrize(
    ("workflow", "command"),
    [
        ("gate", 'make gate BASE="$BASE"'),
        ("nightly", "make gate BASE=HEAD~1 NIGHTLY=1"),
        ("pages", "make bench"),
        ("pages", "make alert"),
    ],
)
def test_somebody_runs_it(workflow: str, command: str) -> None:
    """The gate, its night, the history and the alert on it are steps of a workflow."""
    text = (ROOT / f".github/workflows/{workflow}.yml").read_text(encoding="utf-8")
    assert re.search(rf"^ +- run: {re.escape(command)}", text, re.MULTILINE)
