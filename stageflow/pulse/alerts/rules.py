"""Read ``alerts.toml``: the rules, links and channels of alerts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formataddr, getaddresses
from enum import StrEnum
from pathlib import Path

from stageflow.errors.base import did_you_mean
from stageflow.pulse.gate import Key, Settings, Table, keys_of, p99_limits_ms
from stageflow.telemetry import DURATION_BUCKETS_S
from stageflow.telemetry.database import MINUTE_S

ALERTS_FILE = "alerts.toml"
BUDGETS_FILE = "budgets.toml"
#: The rules of the package, which hold for every pipeline.
DEFAULT = Path(__file__).with_name("default.toml")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SMTPS_PORT = 465
_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")


class Kind(StrEnum):
    """The quantity that a rule evaluates."""

    LATENCY = "latency"
    FIRST_AUDIO = "first_audio"
    ERROR_RATE = "error_rate"
    BURN_RATE = "burn_rate"
    BREAKER_OPEN = "breaker_open"
    DEAD_LETTERS = "dead_letters"
    NO_DATA = "no_data"
    BENCHMARK = "benchmark"


#: The kinds that compare a P99 with that of a budget.
DURATIONS = frozenset({Kind.LATENCY, Kind.FIRST_AUDIO})
#: The kinds of which a value may be unknown: there are too few runs, or a breaker's process died.
KNOWN = DURATIONS | {Kind.ERROR_RATE, Kind.BURN_RATE, Kind.BREAKER_OPEN}


class Severity(StrEnum):
    """How urgent an alert is."""

    CRITICAL = "critical"
    WARNING = "warning"


class Tls(StrEnum):
    """How a connection to a mail server is encrypted: from the start, after STARTTLS, or not."""

    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule on live telemetry.

    Attributes:
        limit: Milliseconds (latency, first audio), a share of runs (error and burn rate), or a
            number of letters; 0 for other kinds.
        for_s: How long the limit has to be exceeded.
        runbook: The section of the runbook.
        window_s, short_window_s: The windows of the measurement; 0 for kinds without one.
        pipeline: The pipeline; None for each one by itself.
        inhibited_by: The rule that says the same and more.
        keep_firing_for_s: How long the limit has not to be exceeded before the alert ends.
        least_runs: With fewer runs in the window, latencies and rates are not judged.
        silent_until_s: No message that it fires is sent before, in seconds since the epoch.
    """

    name: str
    kind: Kind
    limit: float
    for_s: int
    severity: Severity
    owner: str
    runbook: str
    window_s: int = 0
    short_window_s: int = 0
    pipeline: str | None = None
    inhibited_by: str | None = None
    keep_firing_for_s: int = 0
    least_runs: int = 10
    silent_until_s: float = 0.0
    silent_because: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkRule:
    """The rule on the history of benchmarks.

    The limits are ratios: for series without scatter, and for timings, of which the median of
    `window_commits` commits confirms a regression.
    """

    name: str
    counted_limit: float
    timed_limit: float
    window_commits: int
    severity: Severity
    owner: str
    runbook: str
    silent_until_s: float = 0.0
    silent_because: str = ""


@dataclass(frozen=True, slots=True)
class Links:
    """The addresses of the page and of the runbook."""

    page: str
    runbook: str

    def runbook_of(self, section: str) -> str:
        """Return the address of a section of the runbook."""
        return f"{self.runbook}#{section}"


@dataclass(frozen=True, slots=True)
class Slack:
    """A channel of Slack, and the file with the address of its webhook."""

    channel: str
    webhook_file: str


@dataclass(frozen=True, slots=True)
class Email:
    """A mail server, sender and receivers; `user` is None if there is no log-in."""

    host: str
    port: int
    tls: Tls
    sender: str
    to: str
    user: str | None = None
    password_file: str | None = None


@dataclass(frozen=True, slots=True)
class Alerts:
    """The content of the file."""

    rules: tuple[Rule, ...]
    benchmark: BenchmarkRule | None
    links: Links
    slack: Slack | None
    email: Email | None


