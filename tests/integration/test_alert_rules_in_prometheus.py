"""The generated files under Prometheus' and Alertmanager's own tools, with the table of cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stageflow.cli import main
from stageflow.pulse.alerts import as_yaml, files
from stageflow.telemetry import DURATION_BUCKETS_S
from tests.utils.alert_cases import (
    CASES,
    FAIR_MS,
    FAST_MS,
    ROOT,
    SLOW_MS,
    STREAMING,
    Case,
    Stretch,
    our_alerts,
    rule_of,
)
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

#: Samples a minute, as the generated configuration collects them.
SAMPLES = 4
STATES = {"closed": 0, "half_open": 1, "open": 2}


def tool(*command: str | Path) -> str:
    """Return the text that a tool prints; it has to be content."""
    done = run_command([*map(str, command)])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_generated_files_are_those_of_their_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files in the repository match the rules; the command names a file that does not."""
    kept = ROOT / "docs/ops"
    made = files(our_alerts())
    assert {path.name for path in kept.iterdir()} == set(made)
    for name, text in made.items():
        assert (kept / name).read_text(encoding="utf-8") == text, "run: stageflow pulse rules"
    arguments = ["--rules", str(ROOT / "benchmarks/alerts.toml"), "--into", str(tmp_path)]
    assert main(["pulse", "rules", *arguments]) == 0
    assert main(["pulse", "rules", *arguments, "--check"]) == 0
    (tmp_path / "rules.yml").write_text("groups: []\n")
    assert main(["pulse", "rules", *arguments, "--check"]) == 1
    assert f"missing or outdated in {tmp_path}: rules.yml" in capsys.readouterr().err


def test_generated_files_are_valid() -> None:
    """Promtool and amtool accept what is in the repository."""
    ops = ROOT / "docs/ops"
    assert "SUCCESS" in tool("promtool", "check", "rules", ops / "rules.yml")
    assert "SUCCESS" in tool("promtool", "check", "config", ops / "prometheus.yml")
    assert "SUCCESS" in tool("amtool", "check-config", ops / "alertmanager.yml")


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=NoData", "severity=critical"], "slack-and-email"),
        (["alertname=DeadLettersWaiting", "severity=warning"], "slack"),
    ],
)
def test_severity_decides_on_the_route(labels: list[str], receiver: str) -> None:
    """Critical alerts go to both channels, all others to Slack."""
    config = ROOT / "docs/ops/alertmanager.yml"
    routes = tool("amtool", "config", "routes", "test", "--config.file", config, *labels)
    assert routes.strip() == receiver


def test_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    """Every expression of the dashboard parses, and no panel lies upon another."""
    dashboard = json.loads((ROOT / "docs/ops/dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) == len(dashboard["panels"])
    rules = [
        {"record": f"asked_{n}", "expr": expr.replace("$__rate_interval", "1m")}
        for n, expr in enumerate(expressions)
    ]
    path = tmp_path / "asked.yml"
    path.write_text(as_yaml({"groups": [{"name": "asked", "rules": rules}]}))
    assert f"{len(expressions)} rules found" in tool("promtool", "check", "rules", path)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def counters(stretch: Stretch) -> Iterator[tuple[str, float]]:
    """Return the growth of each counter in one minute of a stretch."""
    usual = stretch.runs - stretch.fair - stretch.slow - stretch.failed
    ended = {FAST_MS: usual, FAIR_MS: stretch.fair, SLOW_MS: stretch.slow}
    pipeline = f'pipeline="{stretch.pipeline}"'
    if stretch.pipeline == STREAMING:
        # As `voice_log` has it: to hear takes a quarter of the time to the first sound.
        streams = f'{pipeline},stage="tts"'
        for name, labels, share in (
            ("run_first_audio", pipeline, 1.0),
            ("stage_first_item", f'{streams},stream="sound"', 0.75),
            ("stage_duration", f'{pipeline},stage="stt"', 0.25),
            ("stage_duration", streams, 7.75),
            ("run_duration", pipeline, 8.0),
        ):
            yield from buckets(name, labels, {share * ms: n for ms, n in ended.items()})
    else:
        took = {**ended, 0.0: stretch.failed}
        yield from buckets("run_duration", pipeline, took)
        yield from buckets("stage_duration", f'{pipeline},stage="llm"', took)
    completed = stretch.runs - stretch.failed
    yield f'stageflow_run_total{{{pipeline},outcome="completed"}}', completed
    yield f'stageflow_run_total{{{pipeline},outcome="failed"}}', stretch.failed
    code = 'stage="llm",outcome="failed",error_code="provider_timeout"'
    yield f"stageflow_stage_total{{{pipeline},{code}}}", stretch.failed


def buckets(name: str, labels: str, took: Mapping[float, int]) -> Iterator[tuple[str, float]]:
    """Return the growth of a histogram's buckets for these durations in milliseconds."""
    for bound_s in (*DURATION_BUCKETS_S, float("inf")):
        bound = "+Inf" if bound_s == float("inf") else f"{bound_s:g}"
        below = sum(count for ms, count in took.items() if ms <= bound_s * 1000)
        yield f'stageflow_{name}_seconds_bucket{{{labels},le="{bound}"}}', below


def input_series(case: Case) -> list[dict[str, str]]:
    """The metrics of a case, as promtool reads them."""
    values: dict[str, list[str]] = {}
    totals: dict[str, float] = {}
    for minute, stretch in case.timeline:
        for name, growth in counters(stretch):
            if not stretch.up:
                totals[name] = 0.0
                # The last of them is the first sample of the next process.
                values.setdefault(name, ["_"] * (minute == 0)).append(f"_x{SAMPLES - 2} 0")
                continue
            before = totals.get(name, 0.0)
            step = growth / SAMPLES
            first = "0 " if minute == 0 else ""
            values.setdefault(name, []).append(f"{first}{before + step}+{step}x{SAMPLES - 1}")
            totals[name] = before + growth
        gauges = {
            'stageflow_breaker_state{provider="llm"}': STATES[stretch.breaker],
            "stageflow_dead_letters_waiting": stretch.letters,
        }
        for name, value in gauges.items():
            first = "0 " if minute == 0 else ""
            values.setdefault(name, []).append(f"{first}{value}x{SAMPLES - 1}")
    return [{"series": name, "values": " ".join(found)} for name, found in values.items()]


def promtool_test(case: Case) -> dict[str, Any]:
    """A test that asks at the end of each minute whether the rule of a case fires."""
    expr = f'sum by (pipeline, provider) (ALERTS{{alertname="{case.rule}",alertstate="firing"}})'
    labels = f'{{{case.label[0]}="{case.label[1]}"}}' if case.label else "{}"
    fires = [{"labels": labels, "value": 1}]
    return {
        "name": str(case),
        "interval": f"{60 // SAMPLES}s",
        "input_series": input_series(case),
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": f"{minute}m",
                "exp_samples": fires if case.fires_at(minute) else [],
            }
            for minute in range(case.minutes + 1)
        ],
    }


