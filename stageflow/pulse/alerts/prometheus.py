"""Prometheus' own files: the rules, and a configuration to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stageflow.pulse.alerts.conditions import SUSPECTS
from stageflow.pulse.alerts.notice import sentence
from stageflow.pulse.alerts.promql import (
    STAGE_SECONDS,
    STAGES,
    before_first_audio,
    expression,
    length,
)
from stageflow.pulse.alerts.rules import DURATIONS, Kind, Links, Rule

#: How often the rules are looked at, as the embedded evaluator does.
INTERVAL_S = 60

#: How often metrics are collected, in seconds: several times in the shortest window.
SCRAPE_S = 15

_PIPELINE = "{{ $labels.pipeline }}"
_PERCENT = "{{ $value | humanizePercentage }}"


def rules_file(rules: Sequence[Rule], links: Links, interval_s: float = INTERVAL_S) -> Any:
    """The content of a file of rules.

    Args:
        rules: The rules.
        links: Where page and runbook are.
        interval_s: How often they are looked at, in seconds.
    """
    group = {
        "name": "stageflow",
        "interval": length(interval_s),
        "rules": [_rule(rule, links) for rule in rules],
    }
    return {"groups": [group]}


def config_file(scrape_s: float = SCRAPE_S) -> Any:
    """A configuration that collects the metrics of one process, and tells Alertmanager."""
    return {
        "global": {"scrape_interval": length(scrape_s), "evaluation_interval": length(INTERVAL_S)},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]},
        "scrape_configs": [
            {"job_name": "stageflow", "static_configs": [{"targets": ["127.0.0.1:9464"]}]}
        ],
    }


def _rule(rule: Rule, links: Links) -> dict[str, Any]:
    likely = _likely(rule)
    return {
        "alert": rule.name,
        "expr": expression(rule),
        "for": length(rule.for_s),
        "labels": {"severity": str(rule.severity), "owner": rule.owner},
        "annotations": {
            "summary": _summary(rule),
            **({"likely": likely} if likely else {}),
            "page_url": links.page,
            "runbook_url": links.runbook_of(rule.runbook),
        },
    }


def _summary(rule: Rule) -> str:
    """As our own messages say it, with the figures left to Prometheus."""
    duration = dict.fromkeys(DURATIONS, "{{ $value | humanizeDuration }}")
    figure = {**duration, Kind.DEAD_LETTERS: "{{ $value }}"}.get(rule.kind, _PERCENT)
    return sentence(rule, figure, _PIPELINE, "{{ $labels.provider }}")


def _likely(rule: Rule) -> str:
    """A template that asks Prometheus for the stage that is to blame."""
    short = length(rule.short_window_s or rule.window_s)
    if rule.kind is Kind.LATENCY:
        slowest = (
            "topk(1, histogram_quantile(0.99, sum by (stage, le)"
            f" (rate({STAGE_SECONDS}{{pipeline=%q}}[{short}]))))"
        )
        said = ", P99 {{ . | first | value | humanizeDuration }}"
        return _asked(slowest, said)
    if rule.kind is Kind.FIRST_AUDIO:
        before = before_first_audio("{pipeline=%[1]q}", short)
        # The label is not there, so empty, of a stage without streams.
        stream = '{{ with $one | label "stream" }} to {{ . }}{{ end }}'
        took = "P99 {{ $one | value | humanizeDuration }}"
        each = f'stage {{{{ $one | label "stage" }}}}{stream}, {took}'
        said = f"{{{{ range $n, $one := . }}}}{{{{ if $n }}}}; {{{{ end }}}}{each}{{{{ end }}}}"
        return _of_query(f"sort_desc(topk({SUSPECTS}, {before}))", said)
    if rule.kind in (Kind.ERROR_RATE, Kind.BURN_RATE):
        worst = (
            "topk(1, sum by (stage, error_code)"
            f' (rate({STAGES}{{pipeline=%q,outcome=\\"failed\\"}}[{short}])))'
        )
        return _asked(worst, ', {{ . | first | label "error_code" }}')
    return ""


def _asked(query: str, said: str) -> str:
    return _of_query(query, f'stage {{{{ . | first | label "stage" }}}}{said}')


def _of_query(query: str, said: str) -> str:
    """What is said of what a query about the pipeline finds; nothing if that is nothing."""
    return f'{{{{ with printf "{query}" $labels.pipeline | query }}}}{said}{{{{ end }}}}'
