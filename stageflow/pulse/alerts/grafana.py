"""A dashboard for Grafana, as code: the same questions as those of Central Pulse's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stageflow.pulse.alerts import promql
from stageflow.pulse.alerts.rules import Alerts, Kind, Rule

UID = "stageflow-pulse"

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 12, 8
_WINDOW = "$__rate_interval"
_OF_STAGES = '{pipeline=~"$pipeline"}'

#: Expressions by what their lines are called.
Lines = Mapping[str, str]


def dashboard(alerts: Alerts) -> Any:
    """The content of the dashboard's file, to be imported or provisioned."""
    panels = [panel | {"id": number} for number, panel in enumerate(_panels(alerts.rules), 1)]
    for place, panel in enumerate(panels):
        row, column = divmod(place, 2)
        panel["gridPos"] = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT}
    return {
        "uid": UID,
        "title": "stageflow",
        "tags": ["stageflow"],
        "timezone": "browser",
        "schemaVersion": 37,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {"type": "link", "title": "Central Pulse", "url": alerts.links.page},
            {"type": "link", "title": "Runbook", "url": alerts.links.runbook},
        ],
        "templating": {"list": [_sources(), _pipelines()]},
        "panels": panels,
    }


def _panels(rules: Sequence[Rule]) -> Iterable[dict[str, Any]]:
    limits_s, first_audio_s = (
        {rule.limit / 1000 for rule in rules if rule.kind is kind}
        for kind in (Kind.LATENCY, Kind.FIRST_AUDIO)
    )
    rates = {rule.limit for rule in rules if rule.kind is Kind.ERROR_RATE}
    yield _alerts()
    yield _lines(
        "P99 of runs, by pipeline",
        "s",
        {"{{pipeline}}": promql.p99(promql.RUN_SECONDS, "pipeline", _OF_STAGES, _WINDOW)},
        limits_s,
    )
    yield _lines(
        "P99 of first audio, by pipeline",
        "s",
        {"{{pipeline}}": promql.p99(promql.FIRST_AUDIO_SECONDS, "pipeline", _OF_STAGES, _WINDOW)},
        first_audio_s,
    )
    of_streams = promql.p99(
        promql.FIRST_ITEM_SECONDS, "pipeline, stage, stream", _OF_STAGES, _WINDOW
    )
    yield _lines("P99 of first items of streams", "s", {"{{stage}} {{stream}}": of_streams})
    yield _lines(
        "P99 of stages",
        "s",
        {"{{stage}}": promql.p99(promql.STAGE_SECONDS, "pipeline, stage", _OF_STAGES, _WINDOW)},
    )
    yield _heatmap()
    yield _lines(
        "Error rate, by pipeline", "percentunit", {"{{pipeline}}": promql.error_rate("5m")}, rates
    )
    failed = f'{promql.STAGES}{{pipeline=~"$pipeline",outcome="failed"}}'
    yield _lines(
        "Failures of stages, by code",
        "ops",
        {"{{stage}} {{error_code}}": f"sum by (stage, error_code) (rate({failed}[{_WINDOW}]))"},
    )
    yield _states()
    yield _lines("Dead letters that wait", "none", {"waiting": f"max({promql.LETTERS})"}, {1})
    ended = f"sum by (pipeline, outcome) (rate({promql.RUNS}{_OF_STAGES}[{_WINDOW}]))"
    yield _lines("Runs", "ops", {"{{pipeline}} {{outcome}}": ended})
    dropped = f"sum by (sink) (rate({promql.DROPPED}[{_WINDOW}]))"
    yield _lines("Events that sinks have lost", "ops", {"{{sink}}": dropped})


def _panel(kind: str, title: str, lines: Lines, **more: Any) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "expr": expr, "legendFormat": name, "datasource": _SOURCE}
        for n, (name, expr) in enumerate(lines.items())
    ]
    return {"type": kind, "title": title, "datasource": _SOURCE, "targets": targets, **more}


def _lines(title: str, unit: str, lines: Lines, limits: Iterable[float] = ()) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": "red", "value": limit} for limit in sorted(limits)]
    shown = {"thresholdsStyle": {"mode": "line" if len(steps) > 1 else "off"}}
    defaults = {
        "unit": unit,
        "min": 0,
        "custom": shown,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    return _panel("timeseries", title, lines, fieldConfig={"defaults": defaults, "overrides": []})


def _heatmap() -> dict[str, Any]:
    rate = f"sum by (le) (increase({promql.RUN_SECONDS}{_OF_STAGES}[{_WINDOW}]))"
    panel = _panel("heatmap", "Durations of runs", {"{{le}}": rate})
    panel["targets"][0]["format"] = "heatmap"
    return panel | {"options": {"calculate": False, "yAxis": {"unit": "s"}}}


def _states() -> dict[str, Any]:
    texts = {0: ("closed", "green"), 1: ("half-open", "orange"), 2: ("open", "red")}
    mapping = {
        "type": "value",
        "options": {str(n): {"text": text, "color": color} for n, (text, color) in texts.items()},
    }
    return _panel(
        "state-timeline",
        "Circuit breakers",
        {"{{provider}}": f"max by (provider) ({promql.BREAKER})"},
        fieldConfig={"defaults": {"mappings": [mapping]}, "overrides": []},
    )


def _alerts() -> dict[str, Any]:
    firing = 'ALERTS{alertstate="firing"}'
    panel = _panel("table", "Alerts that fire", {"": firing})
    panel["targets"][0] |= {"instant": True, "format": "table"}
    return panel


def _sources() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _pipelines() -> dict[str, Any]:
    query = f"label_values({promql.RUNS}, pipeline)"
    return {
        "name": "pipeline",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "pipelines"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
