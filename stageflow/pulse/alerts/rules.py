"""``benchmarks/alerts.toml``: when somebody is called, and how they are reached."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from stageflow.errors.base import did_you_mean
from stageflow.pulse.gate.budgets import p99_limits_ms
from stageflow.pulse.gate.checked_toml import Key, Settings, Table
from stageflow.telemetry.buckets import DURATION_BUCKETS_S
from stageflow.telemetry.sqlite import MINUTE_S

ALERTS_FILE = "alerts.toml"
BUDGETS_FILE = "budgets.toml"

#: The port of mail servers that speak TLS from the start.
SMTPS_PORT = 465

E = TypeVar("E", bound=StrEnum)

_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")


class Kind(StrEnum):
    """What a rule looks at."""

    LATENCY = "latency"
    FIRST_AUDIO = "first_audio"
    ERROR_RATE = "error_rate"
    BURN_RATE = "burn_rate"
    BREAKER_OPEN = "breaker_open"
    DEAD_LETTERS = "dead_letters"
    NO_DATA = "no_data"
    BENCHMARK = "benchmark"


#: Kinds of which the P99 of a duration is held, by the p99 of a budget.
DURATIONS = frozenset({Kind.LATENCY, Kind.FIRST_AUDIO})


class Severity(StrEnum):
    """Whether it wakes somebody."""

    CRITICAL = "critical"
    WARNING = "warning"


class Tls(StrEnum):
    """How a connection to a mail server is encrypted: from the start, or after asking for it."""

    TLS = "tls"
    STARTTLS = "starttls"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule on live telemetry.

    Attributes:
        name: Its name, such as ``NoData``.
        kind: What it looks at.
        limit: What has to be exceeded: milliseconds (latency, first audio), a share of runs (error
            and burn rate), a number of letters; 0 where the kind itself says it.
        window_s: Over what it is taken, in seconds; 0 for what has a state at each moment.
        short_window_s: The second window of a burn rate, in seconds; else 0.
        for_s: For how long it has to be exceeded, in seconds.
        pipeline: Whose runs; None for each pipeline by itself.
        severity: Whether it wakes somebody.
        owner: Who answers for it.
        runbook: The section that says what to do.
        inhibited_by: The rule that says the same and more.
    """

    name: str
    kind: Kind
    limit: float
    window_s: int
    short_window_s: int
    for_s: int
    pipeline: str | None
    severity: Severity
    owner: str
    runbook: str
    inhibited_by: str | None