_COMMON: dict[str, Key] = {
    "kind": Key(Kind),
    "severity": Key(Severity),
    **{name: Key(str) for name in ("name", "owner", "runbook")},
    "silent_until": Key(datetime, required=False),
    "silent_because": Key(str, required=False),
}
_FOR = {
    "for_s": Key(int),
    "keep_firing_for_s": Key(int, required=False),
    "inhibited_by": Key(str, required=False),
}
_WINDOW = {"window_s": Key(int)}
_RATE = _FOR | _WINDOW | {"least_runs": Key(int, required=False)}
_BURN = {"short_window_s": Key(int), "objective": Key(float), "burn": Key(float)}
_DURATION = _RATE | {"pipeline": Key(str), "budget": Key(str)}
_HISTORY = {"counted_limit": Key(float), "timed_limit": Key(float), "window_commits": Key(int)}
_OF_KIND: Mapping[Kind, dict[str, Key]] = {
    Kind.LATENCY: _DURATION,
    Kind.FIRST_AUDIO: _DURATION,
    Kind.ERROR_RATE: _RATE | {"limit": Key(float)},
    Kind.BURN_RATE: _RATE | _BURN,
    Kind.BREAKER_OPEN: _FOR,
    Kind.DEAD_LETTERS: _FOR | {"limit": Key(float)},
    Kind.NO_DATA: _FOR | _WINDOW,
    Kind.BENCHMARK: _HISTORY,
}
#: The keys of all kinds; `_check_keys` checks which belong to which.
_ALERT = _COMMON | {
    name: Key(key.kind, required=False) for keys in _OF_KIND.values() for name, key in keys.items()
}
_EMAIL = keys_of(Email, "sender") | {"from": Key(str)}


def load_alerts(path: Path) -> Alerts:
    """Read and check the rules, with limits from ``budgets.toml`` beside them.

    A file without an alert gets those of the package, so that it need hold only addresses.
    Raise `GateSettingsError`, with each problem's line and fix, if anything is wrong.
    """
    settings = Settings(path)
    settings.check_top({"alert": list, "links": dict, "slack": dict, "email": dict})
    budgets = path.with_name(BUDGETS_FILE)
    limits_ms = p99_limits_ms(budgets) if budgets.exists() else {}
    tables = settings.tables("alert", _ALERT)
    found = [_rule(table, limits_ms) for table in tables]
    _check_names(settings, tables)
    links = settings.table("links", keys_of(Links), required=True)
    slack, email = settings.table("slack", keys_of(Slack)), settings.table("email", _EMAIL)
    if email and email.values.get("tls") is Tls.TLS and email.values.get("port") != SMTPS_PORT:
        text = f"Alertmanager speaks TLS from the start at port {SMTPS_PORT} alone"
        email.complain(f'{text}: write that port, or tls = "{Tls.STARTTLS}"', "tls")
    if email and email.values.get("tls") is Tls.NONE and email.values.get("host") not in LOOPBACK:
        text = f"{Tls.NONE} is for a mail server on this machine, such as 127.0.0.1"
        email.complain(f'{text}: write "{Tls.STARTTLS}"', "tls")
    if email:
        for key in ("from", "to"):
            try:
                mailboxes(email.values.get(key, ""))
            except ValueError as error:
                email.complain(f"{error} is not an address: write it as you@example.org", key)
    settings.finish()
    assert links is not None  # or there was a problem
    ready = None if tables or path == DEFAULT else load_alerts(DEFAULT)
    benchmark = next((rule for rule in found if isinstance(rule, BenchmarkRule)), None)
    return Alerts(
        rules=ready.rules if ready else tuple(rule for rule in found if isinstance(rule, Rule)),
        benchmark=ready.benchmark if ready else benchmark,
        links=Links(**links.values),
        slack=Slack(**slack.values) if slack else None,
        email=Email(sender=email.values.pop("from"), **email.values) if email else None,
    )


def mailboxes(addresses: str) -> str:
    """Return addresses with their domains in ASCII, which every server takes.

    Raise `ValueError` with the first one that is not an address.
    """
    made = []
    for name, address in getaddresses([addresses] if addresses else []):
        user, sign, domain = address.rpartition("@") if "@" in address else (address, "", "")
        try:
            ascii_domain = domain.encode("idna").decode()
        except UnicodeError:
            ascii_domain = ""
        if not re.fullmatch("[!-~]+", user) or bool(sign) != bool(ascii_domain):
            raise ValueError(repr(address or addresses))
        # Python writes a name that is not ASCII without the quotes that these signs need.
        plain = name if name.isascii() else re.sub(r"[][\\()<>@,;:\".]+", " ", name)
        made.append(formataddr((plain, f"{user}{sign}{ascii_domain}")))
    return ", ".join(made)


def _rule(table: Table, limits_ms: Mapping[str, float]) -> Rule | BenchmarkRule | None:
    if table.problems:
        return None
    _check_keys(table)
    _check_figures(table)
    if table.problems:
        return None
    values = dict(table.values)
    if until := values.pop("silent_until", None):
        values["silent_until_s"] = until.timestamp()
    if values["kind"] is Kind.BENCHMARK:
        return BenchmarkRule(**{k: v for k, v in values.items() if k != "kind"})
    limit = _limit(table, limits_ms)
    if limit is None:
        return None
    given = {name: value for name, value in values.items() if name in Rule.__slots__}
    return Rule(**given | {"limit": limit})


