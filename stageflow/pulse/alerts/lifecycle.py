"""From pending over firing to resolved, with the meaning that Prometheus gives to ``for``.

An alert is pending from the first evaluation that finds its limit exceeded, and fires once that has
lasted for ``for_s`` without a break. One that is pending and no longer exceeded is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from stageflow.pulse.alerts.conditions import Labels, Reading

#: Name of the rule, and of what it exceeded its limit.
AlertKey: TypeAlias = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that exceeds the limit of one rule.

    Attributes:
        rule: Name of the rule.
        labels: Of what.
        since_s: When that was first found, in seconds since the epoch.
        firing_s: Since when it fires; None while it is pending.
        ended_s: When it was found to be over; None until then.
        value: By what it was exceeded at last.
        likely: What is likely to blame.
        told: Whether somebody has been told that it fires.
    """

    rule: str
    labels: Labels
    since_s: float
    firing_s: float | None
    ended_s: float | None
    value: float
    likely: str
    told: bool = False

    @property
    def key(self) -> AlertKey:
        """What makes it this one."""
        return self.rule, self.labels


def advanced(
    rule: str, for_s: float, alerts: Mapping[AlertKey, Alert], found: Iterable[Reading], at_s: float
) -> tuple[Alert, ...]:
    """The alerts of one rule after one evaluation.

    Args:
        rule: Its name.
        for_s: How long its limit has to be exceeded, in seconds.
        alerts: Those that were pending or firing.
        found: What exceeds the limit now.
        at_s: The time of the evaluation, in seconds since the epoch.

    Returns:
        Those that are pending or firing now, and those that fired and are over (with `ended_s`).
    """
    now = {(rule, reading.labels): reading for reading in found}
    after = []
    for key, reading in now.items():
        alert = alerts.get(key) or Alert(rule, reading.labels, at_s, None, None, 0.0, "")
        if alert.firing_s is None and at_s - alert.since_s >= for_s:
            alert = replace(alert, firing_s=at_s)
        after.append(replace(alert, value=reading.value, likely=reading.likely or alert.likely))
    after += [
        replace(alert, ended_s=at_s)
        for key, alert in alerts.items()
        if key[0] == rule and key not in now and alert.firing_s is not None
    ]
    return tuple(after)
