"""Generate the files of Prometheus, Alertmanager and Grafana that follow from the rules."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from stageflow._utils.extras import install_command
from stageflow.pulse.alerts import rules as model
from stageflow.pulse.alerts.conditions import HOLD_S, SUSPECTS
from stageflow.pulse.alerts.notice import sentence
from stageflow.pulse.alerts.rules import Alerts, Kind, Links, Rule, span
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history import STATIC_DIR

_HEADER = "# Made of benchmarks/alerts.toml by `stageflow pulse rules`: change that, not this.\n\n"
#: How often the rules are evaluated, in seconds; as the built-in evaluator does.
INTERVAL_S = 60


def files(alerts: Alerts) -> Mapping[str, str]:
    """Return the text of each file by its name, or raise `PulseError` if PyYAML is missing."""
    return {
        "rules.yml": _HEADER + as_yaml(rules_file(alerts.rules, alerts.links)),
        "prometheus.yml": (STATIC_DIR / "prometheus.yml").read_text(encoding="utf-8"),
        "alertmanager.yml": _HEADER + as_yaml(alertmanager_file(alerts)),
        "dashboard.json": json.dumps(_dashboard(alerts), indent=2) + "\n",
    }


def as_yaml(content: Any) -> str:
    """Return plain data as YAML; texts of several lines become blocks. See `files` for errors."""
    try:
        import yaml  # noqa: PLC0415 - no other command needs the extra
    except ImportError as error:
        fix = install_command("alerts")
        raise PulseError(f"PyYAML is not installed: install the extra, {fix}") from error

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(content, Dumper=Dumper, sort_keys=False, width=1000, allow_unicode=True))


def rules_file(rules: Sequence[Rule], links: Links, interval_s: float = INTERVAL_S) -> Any:
    """Return the content of a file of rules, evaluated every `interval_s` seconds."""
    found = [_rule(rule, links) for rule in rules]
    return {"groups": [{"name": "stageflow", "interval": length(interval_s), "rules": found}]}


@cache
def _likely() -> Mapping[str, str]:
    return tomllib.loads(Path(__file__).with_name("likely.toml").read_text(encoding="utf-8"))


def _rule(rule: Rule, links: Links) -> dict[str, Any]:
    window = length(rule.short_window_s or rule.window_s)
    kind = Kind.ERROR_RATE if rule.kind is Kind.BURN_RATE else rule.kind
    likely = _likely().get(kind, "").replace("WINDOW", window).replace("SUSPECTS", str(SUSPECTS))
    # As our own messages say it, with the figures left to Prometheus.
    duration = dict.fromkeys(model.DURATIONS, "{{ $value | humanizeDuration }}")
    figures = {**duration, Kind.DEAD_LETTERS: "{{ $value }}"}
    figure = figures.get(rule.kind, "{{ $value | humanizePercentage }}")
    names = "{{ $labels.pipeline }}", "{{ $labels.provider }}"
    return {
        "alert": rule.name,
        "expr": _EXPRESSIONS[rule.kind](rule),
        "for": length(rule.for_s),
        **({"keep_firing_for": length(rule.keep_firing_for_s)} if rule.keep_firing_for_s else {}),
        "labels": {"severity": str(rule.severity), "owner": rule.owner},
        "annotations": {
            "summary": sentence(rule, figure, *names),
            **({"likely": likely} if likely else {}),
            "page_url": links.page,
            "runbook_url": links.runbook_of(rule.runbook),
        },
    }


RUN_SECONDS = "stageflow_run_duration_seconds_bucket"
FIRST_AUDIO_SECONDS = "stageflow_run_first_audio_seconds_bucket"
RUNS = "stageflow_run_total"
BREAKER = "stageflow_breaker_state"
LETTERS = "stageflow_dead_letters_waiting"
#: Return a length of time as Prometheus writes it.
length = partial(span, units=("h", "m", "s"))


def error_rate(window: str, pipeline: str | None = None) -> str:
    """Return the share of failed runs among those that completed or failed."""

    def of(outcomes: str) -> str:
        chosen = _selector(pipeline, f'outcome=~"{outcomes}"')
        return f"sum by (pipeline) (rate({RUNS}{chosen}[{window}]))"

    return f"{of('failed')} / {of('completed|failed')}"


def _selector(pipeline: str | None, *others: str) -> str:
    named = [f"pipeline={json.dumps(pipeline, ensure_ascii=False)}"] if pipeline is not None else []
    matchers = [*named, *others]
    return f"{{{','.join(matchers)}}}" if matchers else ""


def _over_p99(rule: Rule, buckets: str) -> str:
    chosen, window = _selector(rule.pipeline), length(rule.window_s)
    everything = _selector(rule.pipeline, 'le="+Inf"')
    rates = f"sum by (pipeline, le) (rate({buckets}{chosen}[{window}]))"
    figure = f"histogram_quantile(0.99, {rates})"
    return f"{_judged(rule, figure, f'{buckets}{everything}')} > {rule.limit / 1000:g}"


def _error_rate(rule: Rule) -> str:
    ended = _selector(rule.pipeline, 'outcome=~"completed|failed"')
    rates = [_judged(rule, error_rate(length(rule.window_s), rule.pipeline), f"{RUNS}{ended}")]
    if rule.short_window_s:
        rates.append(error_rate(length(rule.short_window_s), rule.pipeline))
    return "\nand\n".join(f"{rate} > {rule.limit:g}" for rate in rates)


def _judged(rule: Rule, figure: str, runs: str) -> str:
    """Return a figure where enough runs ended, and for two minutes after that the last such one."""
    ended = f"sum by (pipeline) (increase({runs}[{length(rule.window_s)}]))"
    figure = f"({figure} and {ended} >= {rule.least_runs})"
    step = length(min(rule.window_s, INTERVAL_S))
    return f"last_over_time({figure}[{length(HOLD_S)}:{step}])" if rule.for_s else figure


def _no_data(rule: Rule) -> str:
    chosen = _selector(rule.pipeline)
    # `vector(0)`: without any series, the sum is empty.
    return f"(sum(increase({RUNS}{chosen}[{length(rule.window_s)}])) or vector(0)) == 0"


#: By kind: return the expression that has a value where a rule's limit is exceeded.
_EXPRESSIONS: Mapping[Kind, Callable[[Rule], str]] = {
    Kind.LATENCY: lambda rule: _over_p99(rule, RUN_SECONDS),
    Kind.FIRST_AUDIO: lambda rule: _over_p99(rule, FIRST_AUDIO_SECONDS),
    Kind.ERROR_RATE: _error_rate,
    Kind.BURN_RATE: _error_rate,
    Kind.BREAKER_OPEN: lambda _: f"max by (provider) ({BREAKER}) > 0",
    # Processes that share a store each report all of its letters.
    Kind.DEAD_LETTERS: lambda rule: f"max({LETTERS}) > {rule.limit:g}",
    Kind.NO_DATA: _no_data,
}


def alertmanager_file(alerts: Alerts) -> Any:
    """Return the content of Alertmanager's configuration.

    Critical alerts go to Slack and e-mail, others to Slack; channels without settings are left out.
    """
    import yaml  # noqa: PLC0415 - `as_yaml` says how to get it

    made = yaml.safe_load((STATIC_DIR / "alertmanager.yml").read_text(encoding="utf-8"))
    quietly, everywhere = made["receivers"]
    if slack := alerts.slack:
        # YAML's alias: both receivers have the same object.
        quietly["slack_configs"][0] |= {
            "api_url_file": slack.webhook_file,
            "channel": slack.channel,
        }
    else:
        del quietly["slack_configs"], everywhere["slack_configs"]
    if email := alerts.email:
        addresses = {"to": email.to, "from": email.sender}
        addresses |= {"smarthost": f"{email.host}:{email.port}"}
        login = {"auth_username": email.user, "auth_password_file": email.password_file}
        known = everywhere["email_configs"][0] | addresses | login
        known["require_tls"] = email.tls is not model.Tls.NONE
        everywhere["email_configs"] = [{k: v for k, v in known.items() if v is not None}]
    else:
        del everywhere["email_configs"]
    made["inhibit_rules"] = [
        {
            "source_matchers": [f'alertname="{rule.inhibited_by}"'],
            "target_matchers": [f'alertname="{rule.name}"'],
            "equal": ["pipeline"],
        }
        for rule in alerts.rules
        if rule.inhibited_by
    ]
    return made


def _dashboard(alerts: Alerts) -> Any:
    made = json.loads((STATIC_DIR / "grafana.json").read_text(encoding="utf-8"))
    for link, address in zip(made["links"], (alerts.links.page, alerts.links.runbook), strict=True):
        link["url"] = address

    def limits(kind: Kind, unit: float) -> set[float]:
        return {rule.limit / unit for rule in alerts.rules if rule.kind is kind}

    limits_of: dict[str, set[float]] = {
        "P99 of runs, by pipeline": limits(Kind.LATENCY, 1000),
        "P99 of first audio, by pipeline": limits(Kind.FIRST_AUDIO, 1000),
        "Error rate, by pipeline": limits(Kind.ERROR_RATE, 1),
        "Dead letters that wait": {1},
    }
    for panel in made["panels"]:
        if limits_s := limits_of.get(panel["title"]):
            fields = panel["fieldConfig"]["defaults"]
            fields["custom"]["thresholdsStyle"]["mode"] = "line"
            steps = fields["thresholds"]["steps"]
            steps += [{"color": "red", "value": limit} for limit in sorted(limits_s)]
    return made
