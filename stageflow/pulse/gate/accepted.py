"""``benchmarks/accepted.toml``: regressions that are known, and accepted for a while."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stageflow.errors.base import did_you_mean
from stageflow.pulse.gate.checked_toml import Key, Settings, Table


@dataclass(frozen=True, slots=True)
class Accepted:
    """A regression that is accepted.

    Attributes:
        series: The series that is slower.
        up_to: The ratio of head to base that is accepted; beyond it, it fails.
        reason: Why it is worth it.
        until: The last day on which it counts.
        owner: Who accepted it.
        line: Where it stands in the file.
    """

    series: str
    up_to: float
    reason: str
    until: dt.date
    owner: str
    line: int

    def counts(self, today: dt.date) -> bool:
        """Whether its time has not run out."""
        return today <= self.until


_KEYS = {
    "benchmark": Key(str),
    "up_to": Key(float),
    "reason": Key(str),
    "until": Key(dt.date),
    "owner": Key(str),
}


def load(path: Path, known: Collection[str] | None) -> tuple[Accepted, ...]:
    """Read and check the accepted regressions; none if there is no such file.

    Args:
        path: The file.
        known: Every series that there is; None to take the file's word for it.

    Raises:
        GateSettingsError: Something is wrong; it names every problem with line and mend.
    """
    if not path.exists():
        return ()
    settings = Settings(path)
    settings.check_top({"accepted": list})
    found = [
        accepted
        for table in settings.tables("accepted", _KEYS)
        if (accepted := _accepted(settings, table, known)) is not None
    ]
    first: dict[str, Accepted] = {}
    for accepted in found:
        earlier = first.setdefault(accepted.series, accepted)
        if earlier is not accepted:
            settings.complain(
                accepted.line,
                f"{accepted.series} is accepted in line {earlier.line} already: remove one",
            )
    settings.finish()
    return tuple(found)


def _accepted(settings: Settings, table: Table, known: Collection[str] | None) -> Accepted | None:
    if not table.sound:
        return None
    values = table.values
    before = len(settings.problems)
    series = values["benchmark"]
    if known is not None and series not in known:
        line = settings.line_of(table, "benchmark")
        settings.complain(line, f"there is no benchmark {series!r}{did_you_mean(series, known)}")
    if not values["up_to"] > 1:
        line = settings.line_of(table, "up_to")
        settings.complain(
            line,
            f"up_to = {values['up_to']} is no rise: write the ratio of head to base that is "
            "accepted, such as 1.15 (inf where the base is 0)",
        )
    if len(settings.problems) > before:
        return None
    return Accepted(
        series=series,
        up_to=float(values["up_to"]),
        reason=values["reason"],
        until=values["until"],
        owner=values["owner"],
        line=table.line,
    )
