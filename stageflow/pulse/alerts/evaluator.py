"""Evaluates the rules on a file of telemetry, minute by minute, where there is no Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from stageflow.pulse.alerts.conditions import exceeded
from stageflow.pulse.alerts.lifecycle import Alert, AlertKey, advanced
from stageflow.pulse.alerts.notice import Message, Notice, message_of, notice_of, notice_of_loss
from stageflow.pulse.alerts.rules import Links, Rule
from stageflow.pulse.alerts.state import AlertState, AlertStateError
from stageflow.telemetry.sqlite import MINUTE_S
from stageflow.telemetry.store import TelemetryStore

#: A minute is looked at so long after its end: sinks write what they have every few moments.
SETTLE_S = 5.0

#: How far back minutes are made up for that nobody looked at, in seconds.
CATCH_UP_S = 24 * 3600


class Evaluator:
    """Rules, the telemetry they look at, and what is remembered of them.

    Every minute is looked at once and in order, also those in which no evaluator ran: what fires,
    and when, does not depend on when this is called.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        links: Links,
        store: TelemetryStore,
        state: AlertState,
        channels: Sequence[str],
    ) -> None:
        """Choose all parts; `channels` are those that each message waits for in the state."""
        self._rules = {rule.name: rule for rule in rules}
        self._links = links
        self._store = store
        self._state = state
        self._channels = tuple(channels)
        self._source = store.where

    def evaluate(self, now_s: float) -> Message | None:
        """Look at all minutes that have passed, and put what is to be told into the state.

        Returns:
            What there is to tell; None if that is nothing.

        Raises:
            TelemetryFileError: The telemetry cannot be read.
            AlertStateError: The state cannot be read or written, or is ahead of the clock.
        """
        notices: list[Notice] = []
        with self._state.transaction():
            minutes = self._minutes(now_s)
            alerts = self._state.alerts(self._source)
            for at_s in minutes[:1]:
                notices += self._lost(alerts.values(), at_s)
            for at_s in minutes:
                alerts = self._after(alerts, at_s, notices)
            if minutes:
                self._state.keep(self._source, minutes[-1], alerts.values())
            if notices:
                message = message_of(notices)
                self._state.put(message, self._channels, now_s)
        return message if notices else None

    def _minutes(self, now_s: float) -> range:
        """The ends of the minutes to look at, in seconds since the epoch."""
        last = int((now_s - SETTLE_S) // MINUTE_S * MINUTE_S)
        done = self._state.until(self._source)
        if done is None:
            # As if it had run since there is telemetry: what began before is known to last by now.
            done = last - max((rule.for_s for rule in self._rules.values()), default=0) - MINUTE_S
            covered = self._store.covered()
            done = max(done, min(covered.start_s, last) - MINUTE_S) if covered else done
        if done > last + MINUTE_S:
            raise AlertStateError(
                f"{self._state.path} has been evaluated up to {done - last:,.0f} s from now: set "
                "this machine's clock, or give another file with --state"
            )
        return range(int(max(done, last - CATCH_UP_S)) + MINUTE_S, last + 1, MINUTE_S)

    def _lost(self, alerts: Iterable[Alert], at_s: int) -> Iterator[Notice]:
        """The notices of alerts whose rule has gone, for those who were told that they fire."""
        for alert in alerts:
            if alert.told and alert.rule not in self._rules:
                yield notice_of_loss(alert, at_s, self._links)

    def _after(
        self, alerts: dict[AlertKey, Alert], at_s: int, notices: list[Notice]
    ) -> dict[AlertKey, Alert]:
        """The alerts after one more minute; what is to be told of it is added to `notices`."""
        found = [
            alert
            for rule in self._rules.values()
            for alert in advanced(
                rule.name, rule.for_s, alerts, exceeded(rule, self._store, at_s), at_s
            )
        ]
        firing = [alert for alert in found if alert.firing_s is not None and alert.ended_s is None]
        after: dict[AlertKey, Alert] = {}
        for alert in found:
            rule = self._rules[alert.rule]
            if alert.ended_s is not None:
                if alert.told:
                    notices.append(notice_of(rule, alert, self._links))
                continue
            after[alert.key] = alert
            if (
                alert.firing_s is not None
                and not alert.told
                and not _inhibited(rule, alert, firing)
            ):
                after[alert.key] = replace(alert, told=True)
                notices.append(notice_of(rule, alert, self._links))
        return after


def _inhibited(rule: Rule, alert: Alert, firing: Iterable[Alert]) -> bool:
    """Whether an alert of the rule that says the same and more fires for the same."""
    return any(other.rule == rule.inhibited_by and other.labels == alert.labels for other in firing)
