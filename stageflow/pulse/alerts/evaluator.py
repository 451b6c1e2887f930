"""Evaluate the rules on telemetry minute by minute, without Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stageflow.pulse.alerts import notice as words
from stageflow.pulse.alerts.conditions import CONDITIONS, HOLD_S, Alert, AlertKey, advanced
from stageflow.pulse.alerts.notice import Message, Notice
from stageflow.pulse.alerts.rules import KNOWN, Links, Rule
from stageflow.pulse.alerts.state import AlertState
from stageflow.pulse.errors import PulseError
from stageflow.telemetry import TelemetryStore
from stageflow.telemetry.database import MINUTE_S

#: How long after its end a minute is evaluated, in seconds: sinks write with a delay.
SETTLE_S = 5.0
#: How far back missed minutes are evaluated, in seconds.
CATCH_UP_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Rules with the telemetry they are evaluated on and the state of their alerts.

    Every minute is evaluated once and in order, also those in which no evaluator ran, so what
    fires and when does not depend on when this is called. Each message is stored for each of the
    `channels`.
    """

    rules: Sequence[Rule]
    links: Links
    store: TelemetryStore
    state: AlertState
    channels: Sequence[str]

    def evaluate(self, now_s: float) -> Message | None:
        """Evaluate all minutes that have passed, and store the message that follows, if any."""
        notices: list[Notice] = []
        with self.state.transaction():
            self.state.adopt(self.store.where)
            done, minutes = self.state.until(self.store.where), self._minutes(now_s)
            if not minutes:
                return None
            alerts = self.state.alerts(self.store.where)
            if done is not None and done < minutes[0] - MINUTE_S:
                # It is unknown whether their limits were exceeded in the minutes between.
                alerts = {key: alert for key, alert in alerts.items() if alert.firing_s is not None}
            notices += [
                words.notice_of_loss(alert, minutes[0], self.links)
                for alert in alerts.values()
                if alert.told and alert.rule not in {rule.name for rule in self.rules}
            ]
            for at_s in minutes:
                alerts = self._after(alerts, at_s, notices)
            self.state.keep(self.store.where, minutes[-1], alerts.values())
            message = words.message_of(notices)
            if message:
                self.state.put(message, self.channels, now_s)
        return message

    def _minutes(self, now_s: float) -> range:
        """Return the ends of the minutes to evaluate, in seconds since the epoch."""
        last = int((now_s - SETTLE_S) // MINUTE_S * MINUTE_S)
        done = self.state.until(self.store.where)
        if done is None:
            # Telemetry from before the first evaluation counts towards ``for``.
            done = last - max((rule.for_s for rule in self.rules), default=0) - MINUTE_S
            covered = self.store.covered()
            done = max(done, min(covered.start_s, last) - MINUTE_S) if covered else done
        if done > last + MINUTE_S:
            raise PulseError(
                f"{self.state.path} has been evaluated up to {done - last:,.0f} s from now: set "
                "this machine's clock, or give another file with --state",
                code="pulse_alert_state",
            )
        return range(int(max(done, last - CATCH_UP_S)) + MINUTE_S, last + 1, MINUTE_S)

    def _after(
        self, alerts: dict[AlertKey, Alert], at_s: int, notices: list[Notice]
    ) -> dict[AlertKey, Alert]:
        """Return the alerts after one more minute, and add what is to be said to `notices`."""
        rules = {rule.name: rule for rule in self.rules}
        found = [
            replace(
                alert,
                what=words.what_of(rule, alert),
                runbook=rule.runbook,
                owner=rule.owner,
                kind=rule.kind,
            )
            for rule in self.rules
            for readings in [CONDITIONS[rule.kind](rule, self.store, at_s)]
            for alert in advanced(
                *(rule.name, alerts, readings, at_s),
                for_s=rule.for_s,
                keep_s=rule.keep_firing_for_s,
                hold_s=min(rule.for_s, HOLD_S) if rule.kind in KNOWN else None,
            )
        ]
        firing = {alert.key for alert in found if alert.firing_s is not None and not alert.ended_s}
        after: dict[AlertKey, Alert] = {}
        for alert in found:
            rule = rules[alert.rule]
            # An inhibited alert is not sent while the rule that says more fires for the same.
            inhibited = (rule.inhibited_by, alert.labels) in firing
            quiet = inhibited or at_s < rule.silent_until_s or alert.clear_s is not None
            tells = alert.told if alert.ended_s else not (alert.told or quiet)
            if tells and alert.firing_s is not None:
                notices.append(words.notice_of(rule, alert, self.links))
            if alert.ended_s is None:
                told = alert.told or (tells and alert.firing_s is not None)
                after[alert.key] = replace(alert, told=told)
        return after