def test_prometheus_agrees_with_the_table(tmp_path: Path) -> None:
    """Each case fires and is resolved at the minute at which our own evaluator says so."""
    tests = [promtool_test(case) for case in CASES]
    path = tmp_path / "cases.yml"
    rules = str(ROOT / "docs/ops/rules.yml")
    content = {"rule_files": [rules], "evaluation_interval": "1m", "tests": tests}
    path.write_text(as_yaml(content))
    tool("promtool", "test", "rules", path)


def test_annotations_say_everything(tmp_path: Path) -> None:
    """They have cause, value, limit, likely stage, page and runbook."""
    expected = {
        "VoiceLatencyOverBudget": (
            "P99 latency of voice is 1.6s, limit 1,000 ms, for 5 min or longer",
            "stage llm, P99 1.6s",
        ),
        "FirstAudioOverBudget": (
            "P99 time to first audio of streaming_voice is 880ms, limit 500 ms, for 5 min or"
            " longer",
            "stage tts to sound, P99 620ms; stage stt, P99 160ms",
        ),
        "ErrorRateHigh": (
            "1.667% of the runs of voice failed in 1 min, limit 1 %, for 5 min or longer",
            "stage llm, provider_timeout",
        ),
        "BreakerOpen": ("the circuit breaker of llm is open, for 5 min or longer", None),
        "DeadLettersWaiting": ("2 dead letters wait, limit 0, for 15 min or longer", None),
    }
    tests = []
    for name, (summary, likely) in expected.items():
        case = next(c for c in CASES if c.rule == name and len(c.expected) == 2)
        rule, label = rule_of(case), dict([case.label]) if case.label else {}
        annotations = {
            "summary": summary,
            **({"likely": likely} if likely else {}),
            "page_url": "http://127.0.0.1:8765/central.html",
            "runbook_url": f"http://127.0.0.1:8765/runbook.html#{rule.runbook}",
        }
        alert = {
            "exp_labels": {"severity": str(rule.severity), "owner": rule.owner, **label},
            "exp_annotations": annotations,
        }
        at = {"eval_time": f"{case.expected[0][0]}m", "alertname": name, "exp_alerts": [alert]}
        tests.append(
            {
                "interval": f"{60 // SAMPLES}s",
                "input_series": input_series(case),
                "alert_rule_test": [at],
            }
        )
    path = tmp_path / "annotations.yml"
    rules = str(ROOT / "docs/ops/rules.yml")
    content = {"rule_files": [rules], "evaluation_interval": "1m", "tests": tests}
    path.write_text(as_yaml(content))
    tool("promtool", "test", "rules", path)
