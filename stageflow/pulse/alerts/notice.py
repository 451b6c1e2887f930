"""What somebody is told: one notice for each alert, and one message for all of one evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from stageflow.pulse.alerts.lifecycle import Alert
from stageflow.pulse.alerts.rules import DURATIONS, Kind, Links, Rule, Severity
from stageflow.pulse.alerts.words import milliseconds, moment, share, span


class Status(StrEnum):
    """Whether it begins or ends."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Notice:
    """One alert as somebody is told of it.

    Attributes:
        status: Whether it fires, or is over.
        rule: Name of the rule.
        severity: That of the rule.
        owner: Who answers for it.
        what: What is wrong, how much of it, and against which limit.
        since_s: Since when, in seconds since the epoch.
        until_s: When it was over; None while it fires.
        likely: The likely stage or commit; empty if that is not known.
        page, runbook: Addresses.
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
        """What is to be said besides `what`, one thing a line; addresses are not among it."""
        said = [f"since {moment(self.since_s)}"]
        if self.until_s is not None:
            said[0] += f", over at {moment(self.until_s)}"
        if self.likely:
            said.append(f"likely {self.likely}")
        return (*said, f"{self.severity}, owner {self.owner}")


@dataclass(frozen=True, slots=True)
class Message:
    """Everything that one evaluation has to say.

    Attributes:
        notices: One for each alert; those that fire first.
    """

    notices: tuple[Notice, ...]

    @property
    def title(self) -> str:
        """A line that says what it is about, such as ``FIRING 2, RESOLVED 1: NoData, …``."""
        counts = [
            f"{status.upper()} {count}"
            for status in Status
            if (count := sum(notice.status is status for notice in self.notices))
        ]
        names = dict.fromkeys(notice.rule for notice in self.notices)
        return f"{', '.join(counts)}: {', '.join(names)}"

    def to_json(self) -> str:
        """The message as text that `from_json` reads."""
        return json.dumps([asdict(notice) for notice in self.notices])

    @classmethod
    def from_json(cls, text: str) -> Message:
        """The message that `to_json` wrote."""
        return message_of([Notice(Status(d.pop("status")), **d) for d in json.loads(text)])


def message_of(notices: Sequence[Notice]) -> Message:
    """One message of some notices."""
    return Message(tuple(sorted(notices, key=lambda notice: notice.status is Status.RESOLVED)))


def notice_of(rule: Rule, alert: Alert, links: Links) -> Notice:
    """What is told of an alert: that it is over if it has ended, else that it fires."""
    return Notice(
        status=Status.FIRING if alert.ended_s is None else Status.RESOLVED,
        rule=rule.name,
        severity=rule.severity,
        owner=rule.owner,
        what=_what(rule, alert),
        since_s=alert.since_s,
        until_s=alert.ended_s,
        likely=alert.likely,
        page=links.page,
        runbook=links.runbook_of(rule.runbook),
    )


_FIGURES: Mapping[Kind, Callable[[float], str]] = {Kind.DEAD_LETTERS: "{:g}".format}


def notice_of_loss(alert: Alert, at_s: float, links: Links) -> Notice:
    """What is told of an alert whose rule was renamed or removed: that nobody looks any more."""
    labels = ", ".join(f"{name} {value}" for name, value in alert.labels) or "all"
    return Notice(
        status=Status.RESOLVED,
        rule=alert.rule,
        severity=Severity.WARNING,
        owner="whoever changed the rules",
        what=f"no rule of this name is left, so nobody looks any more ({labels})",
        since_s=alert.since_s,
        until_s=at_s,
        likely=alert.likely,
        page=links.page,
        runbook=links.runbook,
    )


def _what(rule: Rule, alert: Alert) -> str:
    values: dict[str, Any] = dict(alert.labels)
    figure = milliseconds if rule.kind in DURATIONS else _FIGURES.get(rule.kind, share)
    return sentence(
        rule, figure(alert.value), values.get("pipeline", "all"), values.get("provider", "")
    )


def sentence(rule: Rule, figure: str, pipeline: str, provider: str) -> str:
    """What is wrong, in words; whoever says it fills in the figure and the names."""
    lasting = f", for {span(rule.for_s)} or longer"
    over = f"in {span(rule.window_s)}, limit {share(rule.limit)}"
    match rule.kind:
        case Kind.LATENCY | Kind.FIRST_AUDIO:
            what = "P99 latency" if rule.kind is Kind.LATENCY else "P99 time to first audio"
            return f"{what} of {pipeline} is {figure}, limit {milliseconds(rule.limit)}{lasting}"
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
