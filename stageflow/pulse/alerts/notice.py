"""Describe alerts: a notice for each alert, and a message for all notices of one evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from stageflow.pulse.alerts import rules
from stageflow.pulse.alerts.conditions import Alert
from stageflow.pulse.alerts.rules import BenchmarkRule, Kind, Links, Rule, moment, span


class Status(StrEnum):
    """Whether an alert begins, is over, or ended for another reason."""

    FIRING = "firing"
    RESOLVED = "resolved"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert as a message shows it, with times in seconds since the epoch.

    `until_s` is None while it fires; `likely`, the stage or commit, is empty if unknown. `page` and
    `runbook` are addresses.
    """

    status: Status
    rule: str
    severity: str
    owner: str
    what: str
    since_s: float
    until_s: float | None
    likely: str
    page: str
    runbook: str

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of a message below `what`, without the addresses."""
        over = "" if self.until_s is None else f", over at {moment(self.until_s)}"
        likely = [f"likely {self.likely}"] if self.likely else []
        since = f"since {moment(self.since_s)}{over}"
        return (since, *likely, f"{self.severity}, owner {self.owner}")


@dataclass(frozen=True, slots=True)
class Message:
    """All notices of one evaluation; those that fire come first."""

    notices: tuple[Notice, ...]

    @property
    def title(self) -> str:
        """The subject, such as ``FIRING 2, RESOLVED 1: NoData, …``."""
        counts = [
            f"{status.upper()} {count}"
            for status in Status
            if (count := sum(notice.status is status for notice in self.notices))
        ]
        names = dict.fromkeys(notice.rule for notice in self.notices)
        return f"{', '.join(counts)}: {', '.join(names)}"

    def to_json(self) -> str:
        """Return the message as text that `from_json` reads."""
        return json.dumps([asdict(notice) for notice in self.notices])

    @classmethod
    def from_json(cls, text: str) -> Message:
        """Return the message that `to_json` wrote."""
        return cls(tuple(Notice(Status(d.pop("status")), **d) for d in json.loads(text)))


def message_of(notices: Sequence[Notice]) -> Message | None:
    """Return one message of some notices; None if there are none."""
    ordered = sorted(notices, key=lambda notice: notice.status is not Status.FIRING)
    return Message(tuple(ordered)) if ordered else None


def notice_of(rule: Rule | BenchmarkRule, alert: Alert, links: Links) -> Notice:
    """Return the notice that an alert fires, or that it is over if it has ended."""
    return Notice(
        Status.FIRING if not alert.ended_s else Status.RESOLVED if alert.back else Status.CLOSED,
        # Names in texts may be of any length, which no message holds.
        *(rule.name, rule.severity, rule.owner, f"{alert.what:.1000}"),
        *(alert.since_s, alert.ended_s, f"{alert.likely:.1000}"),
        *(links.page, links.runbook_of(rule.runbook)),
    )


def notice_of_loss(alert: Alert, at_s: float, links: Links) -> Notice:
    """Return the notice of an alert whose rule was renamed or removed."""
    labels = ", ".join(f"{name} {value}" for name, value in alert.labels) or "all"
    what = f"no rule of this name is left, so it is not judged any more ({labels})"
    return Notice(
        Status.CLOSED,
        *(alert.rule, rules.Severity.WARNING, "unknown", what),
        *(alert.since_s, at_s, alert.likely),
        *(links.page, links.runbook),
    )


def what_of(rule: Rule, alert: Alert) -> str:
    """Return what is wrong, in words."""
    labels = dict(alert.labels)
    if alert.ended_s and not alert.back:
        what = f"fewer than {rule.least_runs} runs ended in {span(rule.window_s)}"
        if rule.kind is Kind.BREAKER_OPEN:
            what = "the circuit breaker has not changed for hours, so its process may have died"
        return f"{' '.join(labels.values())} is not judged any more: {what}"
    figure = rules.milliseconds if rule.kind in rules.DURATIONS else rules.share
    value = f"{alert.value:g}" if rule.kind is Kind.DEAD_LETTERS else figure(alert.value)
    return sentence(rule, value, labels.get("pipeline", "all"), labels.get("provider", ""))


def sentence(rule: Rule, figure: str, pipeline: str, provider: str) -> str:
    """Return what is wrong, in words, with the given figure and names."""
    lasting = f", for {span(rule.for_s)} or longer" if rule.for_s else ""
    over = f"in {span(rule.window_s)}, limit {rules.share(rule.limit)}"
    match rule.kind:
        case Kind.LATENCY | Kind.FIRST_AUDIO:
            what = "P99 latency" if rule.kind is Kind.LATENCY else "P99 time to first audio"
            return (
                f"{what} of {pipeline} is {figure}, limit {rules.milliseconds(rule.limit)}{lasting}"
            )
        case Kind.ERROR_RATE:
            return f"{figure} of the runs of {pipeline} failed {over}{lasting}"
        case Kind.BURN_RATE:
            also = f", and more than that in {span(rule.short_window_s)}, too"
            return f"{figure} of the runs of {pipeline} failed {over}{also}"
        case Kind.BREAKER_OPEN:
            return f"the circuit breaker of {provider} is open{lasting}"
        case Kind.DEAD_LETTERS:
            return f"{figure} dead letters wait, limit {rule.limit:g}{lasting}"
        case _:
            return f"no run has ended in {span(rule.window_s)}{lasting}"