@dataclass(frozen=True, slots=True)
class BenchmarkRule:
    """The rule on the benchmarks' history.

    Attributes:
        name, severity, owner, runbook: As those of `Rule`.
        counted_limit: Ratio beyond which what does not scatter has regressed.
        timed_limit: The same for what is timed.
        window_commits: Of how many commits the medians are that confirm what is timed.
    """

    name: str
    counted_limit: float
    timed_limit: float
    window_commits: int
    severity: Severity
    owner: str
    runbook: str


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses of the page and of the runbook."""

    page: str
    runbook: str

    def runbook_of(self, section: str) -> str:
        """The address of a section of the runbook."""
        return f"{self.runbook}#{section}"


@dataclass(frozen=True, slots=True)
class Slack:
    """A channel, and the file that holds the address of the webhook into it."""

    channel: str
    webhook_file: str


@dataclass(frozen=True, slots=True)
class Email:
    """A mail server, and who writes whom; `user` and `password_file` are None for one without."""

    host: str
    port: int
    tls: Tls
    sender: str
    to: str
    user: str | None
    password_file: str | None


@dataclass(frozen=True, slots=True)
class Alerts:
    """The content of the file."""

    rules: tuple[Rule, ...]
    benchmark: BenchmarkRule | None
    links: Links
    slack: Slack | None
    email: Email | None

    @property
    def runbooks(self) -> frozenset[str]:
        """The sections of the runbook that the rules name."""
        sections = {rule.runbook for rule in self.rules}
        return frozenset(sections | ({self.benchmark.runbook} if self.benchmark else set()))


_COMMON: dict[str, Key] = {
    name: Key(str) for name in ("name", "kind", "severity", "owner", "runbook")
}
_FOR = {"for_s": Key(int), "inhibited_by": Key(str, required=False)}
_WINDOW = {"window_s": Key(int)}
_DURATION = _FOR | _WINDOW | {"pipeline": Key(str), "budget": Key(str)}
_OF_KIND: Mapping[Kind, dict[str, Key]] = {
    Kind.LATENCY: _DURATION,
    Kind.FIRST_AUDIO: _DURATION,
    Kind.ERROR_RATE: _FOR | _WINDOW | {"limit": Key(float)},
    Kind.BURN_RATE: _FOR
    | _WINDOW
    | {"short_window_s": Key(int), "objective": Key(float), "burn": Key(float)},
    Kind.BREAKER_OPEN: _FOR,
    Kind.DEAD_LETTERS: _FOR | {"limit": Key(float)},
    Kind.NO_DATA: _FOR | _WINDOW,
    Kind.BENCHMARK: {
        "counted_limit": Key(float),
        "timed_limit": Key(float),
        "window_commits": Key(int),
    },
}
#: Any key that an alert of some kind has; which belong to which kind is looked at afterwards.
_ALERT = _COMMON | {
    name: Key(key.kind, required=False) for keys in _OF_KIND.values() for name, key in keys.items()
}
_LINKS = {"page": Key(str), "runbook": Key(str)}
_SLACK = {"channel": Key(str), "webhook_file": Key(str)}
_EMAIL = {
    "host": Key(str),
    "port": Key(int),
    "tls": Key(str),
    "from": Key(str),
    "to": Key(str),
    "user": Key(str, required=False),
    "password_file": Key(str, required=False),
}


def load(path: Path) -> Alerts:
    """Read and check the rules, and the budgets beside them that they take limits from.

    Raises:
        GateSettingsError: Something is wrong; it names every problem with line and mend.
    """
    settings = Settings(path)
    settings.check_top({"alert": list, "links": dict, "slack": dict, "email": dict})
    limits_ms = p99_limits_ms(path.with_name(BUDGETS_FILE))
    tables = settings.tables("alert", _ALERT)
    found = [_rule(settings, table, limits_ms) for table in tables]
    _check_names(settings, tables)
    links, slack, email = (
        next(iter(settings.tables(name, keys)), None)
        for name, keys in (("links", _LINKS), ("slack", _SLACK), ("email", _EMAIL))
    )
    if links is None:
        settings.complain(1, f"[links] is missing: write it with {' and '.join(_LINKS)}")
    tls = _chosen(settings, email, "tls", Tls) if email else None
    if email and tls is Tls.TLS and email.values.get("port") != SMTPS_PORT:
        line = settings.line_of(email, "tls")
        text = f"Alertmanager speaks TLS from the start at port {SMTPS_PORT} alone"
        settings.complain(line, f'{text}: write that port, or tls = "{Tls.STARTTLS}"')
    settings.finish()
    assert links is not None  # or there was a problem
    regressed = [rule for rule in found if isinstance(rule, BenchmarkRule)]
    return Alerts(
        rules=tuple(rule for rule in found if isinstance(rule, Rule)),
        benchmark=regressed[0] if regressed else None,
        links=Links(**links.values),
        slack=Slack(**slack.values) if slack else None,
        email=_email(email.values, tls) if email and tls else None,
    )


def _email(values: Mapping[str, Any], tls: Tls) -> Email:
    given = {name: values[name] for name in ("host", "port", "to")}
    user, password_file = values.get("user"), values.get("password_file")
    return Email(tls=tls, sender=values["from"], user=user, password_file=password_file, **given)


def _rule(
    settings: Settings, table: Table, limits_ms: Mapping[str, float]
) -> Rule | BenchmarkRule | None:
    """The rule that a table says; None, and complaints, if it says none."""
    before = len(settings.problems)
    kind = _chosen(settings, table, "kind", Kind)
    severity = _chosen(settings, table, "severity", Severity)
    if not table.sound or kind is None or severity is None:
        return None
    _check_keys(settings, table, kind)
    _check_figures(settings, table)
    if len(settings.problems) > before:
        return None
    values = table.values
    common = {name: values[name] for name in ("name", "owner", "runbook")}
    if kind is Kind.BENCHMARK:
        figures = {name: values[name] for name in _OF_KIND[kind]}
        return BenchmarkRule(severity=severity, **common, **figures)
    limit = _limit(settings, table, kind, limits_ms)
    if limit is None:
        return None
    return Rule(
        kind=kind,
        limit=limit,
        window_s=values.get("window_s", 0),
        short_window_s=values.get("short_window_s", 0),
        for_s=values["for_s"],
        pipeline=values.get("pipeline"),
        severity=severity,
        inhibited_by=values.get("inhibited_by"),
        **common,
    )


def _chosen(settings: Settings, table: Table, key: str, choices: type[E]) -> E | None:
    """The word that a key names; None, and a complaint, if there is no such word."""
    value = table.values.get(key)
    if value is None or value in list(choices):
        return None if value is None else choices(value)
    line, words = settings.line_of(table, key), " or ".join(f'"{word}"' for word in choices)
    settings.complain(line, f"{key} = {value!r} is not known: write {words}")
    return None


def _check_keys(settings: Settings, table: Table, kind: Kind) -> None:
    """A table has the keys of its kind, and no others."""
    wanted = _COMMON | _OF_KIND[kind]
    for key in table.values:
        if key not in wanted:
            line = settings.line_of(table, key)
            settings.complain(line, f"an alert of kind {kind} has no key {key!r}: remove it")
    for key, what in wanted.items():
        if what.required and key not in table.values:
            settings.complain(table.line, f"an alert of kind {kind} lacks the key {key!r}: add it")


def _check_figures(settings: Settings, table: Table) -> None:
    values = table.values

    def complain(key: str, problem: str) -> None:
        settings.complain(settings.line_of(table, key), problem)

    if not _NAME.fullmatch(values["name"]):
        complain("name", f"{values['name']!r} is no name: write words without a space, as NoData")
    for key in ("for_s", "window_s", "short_window_s"):
        least = 0 if key == "for_s" else MINUTE_S
        if key in values and (values[key] < least or values[key] % MINUTE_S):
            complain(key, f"{key} = {values[key]} is not whole minutes, as telemetry is: round it")
    if values.get("short_window_s", 0) >= values.get("window_s", 1):
        complain("short_window_s", "short_window_s has to be shorter than window_s: exchange them")
    if not 0 < values.get("objective", 0.5) < 1:
        complain("objective", f"objective = {values['objective']} is no share between 0 and 1")
    for key, least in (("limit", 0), ("burn", 1), ("counted_limit", 1), ("timed_limit", 1)):
        if not least <= values.get(key, least) < math.inf:
            complain(key, f"{key} = {values[key]} is too small or too large: at least {least}")
    if values.get("window_commits", 3) < 3:
        complain("window_commits", "the median of fewer than 3 commits confirms nothing: write 3")


def _limit(
    settings: Settings, table: Table, kind: Kind, limits_ms: Mapping[str, float]
) -> float | None:
    values = table.values
    if kind is Kind.BURN_RATE:
        # 14.4 * (1 - 0.999) is a little more than 0.0144.
        return float(round(values["burn"] * (1 - values["objective"]), 12))
    if kind not in DURATIONS:
        return float(values.get("limit", 0))
    line, name = settings.line_of(table, "budget"), values["budget"]
    if name not in limits_ms:
        near = did_you_mean(name, limits_ms)
        settings.complain(line, f"no budget with a p99 in ms has the metric {name!r}{near}")
        return None
    limit_ms = limits_ms[name]
    if limit_ms / 1000 not in DURATION_BUCKETS_S:
        bounds = ", ".join(f"{bound * 1000:g}" for bound in DURATION_BUCKETS_S)
        settings.complain(
            line,
            f"the p99 of {name!r}, {limit_ms:g} ms, is no bound of the histograms, so that nobody "
            f"could tell what is above it: take one of {bounds}, or add a bound",
        )
        return None
    return limit_ms


def _check_names(settings: Settings, tables: Sequence[Table]) -> None:
    """Each name is one alert's, one alert judges benchmarks, and what inhibits another is there."""
    lines: dict[str, int] = {}
    for table in tables:
        name, kind = table.values.get("name", ""), table.values.get("kind", "")
        for key in (f"name {name!r}", *([f"kind {kind!r}"] if kind == Kind.BENCHMARK else [])):
            earlier = lines.setdefault(key, table.line)
            if earlier != table.line:
                text = f"the {key} is taken in line {earlier} already: remove or rename one"
                settings.complain(table.line, text)
    names = {table.values.get("name", "") for table in tables}
    for table in tables:
        other = table.values.get("inhibited_by")
        if other is not None and other not in names - {table.values.get("name")}:
            text = f"inhibited_by names no other alert: {other!r}{did_you_mean(other, names)}"
            settings.complain(settings.line_of(table, "inhibited_by"), text)