def _check_keys(table: Table) -> None:
    kind = table.values["kind"]
    wanted = _COMMON | _OF_KIND[kind]
    for key in table.values:
        if key not in wanted:
            table.complain(f"an alert of kind {kind} has no key {key!r}: remove it", key)
    for key, what in wanted.items():
        if what.required and key not in table.values:
            table.complain(f"an alert of kind {kind} lacks the key {key!r}: add it")
    until = table.values.get("silent_until")
    if (until is None) != ("silent_because" not in table.values):
        table.complain("a silence has an end and a reason: write silent_until and silent_because")
    elif until is not None and until.tzinfo is None:
        table.complain(f"silent_until has no zone: write {until.isoformat()}Z", "silent_until")


def _check_figures(table: Table) -> None:
    values, complain = table.values, table.complain
    if not _NAME.fullmatch(values["name"]):
        complain(f"{values['name']!r} is not a name: write words without spaces, as NoData", "name")
    for key in ("for_s", "keep_firing_for_s", "window_s", "short_window_s"):
        least = MINUTE_S if "window" in key else 0
        if key in values and (values[key] < least or values[key] % MINUTE_S):
            complain(f"{key} = {values[key]} is not whole minutes, as telemetry is: round it", key)
    if values.get("short_window_s", 0) >= values.get("window_s", 1):
        complain("short_window_s has to be shorter than window_s: swap them", "short_window_s")
    if not 0 < values.get("objective", 0.5) < 1:
        complain(f"objective = {values['objective']} is not between 0 and 1", "objective")
    ratios = {"limit": 0, "burn": 1, "counted_limit": 1, "timed_limit": 1, "least_runs": 1}
    for key, least in ratios.items():
        if not least <= values.get(key, least) < math.inf:
            complain(f"{key} = {values[key]} is too small or too large: at least {least}", key)
    if values.get("window_commits", 3) < 3:
        complain("the median of fewer than 3 commits confirms nothing: write 3", "window_commits")


def _limit(table: Table, limits_ms: Mapping[str, float]) -> float | None:
    values = table.values
    if values["kind"] is Kind.BURN_RATE:
        # 14.4 * (1 - 0.999) is a little more than 0.0144.
        return float(round(values["burn"] * (1 - values["objective"]), 12))
    if values["kind"] not in DURATIONS:
        return float(values.get("limit", 0))
    name = values["budget"]
    if name not in limits_ms:
        near = did_you_mean(name, limits_ms)
        table.complain(f"no budget with a p99 in ms has the metric {name!r}{near}", "budget")
        return None
    limit_ms = limits_ms[name]
    if limit_ms / 1000 not in DURATION_BUCKETS_S:
        bounds = ", ".join(f"{bound * 1000:g}" for bound in DURATION_BUCKETS_S)
        table.complain(
            f"the p99 of {name!r}, {limit_ms:g} ms, is not a bound of the histograms: take one of"
            f" {bounds}, or add a bound",
            "budget",
        )
    return limit_ms


def _check_names(settings: Settings, tables: Sequence[Table]) -> None:
    named = [table for table in tables if "name" in table.values]
    settings.check_once(named, lambda table: f"the name {table.values['name']!r} is taken")
    judging = (table for table in tables if table.values.get("kind") is Kind.BENCHMARK)
    settings.check_once(judging, lambda _: f"the kind {Kind.BENCHMARK.value!r} is taken")
    names = {table.values["name"] for table in named}
    for table in tables:
        other = table.values.get("inhibited_by")
        if other is not None and other not in names - {table.values.get("name")}:
            near = did_you_mean(other, names)
            table.complain(f"inhibited_by names no other alert: {other!r}{near}", "inhibited_by")


def moment(seconds: float) -> str:
    """Return a time in seconds since the epoch in words."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def span(seconds: float, units: tuple[str, str, str] = (" h", " min", " s")) -> str:
    """Return a length of time in the largest of hours, minutes, seconds without a fraction."""
    for unit, size in zip(units, (3600, 60), strict=False):
        if seconds >= size and not seconds % size:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}{units[-1]}"


def share(value: float) -> str:
    """Return a share in per cent with three significant digits."""
    return f"{value * 100:.3g} %"


def milliseconds(value: float) -> str:
    """Return a duration with three significant digits, the precision of a histogram."""
    return f"{float(f'{value:.3g}'):,.10g} ms"
