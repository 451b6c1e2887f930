"""Evidence for the gate's judge, written by hand."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping

from stageflow.pulse.gate import (
    Accepted,
    Budget,
    Evidence,
    Gate,
    Judgement,
    Kind,
    Limits,
    Measured,
    Side,
    Timing,
    Value,
    Verdict,
    judge,
)
from stageflow.pulse.history import Interval

LIMITS = Limits(counted_fail=1.1, counted_warn=1.02, timed_fail=1.2, timed_warn=1.05)
TODAY = dt.date(2030, 6, 15)
EXACT, COUNTED = "exact.track_tasks('voice')", "counted.track_instructions('bag.write')"
TIMED, HISTORY = "timed('bag.write')", "voice.Latency.track_turn"
UNITS = {EXACT: "tasks", COUNTED: "instructions", TIMED: "ns", HISTORY: "seconds"}
BASE, HEAD = "b" * 40, "a" * 40
MACHINE = "m, a processor, Python 3.11"
NAN = math.nan

#: A value, or the ways of having none: NaN (skipped), None (broke), ABSENT (not measured).
ABSENT = "absent"
Given = float | str | None


def measured(commit: str, values: Mapping[str, Given], machine: str = MACHINE) -> Measured:
    """Return asv's results of a commit."""
    known = {
        series: Value(value)
        for series, value in values.items()
        if value is None or isinstance(value, float | int)
    }
    return Measured(commit, machine, known)


def evidence(
    base: Mapping[str, Given] | None = None, head: Mapping[str, Given] | None = None
) -> Evidence:
    """Evidence on two commits; series named by neither are not asked about."""
    base, head = base or {}, head or {}
    return Evidence(
        units={series: UNITS[series] for series in {**base, **head}},
        head=measured(HEAD, head),
        base=measured(BASE, base),
    )


def interval(low: float, high: float) -> Interval:
    """An interval of ratios, of a dozen pairs."""
    return Interval((low + high) / 2, low, high, 0.99, 12)


def timing(
    cpu: Interval | None,
    confirmation: Interval | None = None,
    base: Side | None = None,
    head: Side | None = None,
) -> Timing:
    """A timing whose samples are 100 times 1 µs, unless a side is given."""
    side = Side((1000.0,) * 100)
    return Timing(base or side, head or side, cpu, confirmation)


def timed(found: Timing) -> Evidence:
    """Evidence on the timed series alone."""
    return Evidence(
        units={TIMED: "ns"},
        head=measured(HEAD, {}),
        base=measured(BASE, {}),
        timings={TIMED: found},
    )


def budget(series: str, p50: float, p99: float | None = None, factor: float = 1.0) -> Budget:
    """A budget in the series' own unit, or in the unit that `factor` leads to."""
    unit = UNITS[series]
    return Budget("m", series, unit, factor, p50, p99, Gate.PRE_MERGE, "o", "row", 1)


def accepted(series: str, up_to: float, until: dt.date = TODAY) -> Accepted:
    """A known regression."""
    return Accepted(series, up_to, "worth it", until, "someone", 1)


def judged(
    found: Evidence, *budgets: Budget, known: tuple[Accepted, ...] = (), today: dt.date = TODAY
) -> Judgement:
    """The judgement on some evidence, with the limits above."""
    return judge(found, LIMITS, budgets, known, today)


def only(judgement: Judgement) -> Verdict:
    """The one verdict there is."""
    (verdict,) = judgement.verdicts
    return verdict


def kinds(judgement: Judgement) -> dict[str, Kind]:
    """Return the verdict on each series."""
    return {verdict.series: verdict.kind for verdict in judgement.verdicts}
